"""Kafka's newer protocol of groups (KIP-848) with librdkafka: shares, hand-overs, instances, patterns, commits, kinds."""

import threading
import time

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka import admin as librdkafka

from broker import Waypost
from test_kafka_hostile import Answer, Peer, request, uvarint
from topics import KAFKA, make, until


def produce(node: Waypost, topic: str, values, partitions: int) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": node.kafka})
    for n in values:
        producer.produce(topic, b"%d" % n, partition=n % partitions)
    assert producer.flush(20) == 0


class Member(threading.Thread):
    """A consumer of a group; what it has, and what it got."""

    def __init__(self, node: Waypost, group: str, topics: list[str], **options):
        super().__init__(daemon=True)
        options = {
            "bootstrap.servers": node.kafka,
            "group.id": group,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
        } | options
        self.consumer = confluent_kafka.Consumer(options)
        self.parts: set[tuple[str, int]] = set()
        self.got: list[tuple[int, bytes]] = []
        self.errors: list = []
        self.changes = 0
        self.leaves = threading.Event()
        self.consumer.subscribe(topics, on_assign=self.assigned, on_revoke=self.revoked, on_lost=self.lost)
        self.start()

    def assigned(self, consumer, parts) -> None:
        self.parts |= {(p.topic, p.partition) for p in parts}
        self.changes += 1

    def revoked(self, consumer, parts) -> None:
        self.parts -= {(p.topic, p.partition) for p in parts}
        self.changes += 1

    def lost(self, consumer, parts) -> None:
        self.parts.clear()
        self.changes += 1

    def run(self) -> None:
        while not self.leaves.is_set():
            message = self.consumer.poll(0.05)
            if message is None:
                continue
            if message.error():
                self.errors.append(message.error())
            else:
                self.got.append((message.partition(), message.value()))
        self.consumer.close()

    def leave(self) -> None:
        self.leaves.set()
        self.join(40)


@pytest.mark.parametrize("assignor", ["uniform", "range"])
def test_members_share_and_hand_over(node, name, assignor):
    topic, group = name("t"), name("g")
    make(node, topic, 4)
    produce(node, topic, range(40), 4)
    options = {"group.remote.assignor": assignor}
    first = Member(node, group, [topic], **options)
    until(lambda: len(first.parts) == 4 and len(first.got) == 40)
    second = Member(node, group, [topic], **options)
    until(lambda: len(second.parts) == 2 and len(first.parts) == 2)
    assert not first.parts & second.parts
    if assignor == "range":
        assert all(max(p for _, p in m.parts) - min(p for _, p in m.parts) == 1 for m in (first, second))
    produce(node, topic, range(40, 80), 4)
    until(lambda: len(first.got) + len(second.got) >= 80)
    first.leave()
    until(lambda: len(second.parts) == 4)
    produce(node, topic, range(80, 120), 4)
    until(lambda: len({v for m in (first, second) for _, v in m.got}) == 120)
    # What the first one had committed when it left was not read again.
    assert len(first.got) + len(second.got) == 120
    second.leave()
    assert first.errors == second.errors == []
    again = Member(node, group, [topic], **options)
    until(lambda: len(again.parts) == 4)
    time.sleep(1)
    assert again.got == []
    again.leave()


def test_a_topic_that_grows_and_patterns(node, name):
    stem = name("t")
    make(node, f"{stem}.one", 1)
    member = Member(node, name("g"), [f"^{stem}\\..*"], **{"topic.metadata.refresh.interval.ms": 1000})
    until(lambda: member.parts == {(f"{stem}.one", 0)})
    make(node, f"{stem}.two", 1)
    until(lambda: len(member.parts) == 2)
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    client.create_partitions([librdkafka.NewPartitions(f"{stem}.two", 3)])[f"{stem}.two"].result(20)
    until(lambda: len(member.parts) == 4)
    member.leave()
    assert member.errors == []


def test_an_instance_comes_back_to_its_partitions(node, name):
    topic, group = name("t"), name("g")
    make(node, topic, 4)
    one = Member(node, group, [topic], **{"group.instance.id": "one"})
    two = Member(node, group, [topic], **{"group.instance.id": "two"})
    until(lambda: len(one.parts) == len(two.parts) == 2)
    before, kept = set(one.parts), set(two.parts)
    one.leave()
    one = Member(node, group, [topic], **{"group.instance.id": "one"})
    until(lambda: one.parts == before)
    assert two.parts == kept
    # The same instance a second time is refused while the first one is there.
    twin = Member(node, group, [topic], **{"group.instance.id": "one"})
    until(lambda: twin.errors)
    assert twin.errors[0].code() == confluent_kafka.KafkaError._FATAL
    assert "instance ID is still used" in twin.errors[0].str()
    twin.leaves.set()
    one.leave()
    two.leave()


