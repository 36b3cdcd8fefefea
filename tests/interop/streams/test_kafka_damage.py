"""Batches whose records are not what they should be. The server stores what has a right checksum without looking into
it; whoever must look leaves out what cannot be read, and goes on."""

import gzip
import struct

import confluent_kafka
import pytest
from kafka.record.util import calc_crc32c

from support import eventually, get
from test_across import forward, forwarder
from test_kafka_hostile import Peer
from topics import KAFKA, STREAM, api, bodies, make, produce, read

CODECS = range(5)


def batch(records: bytes, count: int = 1, attributes: int = 0) -> bytes:
    """A record batch of these bytes, checksum and all."""
    head = struct.pack(">hiqqqhii", attributes, count - 1, 1_000_000, 1_000_000, -1, -1, -1, count)
    checked = head + records
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, calc_crc32c(checked)) + checked


def record(delta: bytes, value: bytes = b"v") -> bytes:
    """One record with the key `order.1`, its delta of offsets as it is on the wire."""
    body = b"\0\0" + delta + b"\x0eorder.1" + bytes([len(value) << 1]) + value + b"\0"
    return bytes([len(body) << 1]) + body


def send(node, topic: str, records: bytes, **of_batch) -> int:
    """Produces a batch by hand (version 7); the error code."""
    name, data = topic.encode(), batch(records, **of_batch)
    body = struct.pack(">hhii", -1, -1, 10_000, 1) + struct.pack(">h", len(name)) + name
    body += struct.pack(">iii", 1, 0, len(data)) + data
    frame = struct.pack(">hhihs", 0, 7, 7, 1, b"c") + body
    answer = Peer(node).ask(struct.pack(">i", len(frame)) + frame)
    (code,) = struct.unpack(">h", answer[4 + 4 + 2 + len(name) + 4 + 4 :][:2])
    return code


FAR, BACK = b"\xfe\xff\xff\xff\x0f", b"\x7f"  # 2^31-1 records ahead, 64 back


def test_who_cannot_read_a_batch_reads_on_behind_it(node, ch, name):
    topic, queue = name("t"), name("q")
    make(node, topic)
    ch.queue_declare(queue, durable=True)
    ch.queue_bind(queue, "amq.topic", "order.#")
    forward(node, topic, topic=topic, exchange="amq.topic")
    wanted = []
    for n, bad in enumerate([b"garbage", record(FAR), record(BACK), record(b"\0")[:-3]]):
        assert send(node, topic, bad) == 0
        produce(node, topic, b"good %d" % n, key=b"order.1")
        wanted.append(b"good %d" % n)
    for codec in CODECS:
        assert send(node, topic, b"\x82SNAPPY\0\xff\xff\xff\xff", attributes=codec) == 0
    # What comes before the damage is read.
    assert send(node, topic, record(b"\0", b"first") + b"\xff", count=2) == 0
    produce(node, topic, b"last", key=b"order.1")
    wanted += [b"first", b"last"]
    assert [get(ch, queue)[2] for _ in wanted] == wanted
    eventually(lambda: forwarder(node, topic)["unreadable"] == 10)
    assert forwarder(node, topic)["waits_for"] is None
    ch.queue_declare(topic, durable=True, arguments=STREAM)
    assert bodies(read(ch, topic, len(wanted), offset="first")) == wanted
    api(node, "DELETE", f"forwarders/%2F/{topic}")
    ch.queue_delete(queue)


def varint(n: int) -> bytes:
    n, out = n << 1, b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def peak(node) -> int:
    """The most memory that the server ever had, bytes."""
    with open(f"/proc/{node.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def first_offset(node, topic: str) -> int:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": "reader"})
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    message = consumer.poll(20)
    consumer.close()
    return message.offset()


@pytest.mark.ours("when compaction runs is the server's own business")
def test_a_batch_of_very_many_records_is_compacted_in_little_memory(server, name):
    node, topic, count = server(*KAFKA), name("t"), 600_000
    node.start()
    eager = {"cleanup_policy": "compact", "min_cleanable_dirty_ratio": "0", "segment_ms": "1"}
    make(node, topic, max_message_bytes=str(32 << 20), **eager)
    # Each with the empty key and the empty value.
    plain = b"".join(bytes([len(body) << 1]) + body for n in range(count) for body in [b"\0\0" + varint(n) + b"\0\0\0"])
    before = peak(node)
    assert send(node, topic, gzip.compress(plain, 1), count=count, attributes=1) == 0
    produce(node, topic, b"end", key=b"end")
    eventually(lambda: first_offset(node, topic) == count - 1, 45, 1)
    assert peak(node) - before < 40 << 20
