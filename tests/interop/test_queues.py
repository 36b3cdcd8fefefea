"""queue.declare, bind, purge and delete: names, flags, equivalence, exclusiveness, reply codes and texts."""

import pika
import pytest

from support import Consumer, bodies, closes_channel, consumers, cut, eventually, is_empty, publish, ready, sync


def test_server_named(ch):
    one = ch.queue_declare("", exclusive=True).method.queue
    assert one.startswith("amq.gen-") and len(one) > 20
    assert ch.queue_declare("", exclusive=True).method.queue != one


def test_empty_name_is_the_last_declared(ch):
    """Bind, consume, get, purge and delete take the channel's last declared queue."""
    one = ch.queue_declare("", exclusive=True).method.queue
    ch.queue_bind("", "amq.fanout")
    publish(ch, one, "x")
    method, _, _ = ch.basic_get("", auto_ack=True)
    assert method is not None
    assert ch.queue_purge("").method.message_count == 0
    assert ch.queue_delete("").method.message_count == 0


def test_empty_name_without_a_declare(connection, name):
    with closes_channel(404, "NOT_FOUND - no previously declared queue"):
        connection.channel().basic_get("")


def test_empty_routing_key_is_the_queue_name_when_both_are_empty(ch):
    one = ch.queue_declare("", exclusive=True).method.queue
    ch.queue_bind("", "amq.direct", "")
    ch.basic_publish("amq.direct", one, b"x")
    assert bodies(ch, one, 1) == [b"x"]


def test_reserved_name(ch):
    with closes_channel(403, r"ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq\.\*'"):
        ch.queue_declare("amq.mine")


def test_counts(ch, queue):
    q = queue()
    publish(ch, q, 1, 2, 3)
    sync(ch)
    declared = ch.queue_declare(q, durable=True).method
    assert (declared.queue, declared.message_count, declared.consumer_count) == (q, 3, 0)
    ch.basic_qos(prefetch_count=1)
    ch.basic_consume(q, lambda *_: None)
    declared = ch.queue_declare(q, passive=True).method
    assert (declared.message_count, declared.consumer_count) == (2, 1), "unacknowledged ones are not counted"


def test_passive_absent(ch):
    with closes_channel(404, "NOT_FOUND - no queue 'absent-one' in vhost '/'"):
        ch.queue_declare("absent-one", passive=True)


@pytest.mark.parametrize("flag", ["durable", "auto_delete", "exclusive"])
def test_redeclare_other_flag(ch, queue, flag):
    q = queue(auto_delete=False)
    options = {"durable": True, flag: flag != "durable"}
    if flag == "exclusive":
        code, text = 405, f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{q}' in vhost '/'"
    else:
        was, now = str(flag == "durable").lower(), str(flag != "durable").lower()
        code = 406
        text = f"PRECONDITION_FAILED - inequivalent arg '{flag}' for queue '{q}' in vhost '/': received '{now}' but current is '{was}'"
    with closes_channel(code, text):
        ch.queue_declare(q, **options)


@pytest.mark.parametrize(
    ("argument", "value", "other"),
    [
        ("x-message-ttl", 60000, 60001),
        ("x-expires", 60000, 60001),
        ("x-max-length", 10, 11),
        ("x-max-length-bytes", 10, 11),
        ("x-max-priority", 5, 6),
        ("x-dead-letter-exchange", "one", "two"),
        ("x-overflow", "drop-head", "reject-publish"),
    ],
)
def test_redeclare_other_argument(ch, queue, argument, value, other):
    base = {"x-dead-letter-exchange": "dlx"} if argument == "x-dead-letter-routing-key" else {}
    q = queue({argument: value} | base)
    text = f"PRECONDITION_FAILED - inequivalent arg '{argument}' for queue '{q}' in vhost '/': received .*'{other}'.* but current is .*'{value}'"
    with closes_channel(406, text):
        ch.queue_declare(q, durable=True, arguments={argument: other} | base)


def test_redeclare_without_argument(ch, queue):
    q = queue({"x-max-length": 10})
    text = f"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{q}' in vhost '/': received none but current is the value '10' of type '(signedint|long|signed)'"
    with closes_channel(406, text):
        ch.queue_declare(q, durable=True)


def test_redeclare_with_more_arguments(ch, queue):
    q = queue()
    text = f"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue '{q}' in vhost '/': received the value '10' of type '\\w+' but current is none"
    with closes_channel(406, text):
        ch.queue_declare(q, durable=True, arguments={"x-max-length": 10})


