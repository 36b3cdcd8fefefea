"""Dead-lettering: reasons, the x-death header, keys, cycles, delivery limits."""

import datetime
import time

import pytest

from support import Consumer, bodies, get, is_empty, props, publish, sync


def dead_to(queue: str, **more) -> dict:
    """Arguments of a queue whose dead letters go straight to another."""
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue} | more


def reject(ch, queue: str):
    method, _, _ = get(ch, queue, auto_ack=False)
    ch.basic_reject(method.delivery_tag, requeue=False)


def test_rejected(ch, queue):
    dead = queue()
    q = queue(dead_to(dead))
    before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=2)
    publish(ch, q, "x", headers={"mine": 1}, content_type="text/plain", delivery_mode=2, message_id="id")
    reject(ch, q)
    method, properties, body = get(ch, dead)
    assert (body, method.routing_key, method.exchange, method.redelivered) == (b"x", dead, "", False)
    assert (properties.content_type, properties.delivery_mode, properties.message_id) == ("text/plain", 2, "id")
    (death,) = properties.headers["x-death"]
    at = death.pop("time")
    assert before <= at <= datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    assert death == {"count": 1, "reason": "rejected", "queue": q, "exchange": "", "routing-keys": [q]}
    assert properties.headers["mine"] == 1
    assert properties.headers["x-first-death-reason"] == "rejected"
    assert properties.headers["x-first-death-queue"] == q
    assert properties.headers["x-first-death-exchange"] == ""


@pytest.mark.since4("no x-last-death headers")
def test_last_death_headers(ch, queue):
    dead = queue()
    second = queue(dead_to(dead, **{"x-message-ttl": 1}))
    first = queue(dead_to(second))
    publish(ch, first, "x")
    reject(ch, first)
    headers = get(ch, dead)[1].headers
    assert {k: v for k, v in headers.items() if k != "x-death"} == {
        "x-first-death-exchange": "",
        "x-first-death-queue": first,
        "x-first-death-reason": "rejected",
        "x-last-death-exchange": "",
        "x-last-death-queue": second,
        "x-last-death-reason": "expired",
    }


@pytest.mark.parametrize("by", ["reject", "nack", "nack_multiple"])
def test_every_way_to_refuse(ch, queue, by):
    dead = queue()
    q = queue(dead_to(dead))
    publish(ch, q, 1, 2)
    methods = [get(ch, q, auto_ack=False)[0] for _ in range(2)]
    if by == "nack_multiple":
        ch.basic_nack(methods[1].delivery_tag, multiple=True, requeue=False)
    else:
        for method in methods:
            (ch.basic_reject if by == "reject" else ch.basic_nack)(method.delivery_tag, requeue=False)
    assert bodies(ch, dead, 2) == [b"1", b"2"]


def test_expired(ch, queue):
    dead = queue()
    q = queue(dead_to(dead))
    publish(ch, q, "x", expiration="50")
    _, properties, _ = get(ch, dead)
    (death,) = properties.headers["x-death"]
    assert death["reason"] == "expired" and death["original-expiration"] == "50"
    assert properties.expiration is None, "or it would expire again where it goes"


def test_expired_by_the_queue(ch, queue):
    dead = queue()
    q = queue(dead_to(dead, **{"x-message-ttl": 50}))
    publish(ch, q, "x")
    (death,) = get(ch, dead)[1].headers["x-death"]
    assert death["reason"] == "expired" and "original-expiration" not in death


def test_maxlen(ch, queue):
    dead = queue()
    q = queue(dead_to(dead, **{"x-max-length": 1}))
    publish(ch, q, 1, 2)
    _, properties, body = get(ch, dead)
    assert body == b"1" and properties.headers["x-death"][0]["reason"] == "maxlen"
    assert bodies(ch, q, 1) == [b"2"]


def test_key_is_kept_without_a_dead_letter_key(ch, exchange, queue):
    x, dlx, dead = exchange("direct", suffix="x"), exchange("topic", suffix="dlx"), queue()
    q = queue({"x-dead-letter-exchange": dlx})
    ch.queue_bind(q, x, "some.key")
    ch.queue_bind(dead, dlx, "#")
    ch.basic_publish(x, "some.key", b"x")
    reject(ch, q)
    method, properties, _ = get(ch, dead)
    assert (method.exchange, method.routing_key) == (dlx, "some.key")
    assert properties.headers["x-death"][0]["exchange"] == x
    assert properties.headers["x-death"][0]["routing-keys"] == ["some.key"]


