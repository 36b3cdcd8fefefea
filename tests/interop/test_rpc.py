"""Direct reply-to, and request and reply by a queue of one's own."""

import pika
import pytest

from support import Consumer, closes_channel, eventually, get, props, sync

REPLY_TO = "amq.rabbitmq.reply-to"


def echo(channel, request) -> None:
    method, properties, body = request
    answer = props(correlation_id=properties.correlation_id)
    channel.basic_publish("", properties.reply_to, b"re: " + body, answer)


def test_direct_reply(ch, connect, queue):
    q, server = queue(), connect().channel()
    replies = Consumer(ch, REPLY_TO, auto_ack=True)
    for n in range(10):
        ch.basic_publish("", q, str(n).encode(), props(reply_to=REPLY_TO, correlation_id=str(n)))
        request = get(server, q)
        assert request[1].reply_to.startswith(REPLY_TO + ".") and request[1].reply_to != REPLY_TO
        echo(server, request)
        replies.wait(n + 1)
    assert [(p.correlation_id, b) for _, p, b in replies.received] == [(str(n), b"re: %d" % n) for n in range(10)]
    assert {m.exchange for m, _, _ in replies.received} == {""}


def test_direct_reply_from_the_same_connection(ch, queue):
    q = queue()
    replies = Consumer(ch, REPLY_TO, auto_ack=True)
    ch.basic_publish("", q, b"x", props(reply_to=REPLY_TO))
    echo(ch, get(ch, q))
    assert replies.wait(1) == [b"re: x"]


def test_direct_reply_is_mandatory_or_dropped_when_the_asker_is_gone(ch, connect, queue):
    q, asker = queue(), connect()
    channel = asker.channel()
    Consumer(channel, REPLY_TO, auto_ack=True)
    channel.basic_publish("", q, b"x", props(reply_to=REPLY_TO))
    address = get(ch, q)[1].reply_to
    asker.close()
    ch.basic_publish("", address, b"too late")
    sync(ch)
    ch.confirm_delivery()

    def returned():
        try:
            ch.basic_publish("", address, b"too late", mandatory=True)
        except pika.exceptions.UnroutableError:
            return True

    eventually(returned)


def test_passive_declare_tells_whether_the_asker_is_there(ch, connect, queue):
    q, asker = queue(), connect()
    channel = asker.channel()
    Consumer(channel, REPLY_TO, auto_ack=True)
    channel.basic_publish("", q, b"x", props(reply_to=REPLY_TO))
    address = get(ch, q)[1].reply_to
    assert ch.queue_declare(address, passive=True).method.queue == address
    asker.close()

    def gone():
        try:
            probe = ch.connection.channel()
            probe.queue_declare(address, passive=True)
            probe.close()
        except pika.exceptions.ChannelClosedByBroker as error:
            return error.reply_code == 404

    eventually(gone)


def test_reply_to_needs_automatic_acknowledgement(ch):
    with closes_channel(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge"):
        ch.basic_consume(REPLY_TO, lambda *_: None, auto_ack=False)


def test_reply_to_needs_a_consumer(ch, queue):
    with closes_channel(406, "PRECONDITION_FAILED - fast reply consumer does not exist"):
        ch.basic_publish("", queue(), b"x", props(reply_to=REPLY_TO))
        sync(ch)


def test_one_reply_consumer_per_channel(ch):
    Consumer(ch, REPLY_TO, auto_ack=True)
    with closes_channel(406, "PRECONDITION_FAILED - reply consumer already set"):
        ch.basic_consume(REPLY_TO, lambda *_: None, auto_ack=True)


def test_reply_consumer_can_be_cancelled_and_set_again(ch, queue):
    q = queue()
    first = Consumer(ch, REPLY_TO, auto_ack=True)
    ch.basic_cancel(first.tag)
    second = Consumer(ch, REPLY_TO, auto_ack=True)
    ch.basic_publish("", q, b"x", props(reply_to=REPLY_TO))
    echo(ch, get(ch, q))
    assert second.wait(1) == [b"re: x"]


@pytest.mark.parametrize("size", [0, 500_000])
def test_size_of_a_reply(ch, connect, queue, size):
    q, server = queue(), connect().channel()
    replies = Consumer(ch, REPLY_TO, auto_ack=True)
    ch.basic_publish("", q, b"ask", props(reply_to=REPLY_TO))
    server.basic_publish("", get(server, q)[1].reply_to, b"r" * size)
    assert replies.wait(1) == [b"r" * size]


@pytest.mark.ours("RabbitMQ 3.10 closes with 541")
def test_forged_reply_address(ch):
    """An address that nobody has is unroutable; it cannot crash anything."""
    ch.confirm_delivery()
    for address in [REPLY_TO + ".", REPLY_TO + ".x", REPLY_TO + ".g1h2AA5yZXBseUA5OTk.key=="]:
        with pytest.raises(pika.exceptions.UnroutableError):
            ch.basic_publish("", address, b"x", mandatory=True)


def test_rpc_by_an_exclusive_queue(ch, connect, queue):
    """The pattern of the tutorials: a server-named queue for replies, matched by correlation id."""
    q, server = queue(), connect().channel()
    replies = ch.queue_declare("", exclusive=True).method.queue
    for n in range(5):
        ch.basic_publish("", q, str(n).encode(), props(reply_to=replies, correlation_id=f"c{n}"))
    for _ in range(5):
        echo(server, get(server, q))
    got = [get(ch, replies) for _ in range(5)]
    assert [(p.correlation_id, b) for _, p, b in got] == [(f"c{n}", b"re: %d" % n) for n in range(5)]
