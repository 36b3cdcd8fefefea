"""Consuming: order, requeue, prefetch, acknowledgement, consumer kinds and priorities, cancellation, get, recover."""

import time

import pika
import pytest

from raw import Raw
from support import (
    Consumer,
    bodies,
    closes_channel,
    closes_connection,
    consumers,
    cut,
    eventually,
    get,
    is_empty,
    publish,
    ready,
    sync,
)


def test_first_in_first_out(ch, queue):
    q = queue()
    publish(ch, q, *range(500))
    consumer = Consumer(ch, q, auto_ack=True)
    assert consumer.wait(500) == [str(n).encode() for n in range(500)]


def test_delivery_tags_count_from_one_per_channel(connection, queue):
    q = queue()
    for channel in [connection.channel(), connection.channel()]:
        publish(channel, q, *range(3))
        consumer = Consumer(channel, q)
        consumer.wait(3)
        assert [m.delivery_tag for m, _, _ in consumer.received] == [1, 2, 3]
        assert {m.consumer_tag for m, _, _ in consumer.received} == {consumer.tag}
        channel.basic_ack(0, multiple=True)
        channel.close()


def test_server_makes_consumer_tags(broker, queue):
    """pika always names its consumers itself: by hand, without a name."""
    q, one = queue(), Raw(broker.endpoint.host, broker.endpoint.port)
    one.open()
    one.open_channel()
    tags = set()
    for _ in range(2):
        one.send_method(pika.spec.Basic.Consume(queue=q), 1)
        tags.add(one.expect(pika.spec.Basic.ConsumeOk).consumer_tag)
    assert len(tags) == 2 and all(tag.startswith("amq.ctag-") for tag in tags)
    one.close()


def test_consumer_tag_in_use_closes_the_connection(connect, queue):
    channel, q = connect().channel(), queue()
    channel.basic_consume(q, lambda *_: None, consumer_tag="twice")
    with closes_connection(530, "NOT_ALLOWED - attempt to reuse consumer tag 'twice'"):
        channel._impl._send_method(pika.spec.Basic.Consume(queue=q, consumer_tag="twice"))
        sync(channel)


def test_consume_absent_queue(ch):
    with closes_channel(404, "NOT_FOUND - no queue 'absent-one' in vhost '/'"):
        ch.basic_consume("absent-one", lambda *_: None)


def test_requeue_returns_to_its_place(ch, queue):
    q = queue()
    publish(ch, q, *range(5))
    methods = [get(ch, q, auto_ack=False)[0] for _ in range(3)]
    ch.basic_nack(methods[1].delivery_tag, requeue=True)
    sync(ch)
    method, _, body = get(ch, q, auto_ack=False)
    assert body == b"1" and method.redelivered
    ch.basic_nack(0, multiple=True, requeue=True)
    sync(ch)
    again = [get(ch, q) for _ in range(5)]
    assert [body for _, _, body in again] == [b"0", b"1", b"2", b"3", b"4"]
    assert [m.redelivered for m, _, _ in again] == [True, True, True, False, False]


@pytest.mark.parametrize("end", ["channel", "connection", "cut"])
def test_unacknowledged_return_in_order(ch, connect, queue, end):
    q, other = queue(), connect()
    publish(ch, q, *range(10))
    channel = other.channel()
    channel.basic_qos(prefetch_count=6)
    consumer = Consumer(channel, q)
    consumer.wait(6)
    consumer.ack(0)
    sync(channel)
    match end:
        case "channel":
            channel.close()
        case "connection":
            other.close()
        case "cut":
            cut(other)
    eventually(lambda: ready(ch, q) == 9)
    again = [get(ch, q) for _ in range(9)]
    assert [body for _, _, body in again] == [str(n).encode() for n in range(1, 10)]
    assert [m.redelivered for m, _, _ in again] == [True] * 6 + [False] * 3, "the acknowledged one made room for one more"


def test_cancel_keeps_what_is_unacknowledged(ch, queue):
    """Cancelling stops deliveries only; what is out stays out, and can be acknowledged."""
    q = queue()
    publish(ch, q, 1, 2)
    ch.basic_qos(prefetch_count=1)
    consumer = Consumer(ch, q)
    consumer.wait(1)
    ch._impl._send_method(pika.spec.Basic.Cancel(consumer_tag=consumer.tag, nowait=True))
    assert ready(ch, q) == 1 and consumers(ch, q) == 0
    consumer.ack()
    sync(ch)
    assert ready(ch, q) == 1