def test_cc_is_used_again(ch, exchange, queue):
    dlx, main, copy, blind = exchange("direct"), queue(), queue(), queue()
    q = queue({"x-dead-letter-exchange": dlx})
    for destination, key in [(main, q), (copy, "copy"), (blind, "blind")]:
        ch.queue_bind(destination, dlx, key)
    publish(ch, q, "x", headers={"CC": ["copy"], "BCC": ["blind"]})
    reject(ch, q)
    headers = get(ch, main)[1].headers
    assert headers["CC"] == ["copy"] and "BCC" not in headers
    assert headers["x-death"][0]["routing-keys"] == [q, "copy"]
    assert get(ch, copy)[2] == b"x"


@pytest.mark.ours("RabbitMQ remembers BCC keys beside the message and uses them again; here they are gone with their header")
def test_bcc_is_not_used_again(ch, exchange, queue):
    dlx, blind = exchange("direct"), queue()
    q = queue({"x-dead-letter-exchange": dlx})
    ch.queue_bind(blind, dlx, "blind")
    publish(ch, q, "x", headers={"BCC": ["blind"]})
    reject(ch, q)
    assert is_empty(ch, blind)


def test_cc_goes_when_the_key_is_set(ch, queue):
    dead, copy = queue(), queue()
    q = queue(dead_to(dead))
    publish(ch, q, "x", headers={"CC": ["nowhere"]})
    reject(ch, q)
    headers = get(ch, dead)[1].headers
    assert "CC" not in headers
    assert headers["x-death"][0]["routing-keys"] == [q, "nowhere"]
    assert is_empty(ch, copy)


def test_deaths_of_a_kind_are_counted_newest_first(ch, queue, name):
    """A retry loop by time to live: work, rejected, waits, expires, work again."""
    work, wait = name("work"), name("wait")
    queue(dead_to(wait), suffix="work")
    queue(dead_to(work, **{"x-message-ttl": 30}), suffix="wait")
    publish(ch, work, "x")
    for _ in range(3):
        reject(ch, work)
    deaths = get(ch, work)[1].headers["x-death"]
    assert [(d["queue"], d["reason"], d["count"]) for d in deaths] == [(wait, "expired", 3), (work, "rejected", 3)]


@pytest.mark.since4("entries of one queue stood together")
def test_same_queue_other_reason_is_another_entry(ch, queue, name):
    work, hold = name("work"), name("hold")
    queue(dead_to(hold, **{"x-message-ttl": 200}), suffix="work")
    queue(dead_to(work), suffix="hold")
    publish(ch, work, "x")
    reject(ch, work)
    reject(ch, hold)
    deaths = get(ch, hold)[1].headers["x-death"]
    assert [(d["queue"], d["reason"], d["count"]) for d in deaths] == [
        (work, "expired", 1),
        (hold, "rejected", 1),
        (work, "rejected", 1),
    ]


def test_cycle_without_rejection_is_dropped(ch, queue, name):
    """A message that would come again to a queue by expiry alone would go round for ever."""
    one, two = name("one"), name("two")
    queue(dead_to(two, **{"x-message-ttl": 20}), suffix="one")
    queue(dead_to(one, **{"x-message-ttl": 20}), suffix="two")
    publish(ch, one, "x")
    time.sleep(0.5)
    assert is_empty(ch, one) and is_empty(ch, two)


def test_cycle_of_a_queue_with_itself(ch, queue, name):
    one = name("one")
    queue(dead_to(one, **{"x-message-ttl": 20}), suffix="one")
    publish(ch, one, "x")
    time.sleep(0.4)
    assert is_empty(ch, one)


def test_cycle_with_a_rejection_goes_on(ch, queue, name):
    one = name("one")
    queue(dead_to(one), suffix="one")
    publish(ch, one, "x")
    for _ in range(5):
        reject(ch, one)
    assert get(ch, one)[1].headers["x-death"][0]["count"] == 5


def test_absent_exchange_drops(ch, queue):
    q = queue({"x-dead-letter-exchange": "absent-one"})
    publish(ch, q, "x")
    reject(ch, q)
    sync(ch)
    assert is_empty(ch, q)


def test_unroutable_letter_is_dropped(ch, queue):
    q = queue({"x-dead-letter-exchange": "amq.direct"})
    publish(ch, q, "x")
    reject(ch, q)
    sync(ch)


def test_purge_and_delete_do_not_dead_letter(ch, queue):
    dead = queue()
    q = queue(dead_to(dead))
    publish(ch, q, 1)
    ch.queue_purge(q)
    publish(ch, q, 2)
    ch.queue_delete(q)
    assert is_empty(ch, dead)


