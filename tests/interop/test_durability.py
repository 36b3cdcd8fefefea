"""What a restart and a kill leave: definitions, confirmed messages, settlements, the redelivered flag."""

import collections
import random
import threading
import time

import pika
import pytest

from support import PERSISTENT, bodies, closes_channel, get, is_empty, props, ready

pytestmark = pytest.mark.ours("the server is restarted and killed")


def channel_of(own):
    return pika.BlockingConnection(own.endpoint.params()).channel()


def restart(own, end: str):
    own.stop() if end == "stop" else own.kill()
    own.start()
    return channel_of(own)


both = pytest.mark.parametrize("end", ["stop", "kill"])


@both
def test_definitions(server, end):
    own = server()
    own.start()
    ch = channel_of(own)
    ch.exchange_declare("x", "topic", durable=True, arguments={"alternate-exchange": "amq.fanout"})
    ch.exchange_declare("hash", "x-consistent-hash", durable=True)
    ch.exchange_declare("transient", "topic", durable=False)
    ch.queue_declare("q", durable=True, arguments={"x-max-length": 5, "x-dead-letter-exchange": "x"})
    ch.queue_declare("transient", durable=False)
    ch.queue_declare("gone", durable=True)
    ch.queue_bind("q", "x", "a.#", {"n": 1})
    ch.queue_bind("q", "x", "unbound")
    ch.exchange_bind("x", "amq.direct", "k")
    ch.queue_unbind("q", "x", "unbound")
    ch.queue_delete("gone")
    ch = restart(own, end)
    ch.exchange_declare("x", "topic", durable=True, arguments={"alternate-exchange": "amq.fanout"})
    ch.exchange_declare("hash", "x-consistent-hash", durable=True)
    ch.queue_declare("q", durable=True, arguments={"x-max-length": 5, "x-dead-letter-exchange": "x"})
    for act in [
        lambda c: c.exchange_declare("transient", passive=True),
        lambda c: c.queue_declare("transient", passive=True),
        lambda c: c.queue_declare("gone", passive=True),
    ]:
        with closes_channel(404, "NOT_FOUND"):
            act(channel_of(own))
    ch.basic_publish("x", "a.b", b"bound")
    ch.basic_publish("x", "unbound", b"not bound")
    ch.basic_publish("amq.direct", "k", b"not to q")
    assert bodies(ch, "q", 1) == [b"bound"]
    assert is_empty(ch, "q")


@both
def test_confirmed_messages(server, end):
    own = server()
    own.start()
    ch = channel_of(own)
    ch.queue_declare("q", durable=True)
    ch.queue_declare("other", durable=True)
    ch.confirm_delivery()
    for n in range(200):
        ch.basic_publish("", "q", b"%d" % n, props(delivery_mode=2, headers={"n": n}, message_id=str(n)))
    ch.basic_publish("", "q", b"transient", props(delivery_mode=1))
    big = bytes(range(256)) * 8192
    ch.basic_publish("", "other", big, PERSISTENT)
    ch = restart(own, end)
    got = [get(ch, "q") for _ in range(200)]
    assert [body for _, _, body in got] == [b"%d" % n for n in range(200)]
    assert [p.headers["n"] for _, p, _ in got] == list(range(200))
    assert is_empty(ch, "q"), "a transient message does not survive"
    assert get(ch, "other")[2] == big
    if end == "kill":
        assert all(m.redelivered for m, _, _ in got)


@both
def test_settlements(server, end):
    own = server()
    own.start()
    ch = channel_of(own)
    ch.queue_declare("q", durable=True)
    ch.confirm_delivery()
    for n in range(100):
        ch.basic_publish("", "q", b"%d" % n, PERSISTENT)
    for n in range(100):
        method, _, _ = get(ch, "q", auto_ack=False)
        if n % 3 == 0:
            ch.basic_ack(method.delivery_tag)
    # A settlement is durable with the next commit: a confirmed publish is one.
    ch.basic_publish("", "q", b"100", PERSISTENT)
    ch = restart(own, end)
    expected = [b"%d" % n for n in range(100) if n % 3] + [b"100"]
    assert bodies(ch, "q", len(expected)) == expected
    assert is_empty(ch, "q")


def test_the_delivered_come_back_flagged(server):
    own = server()
    own.start()
    ch = channel_of(own)
    ch.queue_declare("q", durable=True)
    ch.confirm_delivery()
    for n in range(3):
        ch.basic_publish("", "q", b"%d" % n, PERSISTENT)
    get(ch, "q", auto_ack=False)
    ch = restart(own, "stop")
    got = [get(ch, "q") for _ in range(3)]
    assert [body for _, _, body in got] == [b"0", b"1", b"2"]
    assert got[0][0].redelivered