def test_commits_count_for_members_only(node, name):
    topic, group = name("t"), name("g")
    make(node, topic)
    produce(node, topic, range(10), 1)
    options = {"bootstrap.servers": node.kafka, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    member = confluent_kafka.Consumer(options | {"group.protocol": "consumer"})
    member.subscribe([topic])
    assert [member.poll(20).value() for _ in range(10)] == [b"%d" % n for n in range(10)]
    member.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=False)
    assert member.committed([TopicPartition(topic, 0)], 20)[0].offset == 7
    stranger = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": group})
    with pytest.raises(confluent_kafka.KafkaException, match="UNKNOWN_MEMBER_ID"):
        stranger.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    stranger.close()
    # With a transaction as well.
    producer = confluent_kafka.Producer({"bootstrap.servers": node.kafka, "transactional.id": name("id")})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.send_offsets_to_transaction([TopicPartition(topic, 0, 9)], member.consumer_group_metadata(), 20)
    producer.commit_transaction(20)
    assert member.committed([TopicPartition(topic, 0)], 20)[0].offset == 9
    member.close()


def test_kinds_do_not_mix_and_administrators_see_them(node, name):
    topic, group = name("t"), name("g")
    make(node, topic, 2)
    member = Member(node, group, [topic])
    until(lambda: len(member.parts) == 2)
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    listed = {g.group_id: g for g in client.list_consumer_groups().result(20).valid}
    assert (listed[group].type, listed[group].state) == (
        confluent_kafka.ConsumerGroupType.CONSUMER,
        confluent_kafka.ConsumerGroupState.STABLE,
    )
    described = client.describe_consumer_groups([group])[group].result(20)
    assert (described.type, described.state) == (listed[group].type, listed[group].state)
    [one] = described.members
    assert {p.partition for p in one.assignment.topic_partitions} == {0, 1}
    assert {p.partition for p in one.target_assignment.topic_partitions} == {0, 1}
    classic = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": group})
    classic.subscribe([topic])
    refused = None
    deadline = time.monotonic() + 20
    while refused is None and time.monotonic() < deadline:
        message = classic.poll(0.5)
        refused = message.error() if message is not None else None
    assert refused is not None and "protocol" in refused.str(), refused
    classic.close()
    member.leave()
    # Empty: the other kind may have it.
    classic = Member(node, group, [topic], **{"group.protocol": "classic"})
    until(lambda: len(classic.parts) == 2)
    newer = Member(node, group, [topic])
    until(lambda: newer.errors)
    assert "group id" in newer.errors[0].str(), newer.errors
    newer.leaves.set()
    classic.leave()


def epochs(node: Waypost, group: str) -> dict[bytes, int]:
    """The epoch of each member, as ConsumerGroupDescribe says it: no client shows them."""
    names = uvarint(2) + uvarint(len(group) + 1) + group.encode()
    answer = Answer(Peer(node).ask(request((69, 0), names + b"\0\0")))
    answer.number(">i"), answer.uvarint()
    assert answer.number(">h") == 0
    [answer.text() for _ in range(3)]
    answer.number(">i"), answer.number(">i"), answer.text()
    told = {}
    for _ in range(answer.uvarint() - 1):
        member, _, _ = [answer.text() for _ in range(3)]
        told[member] = answer.number(">i")
        answer.text(), answer.text()
        [answer.text() for _ in range(answer.uvarint() - 1)]
        answer.text()
        for _ in range(2):
            for _ in range(answer.uvarint() - 1):
                answer.number("16s"), answer.text()
                [answer.number(">i") for _ in range(answer.uvarint() - 1)]
                answer.uvarint()
            answer.uvarint()
        answer.uvarint()
    return told


@pytest.mark.parametrize("instances", [False, True])
def test_members_go_on_after_a_crash_where_they_were(server, name, instances):
    one = server(*KAFKA)
    one.start()
    make(one, "t", 4)
    options = [{"group.instance.id": f"i{n}"} if instances else {} for n in range(2)]
    members = [Member(one, "g", ["t"], **{"auto.commit.interval.ms": 100} | more) for more in options]
    until(lambda: [len(m.parts) for m in members] == [2, 2])
    before, parts, changes = epochs(one, "g"), [set(m.parts) for m in members], [m.changes for m in members]
    assert len(before) == 2 and len(set(before.values())) == 1
    for n in range(3):
        values = range(40 * n, 40 * n + 40)
        produce(one, "t", values, 4)
        until(lambda: len({v for m in members for _, v in m.got}) == 40 * n + 40)
        one.kill()
        one.start()
        # Nobody has joined again: they are at their epochs before they have said a word.
        assert epochs(one, "g") == before
    produce(one, "t", range(120, 160), 4)
    until(lambda: len({v for m in members for _, v in m.got}) == 160)
    # Longer than the interval of heartbeats: all have spoken.
    time.sleep(7)
    assert epochs(one, "g") == before
    assert ([m.parts for m in members], [m.changes for m in members]) == (parts, changes)
    newcomer = Member(one, "g", ["t"])
    until(lambda: len(newcomer.parts) == 1 and sum(len(m.parts) for m in members) == 3)
    for member in [newcomer, *members]:
        member.leave()
    assert one.stop() == 0, one.tail()