def test_order_of_letters(ch, queue):
    dead = queue()
    q = queue(dead_to(dead, **{"x-message-ttl": 100}))
    publish(ch, q, *range(50))
    assert bodies(ch, dead, 50) == [str(n).encode() for n in range(50)]


@pytest.mark.since4("x-death headers of clients were believed")
def test_forged_deaths_are_not_counted(ch, queue):
    dead = queue()
    q = queue(dead_to(dead))
    forged = [{"count": 9, "reason": "rejected", "queue": q, "exchange": "", "routing-keys": [q]}]
    publish(ch, q, "x", headers={"x-death": forged})
    reject(ch, q)
    assert get(ch, dead)[1].headers["x-death"][0]["count"] == 1


def test_letters_reach_a_consumer(ch, queue):
    dead = queue()
    q = queue(dead_to(dead))
    letters = Consumer(ch, dead, auto_ack=True)
    consumer = Consumer(ch, q)
    publish(ch, q, "x")
    consumer.wait(1)
    consumer.nack(requeue=False)
    assert letters.wait(1) == [b"x"]


def requeue_times(ch, queue: str, times: int) -> list:
    """Requeues the message so often; the x-delivery-count of each delivery."""
    counts = []
    for _ in range(times):
        method, properties, _ = get(ch, queue, auto_ack=False)
        counts.append((properties.headers or {}).get("x-delivery-count", 0))
        ch.basic_nack(method.delivery_tag, requeue=True)
    return counts


@pytest.mark.parametrize("arguments", [{"x-queue-type": "quorum"}])
def test_delivery_limit(ch, queue, arguments):
    dead = queue()
    q = queue(dead_to(dead, **{"x-delivery-limit": 2}) | arguments)
    publish(ch, q, "x")
    assert requeue_times(ch, q, 3) == [0, 1, 2]
    _, properties, body = get(ch, dead)
    assert body == b"x" and properties.headers["x-death"][0]["reason"] == "delivery_limit"


@pytest.mark.ours("classic queues of RabbitMQ have no delivery limit")
def test_delivery_limit_of_a_classic_queue(ch, queue):
    dead = queue()
    q = queue(dead_to(dead, **{"x-delivery-limit": 1}))
    publish(ch, q, "x")
    requeue_times(ch, q, 2)
    assert get(ch, dead)[1].headers["x-death"][0]["reason"] == "delivery_limit"


def test_delivery_limit_without_dead_letters_drops(ch, queue):
    q = queue({"x-queue-type": "quorum", "x-delivery-limit": 1})
    publish(ch, q, "x")
    requeue_times(ch, q, 2)
    assert is_empty(ch, q)


@pytest.mark.since4("no limit by default")
def test_quorum_limit_is_twenty_by_default(ch, queue):
    q = queue({"x-queue-type": "quorum"})
    publish(ch, q, "x")
    requeue_times(ch, q, 21)
    assert is_empty(ch, q)


def test_classic_has_no_limit_by_default(ch, queue):
    q = queue()
    publish(ch, q, "x")
    assert requeue_times(ch, q, 40) == [0] * 40
    assert bodies(ch, q, 1) == [b"x"]


@pytest.mark.since4("a negative limit was refused")
def test_delivery_limit_of_minus_one_is_none(ch, queue):
    q = queue({"x-queue-type": "quorum", "x-delivery-limit": -1})
    publish(ch, q, "x")
    assert requeue_times(ch, q, 30)[-1] == 29
    assert bodies(ch, q, 1) == [b"x"]


def test_lost_connections_count_towards_the_limit(ch, connect, queue):
    dead = queue()
    q = queue(dead_to(dead, **{"x-queue-type": "quorum", "x-delivery-limit": 1}))
    publish(ch, q, "x")
    for _ in range(2):
        other = connect()
        get(other.channel(), q, auto_ack=False)
        other.close()
    assert get(ch, dead)[2] == b"x"


def test_transient_letter_stays_transient(ch, queue):
    dead = queue()
    q = queue(dead_to(dead))
    publish(ch, q, "x", delivery_mode=1)
    reject(ch, q)
    assert get(ch, dead)[1].delivery_mode == 1


def test_large_letter(ch, queue):
    dead = queue()
    q = queue(dead_to(dead))
    body = bytes(range(256)) * 4096
    ch.basic_publish("", q, body, props(delivery_mode=2))
    reject(ch, q)
    assert get(ch, dead)[2] == body
