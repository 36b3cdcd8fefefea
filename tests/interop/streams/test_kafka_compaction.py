"""Compacted topics, as stock clients see them."""

import time

import confluent_kafka
import kafka
import pytest
from confluent_kafka import TopicPartition

import topics
from broker import Waypost
from topics import KAFKA

pytestmark = pytest.mark.ours("when compaction runs is the server's own business")

# Everything but what is being written is dirty enough at once.
EAGER = {"cleanup_policy": "compact", "min_cleanable_dirty_ratio": "0", "segment_ms": "1"}


def make(node: Waypost, topic: str, **settings: str) -> None:
    topics.make(node, topic, **EAGER | settings)


def contents(node: Waypost, topic: str) -> list[tuple[int, str, str | None]]:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": node.kafka, "group.id": "reader", "enable.partition.eof": True, "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    while (message := consumer.poll(20)) is not None and not message.error():
        value = message.value()
        found.append((message.offset(), message.key().decode(), value and value.decode()))
    consumer.close()
    return found


def until(node: Waypost, topic: str, wanted: list) -> None:
    deadline = time.monotonic() + 40
    while (found := contents(node, topic)) != wanted:
        assert time.monotonic() < deadline, f"{found} instead of {wanted}"
        time.sleep(0.5)


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_the_latest_of_each_key_stays_at_its_offset(node, name, codec):
    topic = name("t")
    make(node, topic)
    producer = confluent_kafka.Producer({"bootstrap.servers": node.kafka, "compression.type": codec, "linger.ms": 200})
    for n in range(100):
        producer.produce(topic, f"value {n} " + "x" * 100, key=f"k{n % 7}")
    assert producer.flush(20) == 0
    wanted = [(n, f"k{n % 7}", f"value {n} " + "x" * 100) for n in range(93, 100)]
    until(node, topic, wanted)
    producer.produce(topic, None, key="k2")
    producer.produce(topic, "new", key="k3")
    assert producer.flush(20) == 0
    wanted = [r for r in wanted if r[1] not in ("k2", "k3")] + [(100, "k2", None), (101, "k3", "new")]
    until(node, topic, wanted)
    # kafka-python checks every batch's checksum and reads the codecs by other libraries.
    consumer = kafka.KafkaConsumer(bootstrap_servers=node.kafka, consumer_timeout_ms=10_000)
    where = kafka.TopicPartition(topic, 0)
    consumer.assign([where])
    consumer.seek_to_beginning(where)
    assert [(r := next(consumer)).offset and (r.offset, r.key) for _ in wanted] == [(o, k.encode()) for o, k, _ in wanted]
    assert consumer.end_offsets([where]) == {where: 102}
    consumer.close()


def test_records_without_a_key_are_refused(node, name):
    topic, outcome = name("t"), []
    make(node, topic)
    producer = confluent_kafka.Producer({"bootstrap.servers": node.kafka})
    producer.produce(topic, "x", on_delivery=lambda error, _: outcome.append(error.code()))
    assert producer.flush(20) == 0
    assert outcome == [confluent_kafka.KafkaError.INVALID_RECORD]
    assert contents(node, topic) == []


def test_what_was_deleted_is_forgotten_and_a_restart_changes_nothing(server, name):
    node, topic = server(*KAFKA), name("t")
    node.start()
    make(node, topic, **{"delete_retention_ms": "0"})
    producer = confluent_kafka.Producer({"bootstrap.servers": node.kafka})
    for key, value in [("a", "1"), ("b", "1"), ("a", None)]:
        producer.produce(topic, value, key=key)
        assert producer.flush(20) == 0
    until(node, topic, [(1, "b", "1"), (2, "a", None)])
    # The next pass may forget what this one has noted.
    producer.produce(topic, "2", key="c")
    assert producer.flush(20) == 0
    until(node, topic, [(1, "b", "1"), (3, "c", "2")])
    node.kill()
    node.start()
    assert contents(node, topic) == [(1, "b", "1"), (3, "c", "2")]
