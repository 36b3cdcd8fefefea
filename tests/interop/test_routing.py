"""Where a message goes: exchange types, exchange-to-exchange bindings, alternates, CC and BCC."""

import collections

import pytest

from support import bodies, closes_channel, get, is_empty, props, publish, ready, sync


def routed(ch, queue, exchange, key="", headers=None) -> bool:
    """Whether a message with this key and these headers reaches the queue."""
    ch.basic_publish(exchange, key, b"probe", props(headers=headers))
    sync(ch)
    arrived = ch.basic_get(queue, auto_ack=True)[0] is not None
    assert ch.basic_get(queue, auto_ack=True)[0] is None, "routed more than once"
    return arrived


def test_default_exchange_reaches_queues_by_name(ch, queue):
    q = queue()
    assert routed(ch, q, "", q)
    assert not routed(ch, q, "", q + "x")


def test_direct(ch, exchange, queue):
    x, q, other = exchange("direct"), queue(), queue()
    ch.queue_bind(q, x, "k")
    ch.queue_bind(other, x, "K")
    assert routed(ch, q, x, "k")
    assert not routed(ch, q, x, "K")
    assert bodies(ch, other, 1) == [b"probe"]


def test_direct_empty_key(ch, exchange, queue):
    x, q = exchange("direct"), queue()
    ch.queue_bind(q, x, "")
    assert routed(ch, q, x, "")
    assert not routed(ch, q, x, "k")


def test_fanout(ch, exchange, queue):
    x, queues = exchange("fanout"), [queue() for _ in range(5)]
    for number, q in enumerate(queues):
        ch.queue_bind(q, x, f"ignored-{number}")
    ch.basic_publish(x, "whatever", b"all")
    for q in queues:
        assert bodies(ch, q, 1) == [b"all"]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.orange.*", ["quick.orange.rabbit", "..orange.x"[1:]], ["quick.orange", "a.quick.orange.rabbit", "orange"]),
        ("lazy.#", ["lazy", "lazy.a", "lazy.a.b.c", "lazy."], ["a.lazy", "lazyx"]),
        ("#", ["", "a", "a.b.c", "."], []),
        # An empty key has no word at all, "." has two empty ones.
        ("*", ["a"], ["", "a.b", "."]),
        ("#.#", ["", "a", "a.b"], []),
        ("*.#", ["a", "a.b", "a.b.c"], []),
        ("#.*", ["a", "a.b"], []),
        ("#.a.#", ["a", "x.a", "a.y", "x.a.y", "a.a"], ["", "b", "x.b"]),
        ("a.#.b", ["a.b", "a.x.b", "a.x.y.b", "a.b.b"], ["a", "b", "a.b.c"]),
        ("a.*.#.b", ["a.x.b", "a.x.y.b"], ["a.b"]),
        ("a..b", ["a..b"], ["a.b", "a.x.b"]),
        ("", [""], ["a", "."]),
        ("a*.b", ["a*.b"], ["ax.b"]),
        ("#.*.#.*.#", ["a.b", "a.b.c"], ["a", "*"]),
    ],
)
def test_topic(ch, exchange, queue, pattern, matching, others):
    x, q = exchange("topic"), queue()
    ch.queue_bind(q, x, pattern)
    assert [key for key in matching if not routed(ch, q, x, key)] == []
    assert [key for key in others if routed(ch, q, x, key)] == []


def test_topic_unbind(ch, exchange, queue):
    x, q = exchange("topic"), queue()
    for key in ["a.*", "a.#", "a.b"]:
        ch.queue_bind(q, x, key)
    for key in ["a.*", "a.#"]:
        ch.queue_unbind(q, x, key)
    assert routed(ch, q, x, "a.b")
    assert not routed(ch, q, x, "a.c")
    ch.queue_unbind(q, x, "a.b")
    assert not routed(ch, q, x, "a.b")


HEADERS = [
    # arguments of the binding, headers of the message, whether it matches
    ({"x-match": "all", "a": "1", "b": 2}, {"a": "1", "b": 2, "c": 3}, True),
    ({"x-match": "all", "a": "1", "b": 2}, {"a": "1"}, False),
    ({"x-match": "all", "a": "1", "b": 2}, {"a": "1", "b": "2"}, False),
    ({"x-match": "any", "a": "1", "b": 2}, {"b": 2}, True),
    ({"x-match": "any", "a": "1", "b": 2}, {"a": "2", "b": 3}, False),
    ({"x-match": "any", "a": "1"}, None, False),
    ({"x-match": "all"}, None, True),
    ({"x-match": "all"}, {"a": "1"}, True),
    ({"x-match": "any"}, {"a": "1"}, False),
    ({}, {"a": "1"}, True),
    ({"a": "1"}, {"a": "1"}, True),
    ({"a": "1"}, {"a": "2"}, False),
    ({"x-match": "all", "a": None}, {"a": "anything"}, True),
    ({"x-match": "all", "a": None}, {"b": "anything"}, False),
    ({"x-match": "any", "a": None}, {"a": 1}, True),
    # Keys with x- are left out of the comparison, unless asked for.
    ({"x-match": "all", "x-a": "1", "b": "1"}, {"b": "1"}, True),
    ({"x-match": "any", "x-a": "1"}, {"x-a": "1"}, False),
    ({"x-match": "all", "a": True}, {"a": True}, True),
    ({"x-match": "all", "a": True}, {"a": False}, False),
]