def test_time_to_live_goes_on_while_down(server):
    own = server()
    own.start()
    ch = channel_of(own)
    ch.queue_declare("q", durable=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    ch.queue_declare("dead", durable=True)
    ch.confirm_delivery()
    ch.basic_publish("", "q", b"x", props(delivery_mode=2, expiration="300"))
    own.stop()
    time.sleep(0.5)
    own.start()
    ch = channel_of(own)
    _, properties, body = get(ch, "dead")
    assert body == b"x" and properties.headers["x-death"][0]["reason"] == "expired"


def test_priorities_and_deaths_survive(server):
    own = server()
    own.start()
    ch = channel_of(own)
    arguments = {"x-max-priority": 5, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    ch.queue_declare("q", durable=True, arguments=arguments)
    ch.queue_declare("dead", durable=True)
    ch.confirm_delivery()
    for priority in [1, 5, 3]:
        ch.basic_publish("", "q", b"%d" % priority, props(delivery_mode=2, priority=priority))
    method, _, _ = get(ch, "q", auto_ack=False)
    ch.basic_reject(method.delivery_tag, requeue=False)
    ch.queue_declare("dead", passive=True)
    ch = restart(own, "stop")
    assert bodies(ch, "q", 2) == [b"3", b"1"]
    _, properties, body = get(ch, "dead")
    assert body == b"5" and properties.headers["x-death"][0]["reason"] == "rejected"


def test_committed_transactions_survive(server):
    own = server()
    own.start()
    ch = channel_of(own)
    for q in ["a", "b"]:
        ch.queue_declare(q, durable=True)
    ch.tx_select()
    for q in ["a", "b"]:
        ch.basic_publish("", q, b"committed", PERSISTENT)
    ch.tx_commit()
    ch.basic_publish("", "a", b"not committed", PERSISTENT)
    ch = restart(own, "kill")
    for q in ["a", "b"]:
        assert bodies(ch, q, 1) == [b"committed"]
        assert is_empty(ch, q)


def test_users_vhosts_and_policies_survive(server):
    from admin import WaypostAdmin

    own = server()
    own.start()
    admin = WaypostAdmin(own)
    admin.add_vhost("v")
    admin.add_user("u", "secret")
    admin.set_permissions("u", "v", read="")
    admin.set_policy("p", "^limited", {"max-length": 1}, vhost="v")
    own.kill()
    own.start()
    ch = pika.BlockingConnection(own.endpoint.params(user="u", password="secret", virtual_host="v")).channel()
    ch.queue_declare("limited", durable=True)
    for n in range(3):
        ch.basic_publish("", "limited", b"%d" % n)
    assert ready(ch, "limited") == 1
    with closes_channel(403, "ACCESS_REFUSED"):
        ch.basic_get("limited")


class Load:
    """Publishes with confirms and consumes with acknowledgements until the connection breaks; knows what was promised."""

    def __init__(self, endpoint, number: int):
        self.endpoint, self.number, self.confirmed, self.acknowledged = endpoint, number, set(), set()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        try:
            connection = pika.BlockingConnection(self.endpoint.params())
            ch = connection.channel()
            ch.confirm_delivery()
            count = 0
            while True:
                body = f"{self.number}.{count}"
                size = random.choice([0, 0, 0, 5000, 200_000])
                ch.basic_publish("", f"q{self.number}", body.encode() + b" " * size, PERSISTENT)
                self.confirmed.add(body)
                count += 1
                if count % 3 == 0:
                    method, _, taken = ch.basic_get(f"q{self.number}")
                    ch.basic_ack(method.delivery_tag)
                    pending = taken.decode().strip()
                    # The confirm that comes after an acknowledgement on one channel promises that too.
                    ch.basic_publish("", "marks", b"mark", PERSISTENT)
                    self.acknowledged.add(pending)
        except (pika.exceptions.AMQPError, OSError):
            pass


def crash_round(own, rng: random.Random, publishers: int = 3) -> int:
    loads = [Load(own.endpoint, number) for number in range(publishers)]
    for load in loads:
        load.thread.start()
    time.sleep(rng.uniform(0.05, 0.6))
    own.kill()
    for load in loads:
        load.thread.join(20)
    own.start()
    ch = channel_of(own)
    ch.queue_purge("marks")
    for load in loads:
        found = collections.Counter()
        while (got := ch.basic_get(f"q{load.number}", auto_ack=True))[0]:
            assert got[0].redelivered, "a recovered message must be flagged"
            found[got[2].decode().strip()] += 1
        assert max(found.values(), default=1) == 1, "a message came twice"
        lost = load.confirmed - load.acknowledged - set(found)
        # One may have been acknowledged without our having learnt that the mark was confirmed.
        assert len(lost) <= 1, f"confirmed and lost: {sorted(lost)[:10]}"
        undone = load.acknowledged & set(found)
        assert not undone, f"acknowledged and back again: {sorted(undone)[:10]}"
    ch.connection.close()
    return sum(len(load.confirmed) for load in loads)


def crash(server, rounds: int, seed: int) -> None:
    own, rng = server(), random.Random(seed)
    own.start()
    ch = channel_of(own)
    for q in ["q0", "q1", "q2", "marks"]:
        ch.queue_declare(q, durable=True)
    ch.connection.close()
    assert sum(crash_round(own, rng) for _ in range(rounds)) > 0


@pytest.mark.timeout(120)
def test_kill_under_load(server):
    crash(server, 5, seed=random.randrange(1 << 32))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_kill_under_load_a_hundred_times(server):
    crash(server, 100, seed=random.randrange(1 << 32))


def test_a_second_server_is_kept_out(server):
    import subprocess

    from broker import waypost_binary

    own = server()
    own.start()
    command = [str(waypost_binary()), "serve", "--data-dir", str(own.data), "--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    command += ["--dns", "off", "--kafka", "off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and done.stderr
    assert own.alive()


def test_a_taken_port_ends_the_start(server):
    import subprocess

    from broker import waypost_binary

    own, other = server(), server()
    port = own.start().port
    command = [str(waypost_binary()), "serve", "--data-dir", str(other.data), "--amqp", f"127.0.0.1:{port}", "--http", "127.0.0.1:0"]
    command += ["--dns", "off", "--kafka", "off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 78 and str(port) in done.stderr


def test_sigterm_tells_clients(server):
    own = server()
    own.start()
    connection = pika.BlockingConnection(own.endpoint.params())
    assert own.stop() == 0
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as caught:
        connection.process_data_events(2)
    assert caught.value.reply_code == 320
