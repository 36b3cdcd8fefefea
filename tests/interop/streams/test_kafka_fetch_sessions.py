"""Fetch sessions, as kafka-python keeps them: what is idle is neither asked for again nor answered."""

import kafka
import pytest

from broker import Waypost
from topics import KAFKA, make

PARTITIONS = 1000

pytestmark = pytest.mark.ours("Kafka")


def made(node: Waypost, topic: str) -> list[kafka.TopicPartition]:
    make(node, topic, PARTITIONS)
    return [kafka.TopicPartition(topic, n) for n in range(PARTITIONS)]


def values(consumer, count: int, seconds: float = 20) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for _ in range(int(seconds / 0.2)):
        for records in consumer.poll(200).values():
            found += [(r.partition, r.value) for r in records]
        if len(found) >= count:
            break
    return found


def sessions(consumer) -> list:
    return [one.next_metadata for one in consumer._fetcher._session_handlers.values()]


def test_a_thousand_idle_partitions_cost_next_to_nothing(node, name):
    topic = name("t")
    where = made(node, topic)
    consumer = kafka.KafkaConsumer(bootstrap_servers=node.kafka, fetch_max_wait_ms=100)
    consumer.assign(where)
    consumer.seek_to_beginning(*where)
    producer = kafka.KafkaProducer(bootstrap_servers=node.kafka)
    producer.send(topic, b"first", partition=7).get(20)
    assert values(consumer, 1) == [(7, b"first")]
    (before,) = sessions(consumer)
    for n in (3, 999, 7):
        producer.send(topic, b"%d" % n, partition=n).get(20)
        assert values(consumer, 1) == [(n, b"%d" % n)]
    assert values(consumer, 1, 1) == []
    (after,) = sessions(consumer)
    # The same session, some requests further: it was never begun anew.
    assert after.session_id == before.session_id > 0 and after.epoch > before.epoch + 5
    # Fewer partitions, then others: both are said in the same session.
    consumer.assign(where[:10])
    producer.send(topic, b"out", partition=20).get(20)
    producer.send(topic, b"in", partition=5).get(20)
    consumer.seek_to_beginning(where[5])
    assert values(consumer, 1) == [(5, b"in")]
    assert values(consumer, 1, 1) == []
    assert sessions(consumer)[0].session_id == before.session_id
    producer.close()
    consumer.close()


def test_a_session_that_is_gone_is_begun_anew(server, name):
    node = server(*KAFKA)
    node.start()
    address = node.kafka
    topic = name("t")
    where = made(node, topic)
    consumer = kafka.KafkaConsumer(bootstrap_servers=address, fetch_max_wait_ms=100, reconnect_backoff_max_ms=200)
    consumer.assign(where)
    consumer.seek_to_beginning(*where)
    assert values(consumer, 1, 1) == []
    (before,) = sessions(consumer)
    assert before.session_id > 0
    node.stop()
    node.start()
    producer = kafka.KafkaProducer(bootstrap_servers=address)
    producer.send(topic, b"later", partition=3).get(20)
    assert values(consumer, 1) == [(3, b"later")]
    assert sessions(consumer)[0].session_id != before.session_id
    producer.close()
    consumer.close()
