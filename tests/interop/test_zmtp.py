"""ZeroMQ's own library against our devices."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest
import zmq

from broker import waypost_binary
from support import eventually
from zmtp_peers import Keys, LOCAL, device, figure, free_port

pytestmark = pytest.mark.ours("ZeroMQ devices")


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path)


def numbers(n: int, size: int = 0) -> list[bytes]:
    return [b"%d" % i + bytes(size) for i in range(n)]


def send_all(socket, messages) -> None:
    for message in messages:
        socket.send(message)


def subscribed(publisher: zmq.Socket, subscriber: zmq.Socket, topic: bytes = b"") -> None:
    """Waits until what is published arrives: subscriptions need a moment on their way."""
    probe = topic + b"?"
    subscriber.setsockopt(zmq.RCVTIMEO, 50)
    for _ in range(200):
        publisher.send(probe)
        try:
            while subscriber.recv() == probe:
                subscriber.setsockopt(zmq.RCVTIMEO, 300)
        except zmq.Again:
            if subscriber.getsockopt(zmq.RCVTIMEO) == 300:
                break
    else:
        pytest.fail("the subscription did not arrive")
    subscriber.setsockopt(zmq.RCVTIMEO, 10_000)


@pytest.mark.parametrize("mechanism", ["null", "plain", "curve"])
@pytest.mark.parametrize("back", ["bind", "connect"])
@pytest.mark.parametrize("front", ["bind", "connect"])
def test_streamer_in_all_directions_and_mechanisms(server, peers, keys, front, back, mechanism):
    # Who binds is the server of the mechanism, here.
    ends, sockets = [], []
    for end, direction, kind in (("front", front, zmq.PUSH), ("back", back, zmq.PULL)):
        role, other = ("server", "client") if direction == "bind" else ("client", "server")
        port = free_port()
        options = keys.device(mechanism, role).replace(",", f",{end}-")
        ends.append(f"{end}={direction}:tcp://127.0.0.1:{port}{options}")
        method = peers.connect if direction == "bind" else peers.bind
        sockets.append(method(kind, f"tcp://127.0.0.1:{port}", **keys.peer(mechanism, other)))
    push, pull = sockets
    device(server, ",".join(["streamer", *ends]))
    wanted = numbers(200) + [b"", b"x" * 255, b"y" * 256, b"z" * 300_000]
    sender = threading.Thread(target=send_all, args=(push, wanted))
    sender.start()
    assert [pull.recv() for _ in wanted] == wanted
    sender.join()
    push.send_multipart([b"a", b"", b"c" * 1000])
    assert pull.recv_multipart() == [b"a", b"", b"c" * 1000]


def test_streamer_over_ipc(server, peers, tmp_path):
    front, back = tmp_path / "front.sock", tmp_path / "back.sock"
    one, where = device(server, f"streamer,front=bind:ipc://{front},back=bind:ipc://{back}")
    assert where == [f"ipc://{front}", f"ipc://{back}"]
    push, pull = peers.connect(zmq.PUSH, where[0]), peers.connect(zmq.PULL, where[1])
    send_all(push, numbers(10))
    assert [pull.recv() for _ in range(10)] == numbers(10)
    one.kill()
    # What a killed server left behind is in nobody's way.
    one.start()
    send_all(push, [b"again"])
    assert pull.recv() == b"again"


def test_streamer_deals_evenly(server, peers):
    _, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL}")
    pulls = [peers.connect(zmq.PULL, back) for _ in range(4)]
    push = peers.connect(zmq.PUSH, front)
    # All are there once each has had one.
    deadline = time.monotonic() + 10
    seen = set()
    while len(seen) < 4 and time.monotonic() < deadline:
        push.send(b"warm")
        for i, pull in enumerate(pulls):
            if pull.poll(20):
                pull.recv()
                seen.add(i)
    assert len(seen) == 4
    send_all(push, numbers(400))
    for pull in pulls:
        got = [int(pull.recv()) for _ in range(100)]
        assert got == sorted(got)
        assert not pull.poll(20)


def test_streamer_blocks_without_consumers_and_loses_nothing(server, peers):
    one, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL},hwm=100")
    push = peers.connect(zmq.PUSH, front, sndhwm=10, sndtimeo=500)
    sent = 0
    with pytest.raises(zmq.Again):
        while sent < 200_000:
            push.send(b"%06d" % sent + bytes(1000))
            sent += 1
    assert sent < 200_000 and figure(one, "blocked_total") > 0
    pull = peers.connect(zmq.PULL, back)
    assert [int(pull.recv()[:6]) for _ in range(sent)] == list(range(sent))
    assert figure(one, "messages_dropped_total") == 0


def test_a_slow_consumer_does_not_stop_the_other(server, peers):
    _, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL},hwm=10")
    slow = peers.connect(zmq.PULL, back, rcvhwm=1)
    quick = peers.connect(zmq.PULL, back)
    push = peers.connect(zmq.PUSH, front)
    body = bytes(100_000)
    sender = threading.Thread(target=send_all, args=(push, [body] * 400), daemon=True)
    sender.start()
    got = 0
    while got < 150:
        assert quick.recv() == body
        got += 1
    slow.close()


def test_forwarder_passes_what_is_subscribed(server, peers):
    _, (front, back) = device(server, f"forwarder,front=bind:{LOCAL},back=bind:{LOCAL}")
    publisher = peers.connect(zmq.PUB, front)
    first, second = peers.connect(zmq.SUB, back), peers.connect(zmq.SUB, back)
    first.subscribe(b"a")
    second.subscribe(b"ab")
    second.subscribe(b"c")
    subscribed(publisher, first, b"a")
    subscribed(publisher, second, b"c")
    subscribed(publisher, second, b"ab")
    while first.poll(100):
        first.recv()
    for topic in (b"a1", b"ab2", b"b3", b"c4", b"ab5"):
        publisher.send_multipart([topic, b"body"])
    assert [first.recv_multipart()[0] for _ in range(3)] == [b"a1", b"ab2", b"ab5"]
    assert [second.recv_multipart()[0] for _ in range(3)] == [b"ab2", b"c4", b"ab5"]
    assert not first.poll(50) and not second.poll(50)


def test_forwarder_tells_publishers_of_subscriptions_once_and_replays_them(server, peers):
    _, (front, back) = device(server, f"forwarder,front=bind:{LOCAL},back=bind:{LOCAL}")
    publisher = peers.connect(zmq.XPUB, front, xpub_verboser=1)
    first, second = peers.connect(zmq.SUB, back), peers.connect(zmq.SUB, back)
    first.subscribe(b"t")
    assert publisher.recv() == b"\x01t"
    second.subscribe(b"t")
    second.subscribe(b"u")
    assert publisher.recv() == b"\x01u"
    later = peers.connect(zmq.XPUB, front)
    assert sorted([later.recv(), later.recv()]) == [b"\x01t", b"\x01u"]
    first.unsubscribe(b"t")
    assert not publisher.poll(100)
    # Its subscriptions go with it.
    second.close()
    assert sorted([publisher.recv(), publisher.recv()]) == [b"\x00t", b"\x00u"]


def test_forwarder_that_blocks_drops_nothing(server, peers):
    one, (front, back) = device(server, f"forwarder,front=bind:{LOCAL},back=bind:{LOCAL},overflow=block,hwm=10")
    publisher = peers.connect(zmq.XPUB, front, xpub_nodrop=1)
    subscribers = [peers.connect(zmq.SUB, back, rcvhwm=0) for _ in range(3)]
    for subscriber in subscribers:
        subscriber.subscribe(b"")
        subscribed(publisher, subscriber)
    for subscriber in subscribers:
        while subscriber.poll(100):
            subscriber.recv()
    sender = threading.Thread(target=send_all, args=(publisher, numbers(20_000, 100)))
    sender.start()
    for subscriber in subscribers:
        assert [subscriber.recv() for _ in range(20_000)] == numbers(20_000, 100)
    sender.join()
    assert figure(one, "messages_dropped_total") == 0


def test_router_carries_requests_and_answers(server, peers):
    _, (front, back) = device(server, f"router,front=bind:{LOCAL},back=bind:{LOCAL}")
    worker = peers.connect(zmq.REP, back)

    def serve():
        for _ in range(30):
            parts = worker.recv_multipart()
            worker.send_multipart([b"re:", *parts])

    thread = threading.Thread(target=serve)
    thread.start()
    clients = [peers.connect(zmq.REQ, front) for _ in range(3)]
    for round_ in range(10):
        for i, client in enumerate(clients):
            client.send_multipart([b"%d" % i, b"%d" % round_])
        for i, client in enumerate(clients):
            assert client.recv_multipart() == [b"re:", b"%d" % i, b"%d" % round_]
    thread.join()


def test_router_keeps_envelopes_and_identities(server, peers):
    one, (front, back) = device(server, f"router,front=bind:{LOCAL},back=bind:{LOCAL}")
    worker = peers.connect(zmq.DEALER, back)
    client = peers.connect(zmq.DEALER, front, identity=b"ann")
    client.send_multipart([b"", b"hop", b"", b"body"])
    assert worker.recv_multipart() == [b"ann", b"", b"hop", b"", b"body"]
    worker.send_multipart([b"bob", b"", b"nobody"])
    worker.send_multipart([b"ann", b"", b"answer"])
    assert client.recv_multipart() == [b"", b"answer"]
    eventually(lambda: figure(one, "messages_unroutable_total") == 1)


def test_a_taken_identity_is_refused_or_replaced(server, peers):
    for policy, first_stays in (("refuse", True), ("replace", False)):
        _, (front, back) = device(server, f"router,front=bind:{LOCAL},back=bind:{LOCAL},duplicate={policy}")
        worker = peers.connect(zmq.DEALER, back)
        first = peers.connect(zmq.DEALER, front, identity=b"me")
        first.send(b"1")
        assert worker.recv_multipart() == [b"me", b"1"]
        second = peers.connect(zmq.DEALER, front, identity=b"me", reconnect_ivl=60_000)
        second.send(b"2")
        if first_stays:
            assert not worker.poll(300)
        else:
            first.close()
            assert worker.recv_multipart() == [b"me", b"2"]
        worker.send_multipart([b"me", b"answer"])
        assert (first if first_stays else second).recv() == b"answer"


def test_router_of_a_chain(server, peers):
    """Two devices behind each other, the second reached by connecting."""
    _, (front, back) = device(server, f"router,front=bind:{LOCAL},back=bind:{LOCAL}")
    _, (entry,) = device(server, f"router,front=bind:{LOCAL},back=connect:{front}")
    worker = peers.connect(zmq.REP, back)
    client = peers.connect(zmq.REQ, entry)
    for i in range(20):
        client.send(b"%d" % i)
        assert worker.recv() == b"%d" % i
        worker.send(b"re %d" % i)
        assert client.recv() == b"re %d" % i


def test_both_sides_survive_a_restart_of_the_server(server, peers):
    front, back = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    one, _ = device(server, f"streamer,front=bind:{front},back=bind:{back}")
    push, pull = peers.connect(zmq.PUSH, front), peers.connect(zmq.PULL, back)
    push.send(b"1")
    assert pull.recv() == b"1"
    one.kill()
    one.start()
    deadline = time.monotonic() + 10
    while not pull.poll(50):
        assert time.monotonic() < deadline
        push.send(b"2")
    assert pull.recv() == b"2"


def test_what_we_connect_to_may_come_late_and_come_again(server, peers):
    port = free_port()
    _, (front,) = device(server, f"streamer,front=bind:{LOCAL},back=connect:tcp://127.0.0.1:{port}")
    push = peers.connect(zmq.PUSH, front)
    # RFC 30: the queue of a peer that we connect to is there before the peer is.
    send_all(push, numbers(50))
    time.sleep(0.3)
    pull = peers.bind(zmq.PULL, f"tcp://127.0.0.1:{port}")
    assert [pull.recv() for _ in range(50)] == numbers(50)
    pull.close()
    time.sleep(0.3)
    send_all(push, numbers(50))
    again = peers.bind(zmq.PULL, f"tcp://127.0.0.1:{port}")
    got = [again.recv()]
    while got[-1] != b"49":
        got.append(again.recv())
    assert got == numbers(50)[50 - len(got):]


def test_a_name_is_looked_up(server, peers):
    port = free_port()
    pull = peers.bind(zmq.PULL, f"tcp://127.0.0.1:{port}")
    # In small letters it is short for an address; like this it is a name.
    _, (front,) = device(server, f"streamer,front=bind:{LOCAL},back=connect:tcp://LOCALHOST:{port}")
    push = peers.connect(zmq.PUSH, front)
    push.send(b"hello")
    assert pull.recv() == b"hello"


@pytest.mark.parametrize("mechanism", ["plain", "curve"])
def test_strangers_do_not_come_in(server, peers, keys, mechanism):
    one, (front, back) = device(
        server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL}{keys.device(mechanism, 'server')}"
    )
    strangers = [{}]
    if mechanism == "plain":
        strangers.append({"plain_username": b"ann", "plain_password": b"wrong"})
    else:
        public, secret = zmq.curve_keypair()
        strangers.append({"curve_serverkey": keys.server_public, "curve_publickey": public, "curve_secretkey": secret})
        strangers.append({"curve_serverkey": public, "curve_publickey": public, "curve_secretkey": secret})
    pushes = [peers.connect(zmq.PUSH, front, **options) for options in strangers]
    for push in pushes:
        push.send(b"bad")
    pull = peers.connect(zmq.PULL, back, **keys.peer(mechanism, "client"))
    assert not pull.poll(500)
    friend = peers.connect(zmq.PUSH, front, **keys.peer(mechanism, "client"))
    friend.send(b"good")
    assert pull.recv() == b"good"
    # libzmq itself leaves when the mechanisms differ.
    eventually(lambda: figure(one, "peers_refused_total") >= len(strangers) - 1)
    log = one.tail()
    for hidden in ("secret", keys.server_secret.decode(), keys.client_secret.decode()):
        assert hidden not in log.replace("curve-secret", "")


def test_heartbeats_both_ways(server, peers):
    one, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL},heartbeat=100ms")
    options = {"heartbeat_ivl": 100, "heartbeat_timeout": 300, "heartbeat_ttl": 500}
    push, pull = peers.connect(zmq.PUSH, front, **options), peers.connect(zmq.PULL, back, **options)
    push.send(b"1")
    assert pull.recv() == b"1"
    time.sleep(1.2)
    push.send(b"2")
    assert pull.recv() == b"2"
    assert figure(one, "peers_refused_total") == 0 and figure(one, "peers") == 2


def test_wrong_sockets_are_turned_away(server, peers):
    one, (front, _) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL}")
    wrong = peers.connect(zmq.PULL, front, reconnect_ivl=-1)
    deadline = time.monotonic() + 5
    while figure(one, "peers_refused_total") == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    wrong.close()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("streamer,front=bind:tcp://127.0.0.1:0", "needs back="),
        ("router,front=bind:tcp://127.0.0.1:0,back=bind:tcp://127.0.0.1:0,queue=q", "for streamers"),
        ("streamer,front=bind:tcp://127.0.0.1:0,back=bind:tcp://127.0.0.1:0,plain-users=/nonexistent", "/nonexistent"),
    ],
)
def test_declarations_without_sense_end_the_start(tmp_path, text, why):
    done = refused(tmp_path, text)
    assert done.returncode == 78 and why in done.stderr, done.stderr


def test_a_taken_port_ends_the_start(tmp_path, peers):
    taken = peers.socket(zmq.PULL)
    port = taken.bind_to_random_port("tcp://127.0.0.1")
    done = refused(tmp_path, f"streamer,front=bind:tcp://127.0.0.1:{port},back=bind:{LOCAL}")
    assert done.returncode == 78 and str(port) in done.stderr, done.stderr


def refused(tmp_path, text: str) -> subprocess.CompletedProcess:
    command = [str(waypost_binary()), "serve", "--data-dir", str(tmp_path / "data")]
    command += ["--amqp", "off", "--http", "off", "--dns", "off", "--kafka", "off", "--zmtp", text]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, env=os.environ, check=False)
