"""Time to live, length limits with their overflow modes, expiry of queues, priorities."""

import time

import pytest

from support import Consumer, bodies, closes_channel, eventually, get, is_empty, props, publish, ready, sync


def absent(connection, queue) -> bool:
    import pika

    channel = connection.channel()
    try:
        channel.queue_declare(queue, passive=True)
    except pika.exceptions.ChannelClosedByBroker as error:
        return error.reply_code == 404
    channel.close()
    return False


def test_message_ttl_of_a_queue(ch, queue):
    q = queue({"x-message-ttl": 150})
    publish(ch, q, "x")
    sync(ch)
    assert ready(ch, q) == 1
    eventually(lambda: ready(ch, q) == 0)
    assert is_empty(ch, q)


def test_message_ttl_is_not_early(ch, queue):
    q = queue({"x-message-ttl": 1500})
    publish(ch, q, "x")
    time.sleep(0.8)
    assert bodies(ch, q, 1) == [b"x"]


def test_expiration_of_a_message(ch, queue):
    q = queue()
    publish(ch, q, "x", expiration="150")
    sync(ch)
    eventually(lambda: ready(ch, q) == 0)
    assert is_empty(ch, q)


@pytest.mark.parametrize(("of_queue", "of_message"), [(100, "60000"), (60000, "100")])
def test_the_shorter_of_both_wins(ch, queue, of_queue, of_message):
    q = queue({"x-message-ttl": of_queue})
    publish(ch, q, "x", expiration=of_message)
    eventually(lambda: ready(ch, q) == 0, 2)


def test_expiration_stays_on_a_delivery(ch, queue):
    q = queue()
    publish(ch, q, "x", expiration="60000")
    assert get(ch, q)[1].expiration == "60000"


def test_ttl_zero_delivers_at_once_or_never(ch, queue):
    q = queue({"x-message-ttl": 0})
    publish(ch, q, "lost")
    assert is_empty(ch, q)
    consumer = Consumer(ch, q, auto_ack=True)
    publish(ch, q, "caught")
    assert consumer.wait(1) == [b"caught"]


def test_ttl_does_not_touch_what_is_delivered(ch, queue):
    q = queue({"x-message-ttl": 100})
    consumer = Consumer(ch, q)
    publish(ch, q, "x")
    consumer.wait(1)
    consumer.quiet(0.3)
    consumer.ack()
    sync(ch)


def test_ttl_after_requeue(ch, queue):
    """A message that is requeued after its time is up goes."""
    q = queue({"x-message-ttl": 100})
    publish(ch, q, "x")
    method, _, _ = get(ch, q, auto_ack=False)
    time.sleep(0.2)
    ch.basic_nack(method.delivery_tag, requeue=True)
    assert is_empty(ch, q)


@pytest.mark.parametrize("bad", ["-1", "abc", "1.5", "", " 1", "1000000000000000000000"])
def test_bad_expiration(ch, queue, bad):
    with closes_channel(406, "PRECONDITION_FAILED - invalid expiration"):
        publish(ch, queue(), "x", expiration=bad)
        sync(ch)


def test_queue_expires_when_unused(ch, connect, queue):
    q = queue({"x-expires": 300})
    time.sleep(0.1)
    probe = connect()
    time.sleep(1)
    assert absent(probe, q)


def test_queue_does_not_expire_while_consumed(ch, connection, queue):
    q = queue({"x-expires": 300})
    tag = ch.basic_consume(q, lambda *_: None)
    time.sleep(0.7)
    assert not absent(connection, q)
    ch.basic_cancel(tag)
    time.sleep(0.9)
    assert absent(connection, q)


def test_queue_does_not_expire_while_fetched_or_declared(ch, connection, queue):
    q = queue({"x-expires": 500})
    for _ in range(3):
        time.sleep(0.25)
        ch.basic_get(q)
    for _ in range(3):
        time.sleep(0.25)
        ch.queue_declare(q, durable=True, arguments={"x-expires": 500})
    time.sleep(1.1)
    assert absent(connection, q)