def test_integers_of_any_width_are_equal(ch, queue):
    """The type of a number in an argument does not matter, its value does: pika sends these as `I` and as `l`."""
    q = queue({"x-max-length": 10})
    ch.queue_declare(q, durable=True, arguments={"x-max-length": pika.compat.long(10)})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("x-message-ttl", -1),
        ("x-message-ttl", "60000"),
        ("x-expires", 0),
        ("x-expires", -1),
        ("x-max-length", -1),
        ("x-max-length", "ten"),
        ("x-max-length-bytes", -1),
        ("x-max-priority", -1),
        ("x-max-priority", 256),
        ("x-overflow", "explode"),
        ("x-dead-letter-exchange", 5),
        ("x-single-active-consumer", "yes"),
        ("x-queue-type", "nonsense"),
    ],
)
def test_bad_argument(ch, name, argument, value):
    with closes_channel(406, "PRECONDITION_FAILED - .*" + argument if argument != "x-queue-type" else "PRECONDITION_FAILED"):
        ch.queue_declare(name(), durable=True, arguments={argument: value})


def test_dead_letter_key_without_exchange(ch, name):
    with closes_channel(406, "PRECONDITION_FAILED - invalid arg 'x-dead-letter-routing-key' for queue"):
        ch.queue_declare(name(), durable=True, arguments={"x-dead-letter-routing-key": "k"})


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-queue-type": "classic"},
        {"x-queue-type": "quorum"},
        {"x-queue-mode": "lazy"},
        {"x-queue-version": 2},
        {"x-queue-type": "quorum", "x-quorum-initial-group-size": 3},
        {"x-queue-type": "quorum", "x-max-in-memory-length": 10},
        {"x-queue-type": "quorum", "x-queue-leader-locator": "balanced"},
        {"x-queue-master-locator": "client-local"},
    ],
)
def test_arguments_that_change_nothing_here_are_accepted(ch, queue, arguments):
    q = queue(arguments)
    publish(ch, q, "x")
    assert bodies(ch, q, 1) == [b"x"]
    ch.queue_declare(q, durable=True, arguments=arguments)


@pytest.mark.parametrize("options", [{"durable": False}, {"exclusive": True}])
def test_quorum_must_be_durable_and_shared(ch, name, options):
    options = {"durable": True} | options
    with closes_channel(406, "PRECONDITION_FAILED - invalid property '(non-durable|exclusive-owner|exclusive)' for queue"):
        ch.queue_declare(name(), arguments={"x-queue-type": "quorum"}, **options)


def test_exclusive_is_locked_for_others(ch, connect, name):
    q = name()
    ch.queue_declare(q, exclusive=True)
    text = f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{q}' in vhost '/'. It could be originally declared on another connection"
    other = connect()
    for act in [
        lambda c: c.queue_declare(q, exclusive=True),
        lambda c: c.queue_declare(q, passive=True),
        lambda c: c.basic_get(q),
        lambda c: c.basic_consume(q, lambda *_: None),
        lambda c: c.queue_bind(q, "amq.fanout"),
        lambda c: c.queue_purge(q),
        lambda c: c.queue_delete(q),
    ]:
        with closes_channel(405, text):
            act(other.channel())


def test_exclusive_can_be_published_to_by_others(ch, connect, name):
    q = name()
    ch.queue_declare(q, exclusive=True)
    publish(connect().channel(), q, "x")
    assert bodies(ch, q, 1) == [b"x"]


def test_exclusive_goes_with_its_connection(ch, connect, name):
    q, other = name(), connect()
    other.channel().queue_declare(q, exclusive=True, durable=True)
    other.close()
    with closes_channel(404, "NOT_FOUND"):
        ch.queue_declare(q, passive=True)


def test_exclusive_name_is_free_at_once_after_close(connect, name):
    """Clients that reconnect declare the same name again: the close-ok comes after the queue has gone."""
    q = name()
    for _ in range(20):
        one = connect()
        one.channel().queue_declare(q, exclusive=True)
        one.close()


def test_exclusive_outlives_its_channel(connection, name):
    q = name()
    first = connection.channel()
    first.queue_declare(q, exclusive=True)
    first.close()
    connection.channel().queue_declare(q, exclusive=True)


def test_auto_delete_goes_with_its_last_consumer(connection, name):
    q, ch = name(), connection.channel()
    ch.queue_declare(q, auto_delete=True, durable=True)
    one, two = (ch.basic_consume(q, lambda *_: None) for _ in range(2))
    ch.basic_cancel(one)
    assert consumers(ch, q) == 1
    ch.basic_cancel(two)
    with closes_channel(404, "NOT_FOUND"):
        ch.queue_declare(q, passive=True)


def test_auto_delete_waits_for_a_first_consumer(ch, queue):
    q = queue(auto_delete=True)
    publish(ch, q, "x")
    assert bodies(ch, q, 1) == [b"x"]
    ch.queue_declare(q, passive=True)