def test_cancel_of_an_unknown_tag_is_ok(ch):
    ch._impl._send_method(pika.spec.Basic.Cancel(consumer_tag="nobody", nowait=True))
    sync(ch)


def test_prefetch_per_consumer(ch, queue):
    q = queue()
    publish(ch, q, *range(10))
    ch.basic_qos(prefetch_count=2)
    one, two = Consumer(ch, q), Consumer(ch, q)
    one.wait(2), two.wait(2)
    assert len(one.quiet()) == len(two.bodies) == 2
    one.ack(0)
    assert len(one.wait(3)) == 3
    one.ack(2, multiple=True)
    one.quiet()
    assert len(one.received) + len(two.received) == 7 or len(two.received) > 2


def test_prefetch_is_taken_when_consuming_starts(ch, queue):
    q = queue()
    publish(ch, q, *range(5))
    ch.basic_qos(prefetch_count=1)
    consumer = Consumer(ch, q)
    ch.basic_qos(prefetch_count=3)
    assert len(consumer.quiet()) == 1


def test_prefetch_per_channel(ch, queue):
    """With `global` the limit is shared by all consumers of the channel, old and new."""
    q = queue()
    publish(ch, q, *range(10))
    ch.basic_qos(prefetch_count=3, global_qos=True)
    one, two = Consumer(ch, q), Consumer(ch, q)
    one.quiet()
    assert len(one.received) + len(two.received) == 3
    ch.basic_ack(0, multiple=True)
    one.quiet()
    assert len(one.received) + len(two.received) == 6


def test_both_prefetches(ch, queue):
    q = queue()
    publish(ch, q, *range(20))
    ch.basic_qos(prefetch_count=4, global_qos=False)
    ch.basic_qos(prefetch_count=6, global_qos=True)
    one, two = Consumer(ch, q), Consumer(ch, q)
    one.quiet()
    assert max(len(one.received), len(two.received)) <= 4
    assert len(one.received) + len(two.received) == 6


def test_prefetch_of_the_channel_is_raised_live(ch, queue):
    q = queue()
    publish(ch, q, *range(10))
    ch.basic_qos(prefetch_count=1, global_qos=True)
    consumer = Consumer(ch, q)
    assert len(consumer.quiet()) == 1
    ch.basic_qos(prefetch_count=5, global_qos=True)
    assert len(consumer.wait(5)) == 5
    ch.basic_qos(prefetch_count=0, global_qos=True)
    assert len(consumer.wait(10)) == 10


def test_prefetch_does_not_bind_automatic_acknowledgement(ch, queue):
    q = queue()
    publish(ch, q, *range(50))
    ch.basic_qos(prefetch_count=1)
    assert len(Consumer(ch, q, auto_ack=True).wait(50)) == 50


def test_prefetch_does_not_bind_get(ch, queue):
    q = queue()
    publish(ch, q, *range(3))
    ch.basic_qos(prefetch_count=1, global_qos=True)
    assert [get(ch, q, auto_ack=False)[2] for _ in range(3)] == [b"0", b"1", b"2"]


def test_prefetch_size_is_not_done(connect):
    with closes_connection(540, "NOT_IMPLEMENTED - prefetch_size!=0"):
        connect().channel().basic_qos(prefetch_size=1000)


def test_consumers_take_turns(ch, queue):
    q = queue()
    consumers_ = [Consumer(ch, q, auto_ack=True) for _ in range(3)]
    for n in range(30):
        publish(ch, q, n)
        ch.connection.process_data_events(0)
    for consumer in consumers_:
        consumer.wait(10)
        assert len(consumer.received) == 10


@pytest.mark.parametrize("tag", [0, 1, 99])
def test_unknown_tag(ch, tag):
    with closes_channel(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}"):
        ch.basic_ack(tag)
        sync(ch)


@pytest.mark.parametrize("settle", ["basic_ack", "basic_nack", "basic_reject"])
def test_settling_twice(ch, queue, settle):
    q = queue()
    publish(ch, q, 1)
    method, _, _ = get(ch, q, auto_ack=False)
    ch.basic_ack(method.delivery_tag)
    with closes_channel(406, "PRECONDITION_FAILED - unknown delivery tag 1"):
        getattr(ch, settle)(method.delivery_tag)
        sync(ch)


