"""Kafka while the server is killed: what was acknowledged stays at its offset, once and in order; offsets of groups stay."""

import random
import threading
import time

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition

from broker import Waypost
from topics import KAFKA, make

pytestmark = pytest.mark.ours("the server is killed")

PARTITIONS = 3


class Writer(threading.Thread):
    """An idempotent producer that lives through all rounds: what it sends again after a kill must not come twice."""

    def __init__(self, node: Waypost, topic: str):
        super().__init__()
        self.topic, self.going, self.sent = topic, True, 0
        self.failed: list[str] = []
        # Offset by partition and value.
        self.acknowledged: dict[tuple[int, bytes], int] = {}
        self.producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": node.kafka,
                "enable.idempotence": True,
                "linger.ms": 1,
                "message.timeout.ms": 300_000,
                "reconnect.backoff.max.ms": 200,
                "retry.backoff.ms": 20,
            }
        )

    def told(self, error, message):
        if error:
            self.failed.append(str(error))
        else:
            self.acknowledged[message.partition(), message.value()] = message.offset()

    def run(self):
        while self.going:
            if len(self.producer) < 2000:
                value = b"%d" % self.sent
                self.producer.produce(self.topic, value, partition=self.sent % PARTITIONS, on_delivery=self.told)
                self.sent += 1
            self.producer.poll(0)
            # Some thousands per second: the tests read them all again after each kill.
            time.sleep(0 if self.sent % 50 else 0.02)

    def finish(self):
        self.going = False
        self.join()
        assert self.producer.flush(60) == 0
        assert not self.failed, self.failed[:3]


def contents(node: Waypost, topic: str, partition: int) -> list[tuple[int, bytes]]:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": node.kafka, "group.id": "reader", "enable.auto.commit": False}
    )
    where = TopicPartition(topic, partition, 0)
    _, end = consumer.get_watermark_offsets(where, timeout=30)
    consumer.assign([where])
    found = []
    while len(found) < end:
        message = consumer.poll(30)
        assert message is not None, f"nothing comes behind {found[-1:]}"
        assert message.error() is None, message.error()
        found.append((message.offset(), message.value()))
    consumer.close()
    return found


def commit(node: Waypost, topic: str, offset: int) -> int:
    """Commits an offset; what is committed then, as the server has acknowledged it."""
    consumer = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": "g", "enable.auto.commit": False})
    done = consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    assert done[0].error is None, done
    consumer.close()
    return offset


def committed(node: Waypost, topic: str) -> int:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": "g", "enable.auto.commit": False})
    found = consumer.committed([TopicPartition(topic, 0)], timeout=30)[0].offset
    consumer.close()
    return found


def check(node: Waypost, topic: str, writer: Writer, acknowledged: dict[tuple[int, bytes], int]) -> None:
    for partition in range(PARTITIONS):
        found = contents(node, topic, partition)
        assert [offset for offset, _ in found] == list(range(len(found))), "a gap or a repetition of offsets"
        values = [int(value) for _, value in found]
        assert values == list(range(partition, partition + PARTITIONS * len(values), PARTITIONS)), "lost, twice or out of order"
        wrong = [
            (value, offset) for (p, value), offset in acknowledged.items() if p == partition and found[offset : offset + 1] != [(offset, value)]
        ]
        assert not wrong, f"acknowledged and not there: {wrong[:3]}"


def rounds(count: int) -> None:
    with Waypost.running(*KAFKA) as node:
        topic = make(node, "t", PARTITIONS)
        writer = Writer(node, topic)
        writer.start()
        offset = 0
        for n in range(count):
            time.sleep(random.uniform(0.2, 1.2))
            offset = commit(node, topic, offset + 1)
            acknowledged = dict(writer.acknowledged)
            node.kill()
            node.start()
            assert committed(node, topic) == offset, f"round {n}"
            check(node, topic, writer, acknowledged)
        writer.finish()
        check(node, topic, writer, writer.acknowledged)
        assert len(writer.acknowledged) == writer.sent > 0


@pytest.mark.timeout(180)
def test_a_few_rounds():
    rounds(3)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_rounds():
    rounds(100)