def test_auto_delete_by_channel_close(connection, name):
    q, ch = name(), connection.channel()
    ch.queue_declare(q, auto_delete=True, durable=True)
    ch.basic_consume(q, lambda *_: None)
    ch.close()
    with closes_channel(404, "NOT_FOUND"):
        connection.channel().queue_declare(q, passive=True)


def test_auto_delete_by_connection_loss(ch, connect, name):
    q, other = name(), connect()
    channel = other.channel()
    channel.queue_declare(q, auto_delete=True, durable=True)
    channel.basic_consume(q, lambda *_: None)
    cut(other)

    def gone():
        try:
            connect().channel().queue_declare(q, passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            return error.reply_code == 404

    eventually(gone)


def test_purge_counts_ready_messages_only(ch, queue):
    q = queue()
    publish(ch, q, 1, 2, 3)
    method, _, _ = ch.basic_get(q)
    assert ch.queue_purge(q).method.message_count == 2
    assert ready(ch, q) == 0
    ch.basic_reject(method.delivery_tag, requeue=True)
    assert bodies(ch, q, 1) == [b"1"]


def test_purge_absent(ch):
    with closes_channel(404, "NOT_FOUND - no queue 'absent-one' in vhost '/'"):
        ch.queue_purge("absent-one")


def test_delete_counts(ch, queue):
    q = queue()
    publish(ch, q, 1, 2)
    sync(ch)
    assert ch.queue_delete(q).method.message_count == 2


def test_delete_absent_is_ok(ch):
    assert ch.queue_delete("absent-one").method.message_count == 0


def test_delete_if_empty(ch, queue):
    q = queue()
    publish(ch, q, 1)
    sync(ch)
    with closes_channel(406, f"PRECONDITION_FAILED - queue '{q}' in vhost '/' not empty"):
        ch.queue_delete(q, if_empty=True)


def test_delete_if_unused(ch, queue):
    q = queue()
    ch.basic_consume(q, lambda *_: None)
    with closes_channel(406, f"PRECONDITION_FAILED - queue '{q}' in vhost '/' in use"):
        ch.queue_delete(q, if_unused=True)


def test_delete_if_both_and_neither_holds_back(ch, queue):
    q = queue()
    ch.queue_delete(q, if_unused=True, if_empty=True)
    with closes_channel(404, "NOT_FOUND"):
        ch.queue_declare(q, passive=True)


def test_delete_takes_messages_and_bindings(ch, exchange, queue):
    x, q = exchange("fanout"), queue()
    ch.queue_bind(q, x)
    publish(ch, q, "old")
    ch.queue_delete(q)
    ch.queue_declare(q, durable=True)
    ch.basic_publish(x, "", b"x")
    assert is_empty(ch, q)


def test_bind_absent_queue(ch):
    with closes_channel(404, "NOT_FOUND - no queue 'absent-one' in vhost '/'"):
        ch.queue_bind("absent-one", "amq.fanout")


def test_bind_absent_exchange(ch, queue):
    with closes_channel(404, "NOT_FOUND - no exchange 'absent-one' in vhost '/'"):
        ch.queue_bind(queue(), "absent-one")


def test_unbind_absent_is_ok(ch, queue):
    ch.queue_unbind(queue(), "amq.fanout", "never-bound")


def test_no_wait(ch, name):
    """pika has no no-wait for these: the frames are sent by hand, nothing comes back, and all is done."""
    q, send = name(), ch._impl._send_method
    send(pika.spec.Queue.Declare(queue=q, durable=True, nowait=True))
    send(pika.spec.Queue.Bind(queue=q, exchange="amq.direct", routing_key=q, nowait=True))
    ch.basic_publish("amq.direct", q, b"x")
    assert bodies(ch, q, 1) == [b"x"]
    send(pika.spec.Queue.Purge(queue=q, nowait=True))
    send(pika.spec.Queue.Delete(queue=q, nowait=True))
    with closes_channel(404, "NOT_FOUND"):
        ch.queue_declare(q, passive=True)


def test_transient_shared_queues_still_work(ch, queue):
    """RabbitMQ 4.3 denies them by default, which broke clients; we do not."""
    q = queue(durable=False)
    publish(ch, q, "x")
    assert bodies(ch, q, 1) == [b"x"]


def test_deleting_a_queue_cancels_its_consumers(ch, connect, queue):
    q = queue()
    consumer = Consumer(connect().channel(), q)
    ch.queue_delete(q)
    consumer.wait_cancelled()


def test_names_in_utf8(ch, name):
    q = name("größe-队列")
    ch.queue_declare(q)
    publish(ch, q, "x")
    assert bodies(ch, q, 1) == [b"x"]
    ch.queue_delete(q)
