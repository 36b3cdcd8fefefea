"""Kafka: what consumer groups have committed expires when nobody needs it any more, and not before."""

import json
import struct
import time

import confluent_kafka
import kafka
import pytest
import requests
from confluent_kafka import TopicPartition
from confluent_kafka import admin as librdkafka
from kafka.structs import OffsetAndMetadata

from broker import Waypost
from test_kafka_hostile import Peer
from topics import KAFKA, api, make, produce, until

pytestmark = pytest.mark.ours("Kafka")

KEPT = 4
UNKNOWN_TOPIC, GROUP_ID_NOT_FOUND, GROUP_SUBSCRIBED_TO_TOPIC = 3, 69, 86


@pytest.fixture(scope="module")
def node():
    with Waypost.running(*KAFKA, "--kafka-offsets-retention", f"{KEPT}s") as server:
        yield server


def groups(node: Waypost) -> dict[str, dict]:
    return {g["name"]: g for g in json.loads(node.cli("groups", "ls", "-o", "json").stdout)}


def committed(node: Waypost, group: str) -> dict[str, int]:
    """What a group has committed, by topic, as Kafka's clients see it."""
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    asked = confluent_kafka.ConsumerGroupTopicPartitions(group)
    [future] = client.list_consumer_group_offsets([asked]).values()
    return {p.topic: p.offset for p in future.result(20).topic_partitions if p.offset >= 0}


def test_clients_are_told_how_long_offsets_are_kept(node):
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    [future] = client.describe_configs([librdkafka.ConfigResource("broker", "0")]).values()
    entry = future.result(10)["offsets.retention.minutes"]
    # In whole minutes, and never less than holds.
    assert (entry.value, entry.is_read_only) == ("1", True)


def test_a_group_that_all_have_left_is_forgotten_after_its_time(node, name):
    topic, group = make(node, name("t")), name("g")
    produce(node, topic, b"1", b"2")

    def reads() -> list[int]:
        consumer = kafka.KafkaConsumer(
            topic, bootstrap_servers=node.kafka, group_id=group, auto_offset_reset="earliest",
            enable_auto_commit=False, consumer_timeout_ms=3000,
        )
        offsets = [record.offset for record in consumer]
        consumer.commit()
        consumer.close()
        return offsets

    assert reads() == [0, 1]
    left = time.time()
    assert committed(node, group) == {topic: 2}
    until(lambda: groups(node)[group]["empty_since"] is not None)
    shown = json.loads(node.cli("groups", "show", group, "-o", "json").stdout)
    [place] = shown["offsets"]
    assert place["expires_at"] == shown["empty_since"] + KEPT * 1000 > place["committed_at"] + KEPT * 1000
    assert "T" in node.cli("groups", "show", group, "-o", "table").stdout.splitlines()[1].split()[-1]
    # It has come back in time: its offsets have all their time again.
    time.sleep(KEPT / 2)
    assert reads() == []
    left = time.time()
    until(lambda: group not in groups(node))
    assert time.time() - left >= KEPT - 0.5
    assert committed(node, group) == {}
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    assert group not in [g.group_id for g in client.list_consumer_groups().result(10).valid]
    assert reads() == [0, 1]
    metrics = requests.get(f"{node.http}/metrics", timeout=5).text.splitlines()
    assert any(line.startswith("waypost_consumer_group_offsets_expired_total ") and not line.endswith(" 0") for line in metrics)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_group_at_work_keeps_what_it_reads(node, name, protocol):
    read, left, group = make(node, name("read")), make(node, name("left")), name("g")
    for topic in (read, left):
        produce(node, topic, b"1", b"2")
    settings = {
        "bootstrap.servers": node.kafka, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
    }
    consumer = confluent_kafka.Consumer(settings | {"group.protocol": protocol})
    consumer.subscribe([read])
    assert consumer.consume(2, 20)[-1].offset() == 1
    consumer.commit(offsets=[TopicPartition(read, 0, 2), TopicPartition(left, 0, 1)], asynchronous=False)
    assert committed(node, group) == {read: 2, left: 1}

    def only_what_is_read_is_there() -> bool:
        consumer.poll(0.1)
        return committed(node, group) == {read: 2}

    until(only_what_is_read_is_there)
    # It never commits again, and goes on all the same.
    end = time.time() + 2 * KEPT
    while time.time() < end:
        consumer.poll(0.5)
    assert committed(node, group) == {read: 2}
    assert groups(node)[group]["members"] == 1
    consumer.close()
    until(lambda: group not in groups(node))


def delete_offsets(node: Waypost, group: str, *topics: str) -> int | list[int]:
    """OffsetDelete of the first partition of each topic: the group's code, or one for each topic."""
    text = lambda t: struct.pack(">h", len(t)) + t.encode()
    body = text(group) + struct.pack(">i", len(topics))
    body += b"".join(text(topic) + struct.pack(">ii", 1, 0) for topic in topics)
    frame = struct.pack(">hhih", 47, 0, 7, -1) + body
    answer = Peer(node).ask(struct.pack(">i", len(frame)) + frame)
    code, told = struct.unpack(">h", answer[4:6])[0], answer[14:]
    codes = []
    while told:
        (length,) = struct.unpack(">h", told[:2])
        codes.append(struct.unpack(">h", told[2 + length + 8 : 2 + length + 10])[0])
        told = told[2 + length + 10 :]
    return code or codes


def test_offsets_of_topics_that_members_read_are_not_deleted(node, name):
    read, left, group = make(node, name("read")), make(node, name("left")), name("g")
    consumer = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": group})
    consumer.subscribe([read])
    until(lambda: consumer.poll(0.1) or consumer.assignment())
    offsets = [TopicPartition(read, 0, 0), TopicPartition(left, 0, 0)]
    consumer.commit(offsets=offsets, asynchronous=False)
    assert delete_offsets(node, group, read, left, "none") == [GROUP_SUBSCRIBED_TO_TOPIC, 0, UNKNOWN_TOPIC]
    assert committed(node, group) == {read: 0}
    consumer.close()
    until(lambda: groups(node)[group]["members"] == 0)
    assert delete_offsets(node, group, read) == [0]
    assert delete_offsets(node, group, read) == GROUP_ID_NOT_FOUND


def test_who_keeps_offsets_without_a_group_commits_in_time(node, name):
    group, topics = name("g"), [make(node, name(t)) for t in ("a", "b")]
    consumer = kafka.KafkaConsumer(bootstrap_servers=node.kafka, group_id=group, enable_auto_commit=False)
    first, second = (kafka.TopicPartition(topic, 0) for topic in topics)
    consumer.assign([first, second])
    consumer.commit({second: OffsetAndMetadata(1, "", -1)})
    end = time.time() + 2 * KEPT
    while time.time() < end:
        consumer.commit({first: OffsetAndMetadata(1, "", -1)})
        time.sleep(0.5)
    assert committed(node, group) == {topics[0]: 1}
    consumer.close()
    until(lambda: committed(node, group) == {})


def test_a_forwarder_keeps_its_position(node, name):
    topic = make(node, name("t"))
    produce(node, topic, b"1")
    node.cli("forwarders", "add", topic, "--topic", topic, "--exchange", "amq.fanout")
    group = f"waypost.forward.{topic}"
    until(lambda: groups(node).get(group, {}).get("lag") == 0)
    assert api(node, "GET", f"groups/%2F/{group}").json()["offsets"][0]["expires_at"] is None
    time.sleep(2 * KEPT)
    assert groups(node)[group]["lag"] == 0
