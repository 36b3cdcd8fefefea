"""Peers that misbehave harm only themselves."""

import random
import struct
import time

import pika
import pika.spec
import pytest

from raw import HEADER, Raw
from support import Consumer, bodies, publish, ready, sync

spec = pika.spec


@pytest.fixture
def raw(broker):
    opened = []

    def make(channel: bool = True) -> Raw:
        one = Raw(broker.endpoint.host, broker.endpoint.port)
        opened.append(one)
        one.open()
        if channel:
            one.open_channel()
        return one

    yield make
    for one in opened:
        one.close()


def works(ch, queue) -> None:
    """Somebody else's traffic goes on."""
    q = queue()
    started = time.monotonic()
    publish(ch, q, *range(100))
    assert bodies(ch, q, 100) == [str(n).encode() for n in range(100)]
    assert time.monotonic() - started < 5


def test_half_a_frame(raw, ch, queue):
    one = raw()
    one.send(struct.pack(">BHI", 1, 1, 100) + b"\x00\x3c")
    works(ch, queue)


def test_half_a_message(raw, ch, queue):
    for _ in range(20):
        raw().publish(1, "", "x", b"only this", size=100_000)
    works(ch, queue)


@pytest.mark.ours("RabbitMQ looks when the body is complete")
@pytest.mark.parametrize("size", [1 << 31, (1 << 63) - 1, (1 << 64) - 1])
def test_body_size_that_nobody_has(raw, ch, queue, size):
    one = raw()
    one.send_method(spec.Basic.Publish(exchange="", routing_key="x"), 1)
    one.send_frame(2, 1, struct.pack(">HHQH", 60, 0, size, 0))
    frame = one.read_frame()
    assert isinstance(frame.method, (spec.Channel.Close, spec.Connection.Close))
    works(ch, queue)


def test_a_frame_of_four_gibibytes(raw, ch, queue):
    one = raw()
    one.send(struct.pack(">BHI", 3, 1, 0xFFFFFFFF) + b"x" * 1000)
    frame = one.read_frame()
    assert frame is None or isinstance(frame.method, spec.Connection.Close)
    works(ch, queue)


def test_a_table_that_nests_deep(raw, ch, queue):
    one = raw()
    table = b""
    for _ in range(20_000):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
        if len(table) > 120_000:
            break
    arguments = struct.pack(">I", len(table)) + table
    one.send_frame(1, 1, struct.pack(">HHHB", 50, 10, 0, 1) + b"q" + b"\x00" + arguments)
    one.read_frame()
    works(ch, queue)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 1000])
def test_a_table_longer_than_its_frame(raw, ch, queue, length):
    one = raw()
    one.send_frame(1, 1, struct.pack(">HHHB", 50, 10, 0, 1) + b"q" + b"\x00" + struct.pack(">I", length) + b"\x01a")
    frame = one.read_frame()
    assert frame is None or frame.method.reply_code in (501, 502, 541)
    works(ch, queue)


def test_a_reader_that_never_reads(raw, ch, queue):
    q = queue()
    one = raw()
    one.send_method(spec.Basic.Consume(queue=q, no_ack=True, nowait=True), 1)
    body = b"x" * 100_000
    for _ in range(500):
        ch.basic_publish("", q, body)
    works(ch, queue)
    # What has not left comes back when the reader goes.
    one.close()
    sync(ch)
    assert ready(ch, q) > 0


def test_all_channels(raw, ch, queue):
    one = raw(channel=False)
    for number in range(1, 2048):
        one.send_method(spec.Channel.Open(), number)
    for _ in range(2047):
        one.expect(spec.Channel.OpenOk)
    works(ch, queue)


def test_names_that_are_not_utf8(raw, ch, queue):
    one = raw()
    one.send_frame(1, 1, struct.pack(">HHHB", 50, 10, 0, 3) + b"\xff\xfe\xfd" + b"\x00" + bytes(4))
    one.read_frame()
    works(ch, queue)


@pytest.mark.parametrize("seed", range(20))
def test_noise(broker, ch, queue, seed):
    """Random bytes at random points of a conversation."""
    rng = random.Random(seed)
    one = Raw(broker.endpoint.host, broker.endpoint.port)
    if seed % 4:
        one.open()
        one.open_channel()
    else:
        one.send(HEADER)
    try:
        for _ in range(rng.randrange(1, 20)):
            payload = rng.randbytes(rng.randrange(0, 200))
            if rng.random() < 0.5:
                one.send_frame(rng.choice([1, 2, 3, 8]), rng.choice([0, 1, 2]), payload)
            else:
                method = rng.choice([(50, 10), (60, 40), (60, 80), (40, 10), (60, 20), (90, 10), (85, 10), (20, 40)])
                one.send_frame(1, 1, struct.pack(">HH", *method) + payload)
    except OSError:
        pass
    one.close()
    works(ch, queue)


def test_connections_that_come_and_go(broker, ch, queue):
    for _ in range(300):
        one = Raw(broker.endpoint.host, broker.endpoint.port)
        one.send(HEADER[: random.randrange(9)])
        one.close()
    works(ch, queue)


def test_publishing_without_end_to_a_closed_channel(raw, ch, queue):
    one = raw()
    one.send_method(spec.Queue.Declare(queue="absent-one", passive=True), 1)
    for _ in range(2000):
        one.publish(1, "", "x", b"y" * 1000)
    assert one.expect(spec.Channel.Close).reply_code == 404
    works(ch, queue)


def test_a_consumer_lost_with_much_in_flight(connect, ch, queue):
    q = queue()
    publish(ch, q, *range(2000))
    other = connect()
    consumer = Consumer(other.channel(), q)
    consumer.wait(500)
    other.close()
    got = set(bodies(ch, q, 2000))
    assert got == {str(n).encode() for n in range(2000)}
