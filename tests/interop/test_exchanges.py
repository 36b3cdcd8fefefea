"""exchange.declare, delete, bind and unbind: equivalence, reserved names, reply codes and texts."""

import pika
import pytest

from support import bodies, closes_channel, closes_connection, get, is_empty

TYPES = ["direct", "fanout", "topic", "headers", "x-consistent-hash"]


@pytest.mark.parametrize("kind", TYPES)
def test_redeclare_equal(ch, exchange, kind):
    one = exchange(kind)
    ch.exchange_declare(one, kind, durable=True)
    ch.exchange_declare(one, passive=True)


@pytest.mark.parametrize("predeclared", ["amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"])
def test_predeclared(ch, predeclared):
    ch.exchange_declare(predeclared, passive=True)
    kind = "headers" if predeclared == "amq.match" else predeclared.removeprefix("amq.")
    ch.exchange_declare(predeclared, kind, durable=True)


def test_redeclare_other_type(ch, exchange):
    one = exchange("direct")
    text = f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{one}' in vhost '/': received 'fanout' but current is 'direct'"
    with closes_channel(406, text):
        ch.exchange_declare(one, "fanout", durable=True)


@pytest.mark.parametrize("flag", ["durable", "auto_delete", "internal"])
def test_redeclare_other_flag(ch, exchange, flag):
    one = exchange("direct")
    options = {"durable": True, flag: flag != "durable"}
    text = f"PRECONDITION_FAILED - inequivalent arg '{flag}' for exchange '{one}' in vhost '/': received '{str(options[flag]).lower()}' but current is '{str(not options[flag]).lower()}'"
    with closes_channel(406, text):
        ch.exchange_declare(one, "direct", **options)


def test_redeclare_other_alternate(ch, exchange):
    one = exchange("direct", arguments={"alternate-exchange": "amq.fanout"})
    text = f"PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange '{one}' in vhost '/': received .*'amq.topic'.* but current is .*'amq.fanout'"
    with closes_channel(406, text):
        ch.exchange_declare(one, "direct", durable=True, arguments={"alternate-exchange": "amq.topic"})


@pytest.mark.since4("an unknown type closed the connection with 503")
def test_unknown_type(ch, name):
    with closes_channel(406, "PRECONDITION_FAILED - .*(unknown|invalid) exchange type 'nonsense'"):
        ch.exchange_declare(name(), "nonsense")


def test_reserved_name(ch):
    with closes_channel(403, r"ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq\.\*'"):
        ch.exchange_declare("amq.mine", "direct")


def test_passive_absent(ch):
    with closes_channel(404, "NOT_FOUND - no exchange 'absent-one' in vhost '/'"):
        ch.exchange_declare("absent-one", passive=True)


@pytest.mark.parametrize("act", ["declare", "delete", "bind", "unbind", "bind_to", "bind_from"])
def test_default_exchange_is_fixed(ch, queue, act):
    one = queue()
    with closes_channel(403, "ACCESS_REFUSED - operation not permitted on the default exchange"):
        match act:
            case "declare":
                ch.exchange_declare("", "direct", durable=True)
            case "delete":
                ch.exchange_delete("")
            case "bind":
                ch.queue_bind(one, "", "key")
            case "unbind":
                ch.queue_unbind(one, "", "key")
            case "bind_to":
                ch.exchange_bind("", "amq.direct", "key")
            case "bind_from":
                ch.exchange_bind("amq.direct", "", "key")


def test_delete_predeclared(ch):
    with closes_channel(403, "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed"):
        ch.exchange_delete("amq.direct")


def test_delete_absent_is_ok(ch):
    ch.exchange_delete("absent-one")


def test_delete_if_unused(ch, exchange, queue):
    one, q = exchange("direct"), queue()
    ch.queue_bind(q, one, "k")
    with closes_channel(406, f"PRECONDITION_FAILED - exchange '{one}' in vhost '/' in use"):
        ch.exchange_delete(one, if_unused=True)


def test_delete_if_unused_unused(ch, exchange):
    one = exchange("direct")
    ch.exchange_delete(one, if_unused=True)
    with closes_channel(404, "NOT_FOUND"):
        ch.exchange_declare(one, passive=True)


def test_auto_delete_goes_with_last_binding(ch, exchange, queue):
    one, q = exchange("direct", auto_delete=True), queue()
    ch.exchange_declare(one, passive=True)
    ch.queue_bind(q, one, "a")
    ch.queue_bind(q, one, "b")
    ch.queue_unbind(q, one, "a")
    ch.exchange_declare(one, passive=True)
    ch.queue_unbind(q, one, "b")
    with closes_channel(404, "NOT_FOUND"):
        ch.exchange_declare(one, passive=True)


def test_auto_delete_goes_with_its_last_queue(ch, exchange, queue):
    one, q = exchange("fanout", auto_delete=True), queue()
    ch.queue_bind(q, one)
    ch.queue_delete(q)
    with closes_channel(404, "NOT_FOUND"):
        ch.exchange_declare(one, passive=True)