def test_expired_queue_does_not_dead_letter(ch, queue):
    dead = queue()
    q = queue({"x-expires": 200, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    publish(ch, q, "x")
    time.sleep(0.8)
    assert is_empty(ch, dead)


def test_max_length_drops_the_oldest(ch, queue):
    q = queue({"x-max-length": 3})
    publish(ch, q, *range(10))
    sync(ch)
    assert ready(ch, q) == 3
    assert bodies(ch, q, 3) == [b"7", b"8", b"9"]


def test_max_length_zero_keeps_nothing(ch, queue):
    q = queue({"x-max-length": 0})
    publish(ch, q, "x")
    assert is_empty(ch, q)


def test_max_length_bytes(ch, queue):
    q = queue({"x-max-length-bytes": 100})
    publish(ch, q, *(b"%040d" % n for n in range(5)))
    sync(ch)
    assert bodies(ch, q, 2) == [b"%040d" % 3, b"%040d" % 4]
    assert is_empty(ch, q)


def test_max_length_counts_ready_messages_only(ch, queue):
    q = queue({"x-max-length": 2})
    publish(ch, q, 1, 2)
    methods = [get(ch, q, auto_ack=False)[0] for _ in range(2)]
    publish(ch, q, 3, 4)
    sync(ch)
    assert ready(ch, q) == 2
    ch.basic_ack(methods[1].delivery_tag, multiple=True)
    assert bodies(ch, q, 2) == [b"3", b"4"]


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_reject_publish_nacks(ch, queue, overflow):
    import pika

    q = queue({"x-max-length": 2, "x-overflow": overflow})
    ch.confirm_delivery()
    publish(ch, q, 1)
    publish(ch, q, 2)
    with pytest.raises(pika.exceptions.NackError):
        publish(ch, q, 3)
    assert bodies(ch, q, 2) == [b"1", b"2"]
    publish(ch, q, 4)
    assert bodies(ch, q, 1) == [b"4"]


def test_reject_publish_by_bytes(ch, queue):
    import pika

    q = queue({"x-max-length-bytes": 10, "x-overflow": "reject-publish"})
    ch.confirm_delivery()
    publish(ch, q, b"123456")
    with pytest.raises(pika.exceptions.NackError):
        publish(ch, q, b"12345")
    publish(ch, q, b"1234")
    assert bodies(ch, q, 2) == [b"123456", b"1234"]


def test_reject_publish_nacks_when_one_of_several_queues_refuses(ch, exchange, queue):
    import pika

    x, full, open_ = exchange("fanout"), queue({"x-max-length": 0, "x-overflow": "reject-publish"}), queue()
    ch.queue_bind(full, x)
    ch.queue_bind(open_, x)
    ch.confirm_delivery()
    with pytest.raises(pika.exceptions.NackError):
        ch.basic_publish(x, "", b"x")
    assert bodies(ch, open_, 1) == [b"x"]


@pytest.mark.parametrize(("overflow", "letters"), [("reject-publish", []), ("reject-publish-dlx", [b"2"])])
def test_reject_publish_and_dead_letters(ch, queue, overflow, letters):
    dead = queue()
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    q = queue({"x-max-length": 1, "x-overflow": overflow} | arguments)
    publish(ch, q, 1, 2)
    assert bodies(ch, dead, len(letters)) == letters
    assert is_empty(ch, dead)
    assert bodies(ch, q, 1) == [b"1"]


def test_priorities_first_then_age(ch, queue):
    q = queue({"x-max-priority": 10})
    for number, priority in enumerate([1, 5, 0, 10, 5, 1, None]):
        ch.basic_publish("", q, str(number).encode(), props(priority=priority))
    sync(ch)
    assert bodies(ch, q, 7) == [b"3", b"1", b"4", b"0", b"5", b"2", b"6"]


def test_priority_above_the_maximum_counts_as_it(ch, queue):
    q = queue({"x-max-priority": 2})
    for number, priority in enumerate([1, 2, 200, 255]):
        ch.basic_publish("", q, str(number).encode(), props(priority=priority))
    sync(ch)
    assert bodies(ch, q, 4) == [b"1", b"2", b"3", b"0"]


def test_priority_without_the_argument_is_ignored(ch, queue):
    q = queue()
    for priority in [1, 9, 5]:
        ch.basic_publish("", q, str(priority).encode(), props(priority=priority))
    sync(ch)
    got = [get(ch, q) for _ in range(3)]
    assert [body for _, _, body in got] == [b"1", b"9", b"5"]
    assert [p.priority for _, p, _ in got] == [1, 9, 5]


def test_requeue_keeps_priority_and_place(ch, queue):
    q = queue({"x-max-priority": 5})
    for number, priority in enumerate([1, 5, 5]):
        ch.basic_publish("", q, str(number).encode(), props(priority=priority))
    sync(ch)
    method, _, body = get(ch, q, auto_ack=False)
    assert body == b"1"
    ch.basic_reject(method.delivery_tag, requeue=True)
    sync(ch)
    assert bodies(ch, q, 3) == [b"1", b"2", b"0"]


def test_priority_queue_overflow_drops_the_head(ch, queue):
    """The head is what would be delivered next: of a priority queue the oldest of the highest priority."""
    q = queue({"x-max-priority": 5, "x-max-length": 2})
    for number, priority in enumerate([5, 1, 3]):
        ch.basic_publish("", q, str(number).encode(), props(priority=priority))
    sync(ch)
    assert bodies(ch, q, 2) == [b"2", b"1"]


def test_ttl_in_a_priority_queue(ch, queue):
    q = queue({"x-max-priority": 5})
    ch.basic_publish("", q, b"low", props(priority=1, expiration="100"))
    ch.basic_publish("", q, b"high", props(priority=5))
    time.sleep(0.4)
    assert bodies(ch, q, 1) == [b"high"]
    assert is_empty(ch, q)