def test_tag_of_an_automatically_acknowledged_delivery(ch, queue):
    q = queue()
    publish(ch, q, 1)
    method, _, _ = get(ch, q)
    with closes_channel(406, "PRECONDITION_FAILED - unknown delivery tag 1"):
        ch.basic_ack(method.delivery_tag)
        sync(ch)


def test_tag_of_another_channel(connection, queue):
    q, one, two = queue(), connection.channel(), connection.channel()
    publish(one, q, 1)
    method, _, _ = get(one, q, auto_ack=False)
    with closes_channel(406, "PRECONDITION_FAILED - unknown delivery tag 1"):
        two.basic_ack(method.delivery_tag)
        sync(two)
    one.basic_ack(method.delivery_tag)
    sync(one)


def test_ack_multiple(ch, queue):
    q = queue()
    publish(ch, q, *range(5))
    methods = [get(ch, q, auto_ack=False)[0] for _ in range(5)]
    ch.basic_ack(methods[2].delivery_tag, multiple=True)
    ch.basic_nack(methods[4].delivery_tag, multiple=True, requeue=True)
    sync(ch)
    assert bodies(ch, q, 2) == [b"3", b"4"]
    assert is_empty(ch, q)


def test_ack_multiple_zero_is_all(ch, queue):
    q = queue()
    publish(ch, q, *range(5))
    for _ in range(5):
        get(ch, q, auto_ack=False)
    ch.basic_ack(0, multiple=True)
    ch.basic_ack(0, multiple=True)
    sync(ch)
    assert is_empty(ch, q)


def test_ack_multiple_unknown_tag(ch, queue):
    q = queue()
    publish(ch, q, 1)
    get(ch, q, auto_ack=False)
    with closes_channel(406, "PRECONDITION_FAILED - unknown delivery tag 7"):
        ch.basic_ack(7, multiple=True)
        sync(ch)


def test_ack_out_of_order(ch, queue):
    q = queue()
    publish(ch, q, *range(4))
    tags = [get(ch, q, auto_ack=False)[0].delivery_tag for _ in range(4)]
    for tag in [tags[3], tags[1], tags[0], tags[2]]:
        ch.basic_ack(tag)
    sync(ch)


def test_get_counts_what_is_left(ch, queue):
    q = queue()
    publish(ch, q, *range(3))
    sync(ch)
    assert [ch.basic_get(q, auto_ack=True)[0].message_count for _ in range(3)] == [2, 1, 0]
    assert ch.basic_get(q) == (None, None, None)


def test_get_absent(ch):
    with closes_channel(404, "NOT_FOUND - no queue 'absent-one' in vhost '/'"):
        ch.basic_get("absent-one")


def test_recover_requeues(ch, queue):
    q = queue()
    publish(ch, q, 1, 2)
    for _ in range(2):
        get(ch, q, auto_ack=False)
    ch.basic_recover(requeue=True)
    again = [get(ch, q) for _ in range(2)]
    assert [(b, m.redelivered) for m, _, b in again] == [(b"1", True), (b"2", True)]


def test_recover_delivers_again_to_the_same_consumer(ch, queue):
    q = queue()
    consumer = Consumer(ch, q)
    publish(ch, q, "x")
    consumer.wait(1)
    ch.basic_recover(requeue=True)
    assert consumer.wait(2) == [b"x", b"x"]
    assert [m.redelivered for m, _, _ in consumer.received] == [False, True]


def test_recover_without_requeue(connect):
    with closes_connection(540, "NOT_IMPLEMENTED - requeue=false"):
        connect().channel().basic_recover(requeue=False)


def test_recover_async(ch, queue):
    q = queue()
    publish(ch, q, 1)
    get(ch, q, auto_ack=False)
    ch._impl._send_method(pika.spec.Basic.RecoverAsync(requeue=True))
    assert bodies(ch, q, 1) == [b"1"]


def test_exclusive_consumer_keeps_others_out(ch, connect, queue):
    q = queue()
    tag = ch.basic_consume(q, lambda *_: None, exclusive=True)
    other = connect()
    with closes_channel(403, f"ACCESS_REFUSED - queue '{q}' in vhost '/' in exclusive use"):
        other.channel().basic_consume(q, lambda *_: None)
    ch.basic_cancel(tag)
    other.channel().basic_consume(q, lambda *_: None)