@pytest.mark.parametrize(("arguments", "headers", "matches"), HEADERS)
def test_headers(ch, exchange, queue, arguments, headers, matches):
    x, q = exchange("headers"), queue()
    ch.queue_bind(q, x, "ignored", arguments)
    assert routed(ch, q, x, "other", headers) is matches


@pytest.mark.parametrize(
    ("arguments", "headers", "matches"),
    [
        ({"x-match": "all-with-x", "x-a": "1", "b": "1"}, {"b": "1"}, False),
        ({"x-match": "all-with-x", "x-a": "1", "b": "1"}, {"b": "1", "x-a": "1"}, True),
        ({"x-match": "any-with-x", "x-a": "1", "b": "1"}, {"x-a": "1"}, True),
        ({"x-match": "any-with-x", "x-a": "1", "b": "1"}, {"x-a": "2"}, False),
    ],
)
def test_headers_with_x(ch, exchange, queue, arguments, headers, matches):
    x, q = exchange("headers"), queue()
    ch.queue_bind(q, x, "", arguments)
    assert routed(ch, q, x, "", headers) is matches


def test_headers_bad_match(ch, exchange, queue):
    x, q = exchange("headers"), queue()
    with closes_channel(406, "PRECONDITION_FAILED - Invalid x-match field value .*; expected all"):
        ch.queue_bind(q, x, "", {"x-match": "most"})


def test_consistent_hash_keeps_keys_together(ch, exchange, queue):
    x, queues = exchange("x-consistent-hash"), [queue() for _ in range(4)]
    for q in queues:
        ch.queue_bind(q, x, "10")
    for _ in range(3):
        for key in range(400):
            ch.basic_publish(x, f"key-{key}", str(key).encode())
    seen = {}
    for q in queues:
        count = ready(ch, q)
        assert 3 * 30 <= count <= 3 * 200, "the share of a queue is far from its weight"
        for body, times in collections.Counter(bodies(ch, q, count)).items():
            assert body not in seen and times == 3, "a key went to two queues"
            seen[body] = q
    assert len(seen) == 400


def test_consistent_hash_by_weight(ch, exchange, queue):
    x, light, heavy = exchange("x-consistent-hash"), queue(), queue()
    ch.queue_bind(light, x, "1")
    ch.queue_bind(heavy, x, "9")
    for key in range(2000):
        ch.basic_publish(x, f"key-{key}", b"")
    sync(ch)
    assert ready(ch, light) + ready(ch, heavy) == 2000
    assert ready(ch, heavy) > 3 * ready(ch, light)


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({"hash-header": "by"}, lambda n: {"headers": {"by": f"v{n}"}}),
        ({"hash-property": "message_id"}, lambda n: {"message_id": f"v{n}"}),
        ({"hash-property": "correlation_id"}, lambda n: {"correlation_id": f"v{n}"}),
        ({"hash-property": "timestamp"}, lambda n: {"timestamp": n}),
    ],
)
def test_consistent_hash_on_something_else(ch, exchange, queue, arguments, fields):
    x, queues = exchange("x-consistent-hash", arguments=arguments), [queue(), queue()]
    for q in queues:
        ch.queue_bind(q, x, "5")
    for round_ in range(2):
        for n in range(50):
            ch.basic_publish(x, f"{round_}", str(n).encode(), props(**fields(n)))
    sync(ch)
    first, second = (set(bodies(ch, q, ready(ch, q))) for q in queues)
    assert not first & second and len(first | second) == 50


def test_consistent_hash_bad_weight(ch, exchange, queue):
    x, q = exchange("x-consistent-hash"), queue()
    with closes_channel(406, "PRECONDITION_FAILED"):
        ch.queue_bind(q, x, "heavy")


def test_consistent_hash_header_and_property(ch, name):
    with closes_channel(406, "PRECONDITION_FAILED"):
        arguments = {"hash-header": "a", "hash-property": "message_id"}
        ch.exchange_declare(name(), "x-consistent-hash", arguments=arguments)


