"""Kafka: groups under every assignor, instances that come back, configuration, SASL, a restart."""

import threading
import time

import confluent_kafka
import kafka
import pytest
from confluent_kafka import admin as librdkafka

from broker import Waypost
from topics import KAFKA, make, until


def produce(node: Waypost, topic: str, count: int, **options) -> list[int]:
    producer = kafka.KafkaProducer(bootstrap_servers=node.kafka, **options)
    sent = [producer.send(topic, b"%d" % n, key=b"k%d" % n, headers=[("h", b"x")]) for n in range(count)]
    offsets = [one.get(20).offset for one in sent]
    producer.close()
    return offsets


def read(node: Waypost, topic: str, count: int, partition: int = 0, **options) -> list:
    consumer = kafka.KafkaConsumer(bootstrap_servers=node.kafka, consumer_timeout_ms=15_000, **options)
    where = kafka.TopicPartition(topic, partition)
    consumer.assign([where])
    consumer.seek_to_beginning(where)
    records = [next(consumer) for _ in range(count)]
    consumer.close()
    return records


def test_the_first_lines_of_every_tutorial(node, name):
    """By the name of this machine, with no option but the address: the topic makes itself."""
    topic, address = name("t"), node.kafka.replace("127.0.0.1", "localhost")
    producer = kafka.KafkaProducer(bootstrap_servers=address)
    for n in range(3):
        producer.send(topic, b"some_message_bytes %d" % n)
    producer.flush()
    consumer = kafka.KafkaConsumer(topic, bootstrap_servers=address, group_id=topic, auto_offset_reset="earliest")
    assert [next(consumer).value for _ in range(3)] == [b"some_message_bytes %d" % n for n in range(3)]
    consumer.close()
    producer.close()
    other = confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": name("g"), "auto.offset.reset": "earliest"})
    other.subscribe([topic])
    assert until(lambda: other.poll(1)).value() == b"some_message_bytes 0"
    other.close()


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_librdkafka_reads_what_it_produced(node, name, codec):
    topic, outcome = name("t"), []
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": node.kafka, "compression.type": codec, "enable.idempotence": True, "linger.ms": 5}
    )
    for n in range(5000):
        producer.produce(topic, b"x" * 100, key=str(n), on_delivery=lambda error, _: outcome.append(error))
        producer.poll(0)
    assert producer.flush(30) == 0
    assert outcome == [None] * 5000
    consumer = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": topic})
    consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    offsets: list[int] = []
    deadline = time.monotonic() + 30
    while len(offsets) < 5000 and time.monotonic() < deadline:
        offsets += [m.offset() for m in consumer.consume(1000, 1) if m.error() is None]
    assert offsets == list(range(5000))
    assert consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, 0)) == (0, 5000)
    consumer.close()


def test_topics_are_made_configured_extended_and_deleted(node, name):
    topic = name("t")
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    made = client.create_topics([librdkafka.NewTopic(topic, 2, 1, config={"retention.ms": "60000"})])
    made[topic].result(20)
    with pytest.raises(confluent_kafka.KafkaException, match="TOPIC_ALREADY_EXISTS"):
        client.create_topics([librdkafka.NewTopic(topic, 2, 1)])[topic].result(20)
    with pytest.raises(confluent_kafka.KafkaException, match="INVALID_CONFIG"):
        bad = librdkafka.NewTopic(name("bad"), 1, 1, config={"no.such": "1"})
        list(client.create_topics([bad]).values())[0].result(20)
    with pytest.raises(confluent_kafka.KafkaException, match="INVALID_REPLICATION_FACTOR"):
        list(client.create_topics([librdkafka.NewTopic(name("three"), 1, 3)]).values())[0].result(20)
    resource = librdkafka.ConfigResource("topic", topic)
    settings = client.describe_configs([resource])[resource].result(20)
    assert (settings["retention.ms"].value, settings["cleanup.policy"].value) == ("60000", "delete")
    change = librdkafka.ConfigEntry(
        "retention.ms", "120000", incremental_operation=librdkafka.AlterConfigOpType.SET
    )
    altered = librdkafka.ConfigResource("topic", topic, incremental_configs=[change])
    client.incremental_alter_configs([altered])[altered].result(20)
    settings = client.describe_configs([resource])[resource].result(20)
    assert settings["retention.ms"].value == "120000"
    client.create_partitions([librdkafka.NewPartitions(topic, 5)])[topic].result(20)
    assert len(client.list_topics(topic, 20).topics[topic].partitions) == 5
    client.delete_topics([topic])[topic].result(20)
    assert topic not in client.list_topics(timeout=20).topics