def test_exclusive_consumer_must_be_first(ch, connect, queue):
    q = queue()
    ch.basic_consume(q, lambda *_: None)
    with closes_channel(403, f"ACCESS_REFUSED - queue '{q}' in vhost '/' in exclusive use"):
        connect().channel().basic_consume(q, lambda *_: None, exclusive=True)


def test_consumer_priority(ch, queue):
    """A consumer of lower priority gets something only while the higher ones have no credit."""
    q = queue()
    ch.basic_qos(prefetch_count=2)
    low = Consumer(ch, q, arguments={"x-priority": -1})
    usual = Consumer(ch, q)
    high = Consumer(ch, q, arguments={"x-priority": 10})
    publish(ch, q, *range(5))
    high.wait(2), usual.wait(2), low.wait(1)
    assert (high.bodies, usual.bodies, low.bodies) == ([b"0", b"1"], [b"2", b"3"], [b"4"])
    high.ack()
    publish(ch, q, 5)
    assert high.wait(3)[2] == b"5"


def test_consumer_priority_must_be_a_number(ch, queue):
    with closes_channel(406, "PRECONDITION_FAILED - .*x-priority"):
        ch.basic_consume(queue(), lambda *_: None, arguments={"x-priority": "high"})


def test_single_active_consumer(connection, queue):
    q = queue({"x-single-active-consumer": True})
    first, second = connection.channel(), connection.channel()
    for channel in [first, second]:
        channel.basic_qos(prefetch_count=1)
    one, two = Consumer(first, q), Consumer(second, q)
    publish(first, q, *range(4))
    one.wait(1)
    one.quiet()
    assert two.bodies == []
    one.ack()
    one.wait(2)
    # What the active one leaves unsettled when it goes comes first at its successor.
    first.close()
    two.wait(1)
    assert two.received[0][2] == b"1" and two.received[0][0].redelivered
    two.ack()
    assert two.wait(2)[1] == b"2"


def test_single_active_consumer_by_cancel(connection, queue):
    q = queue({"x-single-active-consumer": True})
    ch = connection.channel()
    one, two = Consumer(ch, q), Consumer(ch, q)
    publish(ch, q, 1)
    one.wait(1)
    one.ack()
    ch.basic_cancel(one.tag)
    publish(ch, q, 2)
    assert two.wait(1) == [b"2"]


def test_single_active_refuses_exclusive(ch, queue):
    q = queue({"x-single-active-consumer": True})
    with closes_channel(403, f"ACCESS_REFUSED - queue '{q}' in vhost '/' in exclusive use"):
        ch.basic_consume(q, lambda *_: None, exclusive=True)


def test_cancel_notify_on_queue_delete(connect, ch, queue):
    q = queue()
    consumer = Consumer(connect().channel(), q, auto_ack=True)
    publish(ch, q, 1)
    consumer.wait(1)
    ch.queue_delete(q)
    consumer.wait_cancelled()
    # The channel lives on.
    sync(consumer.channel)


def test_publish_and_consume_on_one_channel_interleaved(ch, queue):
    q = queue()
    ch.basic_qos(prefetch_count=10)
    consumer = Consumer(ch, q)
    for n in range(200):
        publish(ch, q, n)
        if n % 10 == 9:
            consumer.wait(n + 1)
            consumer.ack(multiple=True)
    assert consumer.bodies == [str(n).encode() for n in range(200)]


def test_no_local_is_ignored(ch, queue):
    """As in RabbitMQ: the field has no effect."""
    q = queue()
    ch._impl._send_method(pika.spec.Basic.Consume(queue=q, consumer_tag="t", no_local=True, no_ack=True, nowait=True))
    assert consumers(ch, q) == 1


def test_slow_consumer_does_not_stop_another(connect, queue):
    q = queue()
    slow, quick = connect(), connect()
    lazy = slow.channel()
    lazy.basic_qos(prefetch_count=1)
    lazy.basic_consume(q, lambda *_: None)
    channel = quick.channel()
    consumer = Consumer(channel, q, auto_ack=True)
    publish(channel, q, *range(100))
    assert len(consumer.wait(99)) >= 99


def test_channel_flow_inactive_is_refused(connect):
    with closes_connection(540, "NOT_IMPLEMENTED - active=false"):
        channel = connect().channel()
        channel._impl._send_method(pika.spec.Channel.Flow(active=False))
        time.sleep(0.1)
        sync(channel)