def test_exchange_to_exchange(ch, exchange, queue):
    source, destination, q = exchange("topic", suffix="s"), exchange("direct", suffix="d"), queue()
    ch.exchange_bind(destination, source, "a.*")
    ch.queue_bind(q, destination, "a.b")
    assert routed(ch, q, source, "a.b")
    assert not routed(ch, q, source, "a.c")
    ch.exchange_unbind(destination, source, "a.*")
    assert not routed(ch, q, source, "a.b")


def test_exchange_cycle_delivers_once(ch, exchange, queue):
    one, two, q = exchange("fanout", suffix="1"), exchange("fanout", suffix="2"), queue()
    ch.exchange_bind(one, two)
    ch.exchange_bind(two, one)
    ch.exchange_bind(one, one)
    ch.queue_bind(q, one)
    ch.queue_bind(q, two)
    assert routed(ch, q, one)


def test_alternate_exchange(ch, exchange, queue):
    fallback = exchange("fanout", suffix="alt")
    x, q, rest = exchange("direct", arguments={"alternate-exchange": fallback}, suffix="x"), queue(), queue()
    ch.queue_bind(q, x, "k")
    ch.queue_bind(rest, fallback)
    assert not routed(ch, rest, x, "k")
    assert bodies(ch, q, 1) == [b"probe"]
    assert routed(ch, rest, x, "unknown")


def test_alternate_exchange_chain_and_cycle(ch, exchange, queue, name):
    first, second = name("first"), name("second")
    exchange("direct", arguments={"alternate-exchange": second}, suffix="first")
    exchange("direct", arguments={"alternate-exchange": first}, suffix="second")
    q = queue()
    ch.queue_bind(q, second, "k")
    assert routed(ch, q, first, "k")
    assert not routed(ch, q, first, "unroutable")


def test_alternate_exchange_absent_drops(ch, exchange, queue):
    x, q = exchange("direct", arguments={"alternate-exchange": "absent-one"}), queue()
    assert not routed(ch, q, x, "k")


def test_alternate_exchange_after_exchange_bindings(ch, exchange, queue):
    """An exchange that routes to an exchange has routed: its own alternate is not asked."""
    fallback, inner = exchange("fanout", suffix="alt"), exchange("direct", suffix="inner")
    x = exchange("fanout", arguments={"alternate-exchange": fallback}, suffix="x")
    q = queue()
    ch.queue_bind(q, fallback)
    ch.exchange_bind(inner, x)
    assert not routed(ch, q, x, "nobody")


def test_cc_and_bcc(ch, exchange, queue):
    x, main, copy, blind = exchange("direct"), queue(), queue(), queue()
    for q, key in [(main, "main"), (copy, "copy"), (blind, "blind")]:
        ch.queue_bind(q, x, key)
    headers = {"CC": ["copy"], "BCC": ["blind"], "other": 1}
    ch.basic_publish(x, "main", b"x", props(headers=headers))
    for q in [main, copy, blind]:
        method, properties, _ = get(ch, q)
        assert method.routing_key == "main"
        assert properties.headers == {"CC": ["copy"], "other": 1}, "BCC is removed, CC stays"


def test_cc_by_the_default_exchange(ch, queue):
    main, copy = queue(), queue()
    publish(ch, main, "x", headers={"CC": [copy, copy, main]})
    assert bodies(ch, main, 1) == bodies(ch, copy, 1) == [b"x"]
    assert is_empty(ch, main) and is_empty(ch, copy)


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_cc_must_be_a_list(ch, queue, header):
    with closes_channel(406, f"PRECONDITION_FAILED - invalid_routing_headers|PRECONDITION_FAILED - unexpected value for '?{header}'?|PRECONDITION_FAILED - .*{header}"):
        publish(ch, queue(), "x", headers={header: "not-a-list"})
        sync(ch)


def test_messages_carry_exchange_and_key(ch, exchange, queue):
    x, q = exchange("topic"), queue()
    ch.queue_bind(q, x, "#")
    ch.basic_publish(x, "some.key", b"x")
    method, _, _ = get(ch, q)
    assert (method.exchange, method.routing_key, method.redelivered) == (x, "some.key", False)


def test_key_of_255_bytes(ch, exchange, queue):
    x, q, key = exchange("direct"), queue(), "k" * 255
    ch.queue_bind(q, x, key)
    assert routed(ch, q, x, key)


def test_thousand_bindings(ch, exchange, queue):
    x, queues = exchange("topic"), [queue() for _ in range(10)]
    for n in range(1000):
        ch.queue_bind(queues[n % 10], x, f"a.{n}.*")
    for n in range(1000):
        ch.basic_publish(x, f"a.{n}.b", str(n).encode())
    sync(ch)
    for index, q in enumerate(queues):
        assert ready(ch, q) == 100
        assert bodies(ch, q, 100) == [str(n).encode() for n in range(index, 1000, 10)]