class Member(threading.Thread):
    """A consumer in a group, until it is told to stop."""

    def __init__(self, node: Waypost, group: str, topic: str, seen: list, **options):
        super().__init__()
        self.assigned: list[int] = []
        self.over = threading.Event()
        self.seen = seen
        settings = {"bootstrap.servers": node.kafka, "group.id": group, "auto.offset.reset": "earliest"}
        self.consumer = confluent_kafka.Consumer(settings | {"session.timeout.ms": 6000} | options)
        self.consumer.subscribe([topic], on_assign=self.note, on_revoke=lambda *_: self.note(None, []))

    def note(self, _, partitions) -> None:
        self.assigned = [p.partition for p in partitions]

    def run(self) -> None:
        while not self.over.is_set():
            message = self.consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.seen.append((message.partition(), message.offset()))
        self.consumer.close()

    def stop(self) -> None:
        self.over.set()
        self.join(20)


@pytest.mark.parametrize("assignor", ["range", "roundrobin", "cooperative-sticky"])
def test_a_group_shares_partitions_and_goes_on_where_it_was(node, name, assignor):
    topic, group, seen = name("t"), name("g"), []
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    client.create_topics([librdkafka.NewTopic(topic, 4, 1)])[topic].result(20)
    produce(node, topic, 200)
    options = {"partition.assignment.strategy": assignor}
    first = [Member(node, group, topic, seen, **options) for _ in range(2)]
    [m.start() for m in first]
    until(lambda: len(set(seen)) == 200)
    described = client.describe_consumer_groups([group])[group].result(20)
    assert (described.state.name, len(described.members)) == ("STABLE", 2)
    shares = [{(p.topic, p.partition) for p in m.assignment.topic_partitions} for m in described.members]
    assert not shares[0] & shares[1] and len(shares[0] | shares[1]) == 4
    # One more, and one less: every partition has one reader again.
    third = Member(node, group, topic, seen, **options)
    third.start()
    until(lambda: len(client.describe_consumer_groups([group])[group].result(20).members) == 3)
    first[0].stop()
    until(lambda: client.describe_consumer_groups([group])[group].result(20).state.name == "STABLE")
    until(lambda: len(client.describe_consumer_groups([group])[group].result(20).members) == 2)
    [m.stop() for m in (first[1], third)]
    assert client.describe_consumer_groups([group])[group].result(20).state.name == "EMPTY"
    # Closed in order: all is committed.
    later: list = []
    produce(node, topic, 40)
    last = Member(node, group, topic, later, **options)
    last.start()
    until(lambda: len(later) >= 40)
    time.sleep(0.5)
    last.stop()
    assert len(later) == 40 and not set(later) & set(seen)
    client.delete_consumer_groups([group])[group].result(20)
    assert group not in [g.group_id for g in client.list_consumer_groups().result(20).valid]


def test_an_instance_that_comes_back_causes_no_rebalance(node, name):
    topic, group, seen = name("t"), name("g"), []
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    client.create_topics([librdkafka.NewTopic(topic, 2, 1)])[topic].result(20)
    members = [Member(node, group, topic, seen, **{"group.instance.id": f"i{n}"}) for n in range(2)]
    [m.start() for m in members]
    until(lambda: sorted(members[0].assigned + members[1].assigned) == [0, 1])
    before = members[0].assigned
    members[0].stop()
    again = Member(node, group, topic, seen, **{"group.instance.id": "i0"})
    again.start()
    until(lambda: again.assigned == before)
    [m.stop() for m in (members[1], again)]


def test_a_restart_keeps_records_offsets_and_the_producers_place(server, name):
    node = server(*KAFKA)
    node.start()
    topic, group = name("t"), name("g")
    assert produce(node, topic, 30)[-1] == 29
    committer = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": group})
    committer.commit(offsets=[confluent_kafka.TopicPartition(topic, 0, 12)], asynchronous=False)
    committer.close()
    for stop in (node.kill, node.stop):
        stop()
        node.start()
        assert [r.offset for r in read(node, topic, 30)] == list(range(30))
        reader = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": group})
        assert reader.committed([confluent_kafka.TopicPartition(topic, 0)], 20)[0].offset == 12
        reader.close()
    assert produce(node, topic, 1) == [30]