def test_auto_delete_chain(ch, exchange, queue):
    """Deleting the last destination takes a chain of auto-delete exchanges with it."""
    first = exchange("fanout", auto_delete=True, suffix="first")
    second = exchange("fanout", auto_delete=True, suffix="second")
    q = queue()
    ch.queue_bind(q, second)
    ch.exchange_bind(second, first)
    ch.queue_delete(q)
    with closes_channel(404, "NOT_FOUND"):
        ch.exchange_declare(first, passive=True)


def test_publish_to_absent(ch):
    with closes_channel(404, "NOT_FOUND - no exchange 'absent-one' in vhost '/'"):
        ch.basic_publish("absent-one", "key", b"x")
        ch.basic_qos(prefetch_count=1)


def test_publish_to_internal(ch, exchange):
    one = exchange("fanout", internal=True)
    with closes_channel(403, f"ACCESS_REFUSED - cannot publish to internal exchange '{one}' in vhost '/'"):
        ch.basic_publish(one, "key", b"x")
        ch.basic_qos(prefetch_count=1)


def test_internal_takes_from_other_exchanges(ch, exchange, queue):
    inner, outer, q = exchange("fanout", internal=True, suffix="in"), exchange("fanout", suffix="out"), queue()
    ch.exchange_bind(inner, outer)
    ch.queue_bind(q, inner)
    ch.basic_publish(outer, "", b"through")
    assert bodies(ch, q, 1) == [b"through"]


@pytest.mark.parametrize("missing", ["source", "destination"])
def test_bind_absent_exchange(ch, missing):
    source, destination = ("absent-one", "amq.fanout") if missing == "source" else ("amq.fanout", "absent-one")
    with closes_channel(404, "NOT_FOUND - no exchange 'absent-one' in vhost '/'"):
        ch.exchange_bind(destination, source)


def test_unbind_absent_binding_is_ok(ch, exchange, queue):
    one, q = exchange("direct"), queue()
    ch.queue_unbind(q, one, "never-bound")
    ch.exchange_unbind("amq.fanout", one, "never-bound")


def test_deleting_an_exchange_takes_its_bindings(ch, exchange, queue):
    one, q = exchange("direct"), queue()
    ch.queue_bind(q, one, "k")
    ch.exchange_delete(one)
    ch.exchange_declare(one, "direct", durable=True)
    ch.basic_publish(one, "k", b"x")
    assert is_empty(ch, q)


def test_binding_twice_delivers_once(ch, exchange, queue):
    one, q = exchange("direct"), queue()
    for _ in range(2):
        ch.queue_bind(q, one, "k")
    ch.basic_publish(one, "k", b"x")
    assert bodies(ch, q, 1) == [b"x"]
    assert is_empty(ch, q)


def test_several_bindings_deliver_once(ch, exchange, queue):
    one, q = exchange("topic"), queue()
    for key in ["a.*", "#", "*.b", "a.b"]:
        ch.queue_bind(q, one, key)
    ch.basic_publish(one, "a.b", b"x")
    assert bodies(ch, q, 1) == [b"x"]
    assert is_empty(ch, q)


def test_bindings_differ_by_arguments(ch, exchange, queue):
    """An unbind names one binding by key and arguments; the others stay."""
    one, q = exchange("headers"), queue()
    ch.queue_bind(q, one, "", {"x-match": "all", "a": "1"})
    ch.queue_bind(q, one, "", {"x-match": "all", "b": "1"})
    ch.queue_unbind(q, one, "", {"x-match": "all", "a": "1"})
    ch.basic_publish(one, "", b"a", pika.BasicProperties(headers={"a": "1"}))
    ch.basic_publish(one, "", b"b", pika.BasicProperties(headers={"b": "1"}))
    assert get(ch, q)[2] == b"b"


def test_name_too_long_for_a_short_string(ch):
    """255 bytes fit, and are the limit of the type itself."""
    longest = "n" * 255
    ch.exchange_declare(longest, "fanout")
    ch.exchange_delete(longest)


def test_no_wait(ch, name):
    """pika has no no-wait for declares: the frame is sent by hand; nothing comes back, and it is done."""
    one = name()
    ch._impl._send_method(pika.spec.Exchange.Declare(exchange=one, type="fanout", nowait=True))
    ch.exchange_declare(one, passive=True)
    ch._impl._send_method(pika.spec.Exchange.Delete(exchange=one, nowait=True))
    with closes_channel(404, "NOT_FOUND"):
        ch.exchange_declare(one, passive=True)


def test_hard_error_names_the_method(connect):
    """A method that the class does not have ends the connection."""
    connection = connect()
    channel = connection.channel()
    with closes_connection(540, "NOT_IMPLEMENTED - immediate=true"):
        channel._impl._send_method(pika.spec.Basic.Publish(exchange="", routing_key="x", immediate=True), (pika.BasicProperties(), b"x"))
        channel.basic_qos(prefetch_count=1)
