"""What is in a message arrives as it was sent: bodies of every size, properties, header tables."""

import datetime
import decimal

import pika
import pika.spec
import pytest

from raw import Raw
from support import closes_channel, get, props, publish, sync


@pytest.mark.parametrize("size", [0, 1, 131064, 131065, 262128, 1 << 20, 5 << 20])
def test_body_sizes(ch, queue, size):
    q = queue()
    body = (bytes(range(251)) * (size // 251 + 1))[:size]
    ch.basic_publish("", q, body, props(delivery_mode=2))
    assert get(ch, q)[2] == body


def test_64_mebibytes(ch, queue):
    q = queue()
    body = bytes(range(256)) * (64 * 4096)
    ch.confirm_delivery()
    ch.basic_publish("", q, body, props(delivery_mode=2))
    assert get(ch, q, timeout=30)[2] == body


@pytest.mark.ours("RabbitMQ looks when the body is complete")
def test_too_large(broker):
    """A content header that announces more than the limit is refused before a byte of the body has come."""
    one = Raw(broker.endpoint.host, broker.endpoint.port)
    one.open()
    one.open_channel()
    one.publish(1, "", "x", b"", size=1 << 40)
    frame = one.read_frame()
    assert isinstance(frame.method, (pika.spec.Channel.Close, pika.spec.Connection.Close))
    assert frame.method.reply_code in (311, 406, 501), frame.method.reply_text
    one.close()


def test_all_properties(ch, queue):
    q = queue()
    fields = {
        "content_type": "application/json",
        "content_encoding": "gzip",
        "headers": {"a": 1},
        "delivery_mode": 2,
        "priority": 7,
        "correlation_id": "c" * 255,
        "reply_to": "somewhere",
        "expiration": "60000",
        "message_id": "id-1",
        "timestamp": 1_700_000_000,
        "type": "kind",
        "user_id": "guest",
        "app_id": "app",
        "cluster_id": "cluster",
    }
    ch.basic_publish("", q, b"x", props(**fields))
    assert {key: getattr(get_properties, key) for get_properties in [get(ch, q)[1]] for key in fields} == fields


def test_no_properties(ch, queue):
    q = queue()
    ch.basic_publish("", q, b"x")
    properties = get(ch, q)[1]
    assert all(value is None for value in vars(properties).values()), properties


def test_header_values(ch, queue):
    q = queue()
    headers = {
        "bool": True,
        "int": 5,
        "negative": -5,
        "big": 1 << 40,
        "string": "text",
        "utf8": "größe",
        "bytes": b"\x00\xff",
        "decimal": decimal.Decimal("1.25"),
        "time": datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        "none": None,
        "list": [1, "two", [3], {"four": 4}],
        "table": {"deep": {"deeper": {"deepest": 1}}},
        "empty table": {},
        "empty list": [],
    }
    publish(ch, q, "x", headers=headers)
    assert get(ch, q)[1].headers == headers


def test_header_types_arrive_byte_by_byte(broker, ch, queue):
    """Every type letter, also those that pika does not send, comes back as the same bytes."""
    q = queue()
    fields = b"".join(
        [
            b"\x01tt\x01",
            b"\x01bb\xff",
            b"\x01BB\xff",
            b"\x01ss\xff\xfe",
            b"\x01uu\xff\xfe",
            b"\x01II\xff\xff\xff\xfe",
            b"\x01ii\xff\xff\xff\xfe",
            b"\x01ll" + b"\xff" * 8,
            b"\x01ff\x3f\x80\x00\x00",
            b"\x01dd\x3f\xf0\x00\x00\x00\x00\x00\x00",
            b"\x01DD\x02\x00\x00\x00\x7d",
            b"\x01SS\x00\x00\x00\x02hi",
            b"\x01AA\x00\x00\x00\x03b\x01V",
            b"\x01TT\x00\x00\x00\x00\x65\x00\x00\x00",
            b"\x01FF\x00\x00\x00\x04\x01kt\x01",
            b"\x01VV",
            b"\x01xx\x00\x00\x00\x02\x00\xff",
        ]
    )
    table = len(fields).to_bytes(4, "big") + fields
    # Flags: headers only.
    payload = (60).to_bytes(2, "big") + bytes(2) + (1).to_bytes(8, "big") + b"\x20\x00" + table
    one = Raw(broker.endpoint.host, broker.endpoint.port)
    one.open()
    one.open_channel()
    one.send_method(pika.spec.Basic.Publish(exchange="", routing_key=q), 1)
    one.send_frame(2, 1, payload)
    one.send_frame(3, 1, b"x")
    one.send_method(pika.spec.Basic.Qos(prefetch_count=1), 1)
    one.expect(pika.spec.Basic.QosOk)
    one.send_method(pika.spec.Basic.Get(queue=q, no_ack=True), 1)
    one.expect(pika.spec.Basic.GetOk)
    while len(one.buffer) < 7 + len(payload) + 1 + 8 + 1:
        one.buffer += one.socket.recv(65536)
    assert one.buffer[7 : 7 + len(payload)] == payload
    one.close()


def test_user_id_must_be_the_user(ch, queue):
    text = "PRECONDITION_FAILED - user_id property set to 'somebody' but authenticated user was 'guest'"
    with closes_channel(406, text):
        publish(ch, queue(), "x", user_id="somebody")
        sync(ch)


def test_ten_thousand_small_messages(ch, queue):
    q = queue()
    publish(ch, q, *range(10_000))
    got = []
    for method, _, body in ch.consume(q, auto_ack=True, inactivity_timeout=10):
        assert method is not None, f"only {len(got)} came"
        got.append(body)
        if len(got) == 10_000:
            break
    ch.cancel()
    assert got == [str(n).encode() for n in range(10_000)]


def test_redelivery_changes_nothing_else(ch, queue):
    q = queue()
    fields = {"headers": {"a": [1, 2]}, "message_id": "m", "delivery_mode": 2}
    ch.basic_publish("", q, b"x" * 300_000, props(**fields))
    for _ in range(2):
        method, properties, body = get(ch, q, auto_ack=False)
        assert {key: getattr(properties, key) for key in fields} == fields and body == b"x" * 300_000
        ch.basic_reject(method.delivery_tag, requeue=True)
    assert get(ch, q)[0].redelivered


def test_fan_out_of_a_large_body(ch, exchange, queue):
    x, queues = exchange("fanout"), [queue() for _ in range(4)]
    for q in queues:
        ch.queue_bind(q, x)
    body = b"0123456789abcdef" * 65536
    ch.basic_publish(x, "", body, props(delivery_mode=2))
    for q in queues:
        assert get(ch, q)[2] == body


def test_mixed_sizes_keep_order(ch, queue):
    q = queue()
    sent = [bytes([n % 251]) * (n * 37 % 5000 if n % 50 else 400_000) for n in range(200)]
    for body in sent:
        ch.basic_publish("", q, body, props(delivery_mode=2 if len(body) % 2 else 1))
    assert [get(ch, q)[2] for _ in sent] == sent