def test_sasl_plain(server, name):
    node = server(*KAFKA, "--kafka-auth", "always")
    node.start()
    node.cli("users", "add", "ann", "--password", "secret")
    node.cli("users", "permissions", "set", "ann", "^ours", "^ours", ".*")
    topic = "ours." + name("t")
    good = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "ann"}
    assert produce(node, topic, 3, sasl_plain_password="secret", **good) == [0, 1, 2]
    with pytest.raises(kafka.errors.KafkaError):
        produce(node, "theirs", 1, sasl_plain_password="secret", max_block_ms=3000, **good)

    def refused(**settings) -> str:
        """What librdkafka says of a connection that does not come about."""
        said: list[str] = []
        settings = {"bootstrap.servers": node.kafka, "error_cb": lambda error: said.append(str(error))} | settings
        client = confluent_kafka.Producer(settings)
        until(lambda: client.poll(0.1) is not None and said)
        return said[0]

    sasl = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "ann"}
    assert "_AUTHENTICATION" in refused(**sasl, **{"sasl.password": "wrong"})
    # Without any: cut off at the first request that matters.
    assert refused()


def test_members_of_a_group_go_on_after_a_kill(server, name):
    """Nobody joins again, and what was in hand can be committed."""
    node = server(*KAFKA)
    node.start()
    topic, rebalanced = make(node, name("t"), 2), []
    settings = {"group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False, "reconnect.backoff.max.ms": 200}
    members = [confluent_kafka.Consumer({"bootstrap.servers": node.kafka} | settings) for _ in range(2)]
    for n, member in enumerate(members):
        heard = {what: lambda *_, n=n, what=what: rebalanced.append((n, what)) for what in ("on_revoke", "on_lost")}
        member.subscribe([topic], **heard)

    def share() -> bool:
        for member in members:
            member.poll(0.05)
        return all(len(member.assignment()) == 1 for member in members)

    until(share)
    rebalanced.clear()
    for round_ in range(3):
        for partition in (0, 1):
            producer = confluent_kafka.Producer({"bootstrap.servers": node.kafka})
            producer.produce(topic, b"%d" % round_, partition=partition)
            assert producer.flush(20) == 0
        taken = [until(lambda member=member: member.poll(0.2)) for member in members]
        assert [one.value() for one in taken] == [b"%d" % round_] * 2
        node.kill()
        node.start()
        for member, message in zip(members, taken):
            assert until(lambda: committed_by(member, message))
        assert not rebalanced
    assert all(len(member.assignment()) == 1 for member in members)
    for member in members:
        member.close()


def committed_by(member: confluent_kafka.Consumer, message) -> bool:
    """Commits; what is refused otherwise than by a lost connection fails the test."""
    try:
        member.commit(message=message, asynchronous=False)
    except confluent_kafka.KafkaException as failure:
        # Nobody was there to be asked.
        assert failure.args[0].code() < 0 or failure.args[0].retriable(), failure
        return False
    return True


def test_one_replica_that_leads_and_what_has_a_configuration(node, name):
    topic = name("t")
    produce(node, topic, 1)
    client = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    here, missing = kafka.TopicPartition(topic, 0), kafka.TopicPartition(topic, 7)
    elected = client.elect_leaders(0, {topic: [0, 7]}, raise_errors=False)
    [of_topic] = elected.replica_election_results
    codes = {one.partition_id: one.error_code for one in of_topic.partition_result}
    assert codes == {0: kafka.errors.ElectionNotNeededError.errno, 7: kafka.errors.UnknownTopicOrPartitionError.errno}
    unknown = kafka.errors.UnknownTopicOrPartitionError
    assert client.alter_partition_reassignments({here: [0], missing: [0]}) == {here: None, missing: unknown}
    for replicas in ([1], [0, 1]):
        assert client.alter_partition_reassignments({here: replicas})[here].__name__ == "InvalidReplicationAssignmentError"
    assert client.alter_partition_reassignments({here: None})[here].__name__ == "NoReassignmentInProgressError"
    assert client.list_partition_reassignments() == {}
    listed = client.list_config_resources()
    assert topic in listed["topic"] and listed["broker"] == ["0"]
    assert client.list_config_resources(["GROUP", "CLIENT_METRICS"]) == {}
    client.close()
