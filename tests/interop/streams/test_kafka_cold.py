"""What the broker has no longer in memory: read from the beginning to the end, in pieces of all sizes, by several at once."""

import random
import struct
import threading

import confluent_kafka
import kafka
import pytest
from confluent_kafka import TopicPartition

from broker import Waypost
from topics import KAFKA, make

pytestmark = pytest.mark.ours("the server is started anew")

RECORDS = 24_000
SIZES = [40, 900, 4000]


def value(topic: str, n: int) -> bytes:
    """A value that tells where it belongs, and is not like any other."""
    return struct.pack(">Q", n) + random.Random(f"{topic} {n}").randbytes(SIZES[n // 2000 % len(SIZES)])


@pytest.fixture(scope="module")
def node():
    with Waypost.running(*KAFKA) as node:
        producer = confluent_kafka.Producer({"bootstrap.servers": node.kafka, "linger.ms": 5, "batch.size": 65536})
        # Two that lie in the log in turns, and one alone.
        both = [make(node, "a"), make(node, "b")]
        for topics in both, [make(node, "alone")]:
            for n in range(RECORDS):
                for topic in topics:
                    producer.produce(topic, value(topic, n), partition=0)
                if n % 1000 == 0:
                    producer.flush(30)
            assert producer.flush(60) == 0
        node.stop()
        node.start()
        yield node


def read(node: Waypost, topic: str, begin: int, count: int, **settings) -> None:
    config = {"bootstrap.servers": node.kafka, "group.id": "g", "enable.auto.commit": False, "check.crcs": True}
    consumer = confluent_kafka.Consumer({**config, **settings})
    consumer.assign([TopicPartition(topic, 0, begin)])
    at = begin
    while at < begin + count:
        for message in consumer.consume(min(10_000, begin + count - at), 30):
            assert message.error() is None, message.error()
            assert message.offset() == at
            assert message.value() == value(topic, at), f"{topic} {at}"
            at += 1
    consumer.close()


@pytest.mark.parametrize("most", [1_000, 70_000, 1 << 20, 3_000_000, 20 << 20])
@pytest.mark.parametrize("topic", ["a", "alone"])
def test_from_the_beginning_in_pieces_of_this_size(node, topic, most):
    # The first time it comes from the disk, later through the system's cache.
    count = RECORDS if most > 1_000 else 3_000
    read(node, topic, 0, count, **{"fetch.message.max.bytes": most, "fetch.max.bytes": max(most, 1_000_000)})


def test_several_at_once_here_and_there(node):
    node.stop()
    node.start()
    failed = []

    def one(seed: int):
        chance = random.Random(seed)
        try:
            for _ in range(4):
                begin = chance.randrange(RECORDS - 100)
                read(node, chance.choice(["a", "b", "alone"]), begin, min(RECORDS - begin, chance.randrange(1, 8000)))
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=one, args=(seed,)) for seed in range(12)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not failed, failed[0]


def test_what_is_deleted_while_it_is_read_ahead_is_gone_and_the_rest_is_there(node):
    node.stop()
    node.start()
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=node.kafka, auto_offset_reset="earliest", max_partition_fetch_bytes=300_000,
        consumer_timeout_ms=15_000,
    )
    where = kafka.TopicPartition("alone", 0)
    consumer.assign([where])
    consumer.seek(where, 0)
    admin = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    last, deleted = -1, 0
    for record in consumer:
        assert record.value == value("alone", record.offset)
        # It goes on behind what was deleted.
        assert record.offset == last + 1 or last + 1 < deleted <= record.offset
        last = record.offset
        if last % 4000 == 10 and last + 900 < RECORDS:
            deleted = last + 900
            admin.delete_records({where: deleted})
        if last == RECORDS - 1:
            break
    assert last == RECORDS - 1
    consumer.close()
    admin.close()
