"""Kafka's own command-line tools, as its users type them."""

from __future__ import annotations

import base64
import json
import re
import subprocess

import confluent_kafka
import pytest

from broker import Waypost
from java_programs import JAVA, PROGRAMS, libraries
from topics import KAFKA

APPS = PROGRAMS / "java-kafka-apps"
TOOLS = {
    "acls": "org.apache.kafka.tools.AclCommand",
    "broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "client-metrics": "org.apache.kafka.tools.ClientMetricsCommand",
    "cluster": "org.apache.kafka.tools.ClusterTool",
    "configs": "kafka.admin.ConfigCommand",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "groups": "org.apache.kafka.tools.GroupsCommand",
    "leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "streams-application-reset": "org.apache.kafka.tools.StreamsResetter",
    "topics": "org.apache.kafka.tools.TopicCommand",
    "transactions": "org.apache.kafka.tools.TransactionsCommand",
    "verifiable-consumer": "org.apache.kafka.tools.VerifiableConsumer",
    "verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
}

# The first of them waits until the libraries are fetched.
pytestmark = [pytest.mark.ours("Kafka"), pytest.mark.timeout(300)]


class Shell:
    """Runs tools against a server, one after the other."""

    def __init__(self, node: Waypost):
        command = [*JAVA, "-cp", f"{libraries('java-kafka-apps')}/*", "Tools.java"]
        self.process = subprocess.Popen(
            command, cwd=APPS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.node = node

    def __call__(self, tool: str, *arguments: str, given: str = "", code: int = 0) -> str:
        """What a tool says: typed as for `kafka-<tool>.sh`; SERVER is who is asked, or comes first."""
        typed = [word.replace("SERVER", self.node.kafka) for one in arguments for word in one.split()]
        server = [] if any("SERVER" in one for one in arguments) else ["--bootstrap-server", self.node.kafka]
        words = [TOOLS[tool], *server, *typed, given]
        self.process.stdin.write(" ".join(base64.b64encode(word.encode()).decode() for word in words) + "\n")
        self.process.stdin.flush()
        ended, said = self.process.stdout.readline().split(" ")
        said = base64.b64decode(said).decode()
        assert int(ended) == code, f"{tool} {arguments} ended with {ended}: {said}"
        return said

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(20)


@pytest.fixture(scope="module")
def kafka():
    with Waypost.running(*KAFKA) as node:
        shell = Shell(node)
        yield shell
        shell.close()


def table(said: str) -> list[list[str]]:
    """What a tool shows as a table, without its head."""
    lines = [line.split() for line in said.splitlines() if line.strip()]
    return lines[1:]


def test_topics(kafka, name):
    topic = name("t")
    kafka("topics", f"--create --topic {topic} --partitions 3 --config retention.ms=100000")
    assert topic in kafka("topics", "--list").split()
    assert "exists" in kafka("topics", f"--create --topic {topic}", code=1)
    kafka("topics", f"--create --if-not-exists --topic {topic}")
    assert "factor" in kafka("topics", f"--create --topic {name()} --replication-factor 3", code=1)
    kafka("topics", f"--alter --topic {topic} --partitions 4")
    described = kafka("topics", f"--describe --topic {topic}")
    assert "PartitionCount: 4\tReplicationFactor: 1\tConfigs: retention.ms=100000" in described
    assert described.count("Leader: 0\tReplicas: 0\tIsr: 0") == 4
    for wrong in ("--under-replicated-partitions", "--unavailable-partitions", "--under-min-isr-partitions"):
        assert kafka("topics", "--describe", wrong) == ""
    kafka("topics", f"--delete --topic {topic}")
    assert topic not in kafka("topics", "--list").split()
    for command in ("--describe", "--delete", "--alter --partitions 9"):
        assert "does not exist" in kafka("topics", command, "--topic", topic, code=1)
        kafka("topics", command, "--if-exists --topic", topic)


def test_console_producer_and_consumer(kafka, name):
    topic, group = name("t"), name("g")
    kafka("topics", f"--create --topic {topic}")
    keyed = "--property parse.key=true --property key.separator=: --property parse.headers=true"
    for codec, lines in (("none", "h:v\ta:1\n"), ("zstd", "h:w\tb:2\nh:x\tc:3\n")):
        kafka("console-producer", f"--topic {topic} --compression-codec {codec}", keyed, given=lines)
    shown = "--property print.key=true --property print.headers=true --property print.offset=true --property print.partition=true"
    said = kafka("console-consumer", f"--topic {topic} --from-beginning --max-messages 3 --group {group}", shown)
    expected = ["Partition:0", "Offset:0", "h:v", "a", "1", "Partition:0", "Offset:1", "h:w", "b", "2"]
    assert said.split()[: len(expected)] == expected
    kafka("console-producer", f"--topic {topic}", given="later\n")
    assert kafka("console-consumer", f"--topic {topic} --max-messages 1 --group {group}").splitlines()[0] == "later"
    committed = "--isolation-level read_committed --partition 0 --offset 2 --max-messages 2"
    assert kafka("console-consumer", f"--topic {topic}", committed).splitlines()[:2] == ["3", "later"]


def test_consumer_groups(kafka, name):
    topic, group = name("t"), name("g")
    kafka("topics", f"--create --topic {topic} --partitions 2")
    kafka("verifiable-producer", f"--topic {topic} --max-messages 10")
    kafka("console-consumer", f"--topic {topic} --from-beginning --max-messages 10 --group {group}")
    assert [group, "Empty"] in table(kafka("consumer-groups", "--list --state"))
    assert [group, "Classic"] in table(kafka("consumer-groups", "--list --type"))
    assert group in kafka("groups", "--list")

    def positions(*arguments: str, column: int = 3) -> list[int]:
        found = [one for one in table(kafka("consumer-groups", "--group", group, *arguments)) if one[:2] == [group, topic]]
        return [int(one[column]) for one in sorted(found, key=lambda one: one[2])]

    ends = positions("--describe")
    assert sum(ends) == 10 and positions("--describe", column=5) == [0, 0]
    reset = "--reset-offsets --topic"
    assert positions(f"{reset} {topic} --to-earliest --dry-run") == [0, 0]
    assert positions("--describe") == ends
    assert positions(f"{reset} {topic} --to-earliest --execute") == [0, 0] == positions("--describe")
    filled = ends.index(max(ends))
    assert positions(f"{reset} {topic}:{filled} --shift-by 1 --execute") == [1]
    assert positions(f"{reset} {topic} --by-duration PT1H --execute") == [0, 0]
    assert positions(f"{reset} {topic} --to-datetime 2099-01-01T00:00:00.000 --execute") == ends
    kafka("consumer-groups", f"--delete-offsets --group {group} --topic {topic}:0")
    assert len(positions("--describe")) == 1
    for view in ("--members --verbose", "--state"):
        assert "no active members" in kafka("consumer-groups", f"--describe --group {group}", view)
    kafka("consumer-groups", f"--delete --group {group}")
    assert f"there is no group `{group}`" in kafka("consumer-groups", f"--describe --group {group}")


def test_a_consumer_of_the_newer_protocol(kafka, name):
    topic = name("t")
    kafka("topics", f"--create --topic {topic} --partitions 2")
    kafka("verifiable-producer", f"--topic {topic} --max-messages 5")
    arguments = f"--topic {topic} --group-id {name('g')} --max-messages 5 --reset-policy earliest --group-protocol consumer"
    said = [json.loads(line) for line in kafka("verifiable-consumer", arguments).splitlines()]
    assert sum(one["count"] for one in said if one["name"] == "records_consumed") == 5
    assert all(one["success"] for one in said if one["name"] == "offsets_committed")


def test_configs(kafka, name):
    topic = name("t")
    kafka("topics", f"--create --topic {topic}")
    of_topic = f"--entity-type topics --entity-name {topic}"
    kafka("configs", f"--alter {of_topic} --add-config cleanup.policy=[compact,delete],max.message.bytes=2000")
    said = kafka("configs", f"--describe {of_topic}")
    assert "cleanup.policy=compact,delete sensitive=false" in said and "max.message.bytes=2000 sensitive=false" in said
    kafka("configs", f"--alter {of_topic} --delete-config cleanup.policy")
    assert "  cleanup.policy=delete sensitive=false" in kafka("configs", f"--describe --all {of_topic}")
    assert "unknown topic configuration" in kafka("configs", f"--alter {of_topic} --add-config nonsense=1", code=1)
    assert "num.partitions=1" in kafka("configs", "--describe --all --entity-type brokers --entity-name 0")
    changed = "--alter --entity-type brokers --entity-name 0 --add-config log.cleaner.threads=2"
    assert "the broker by its file" in kafka("configs", changed, code=1)
    client = "--entity-type clients --entity-name slow"
    kafka("configs", f"--alter {client} --add-config producer_byte_rate=1000000")
    assert "producer_byte_rate=1000000.0" in kafka("configs", f"--describe {client}")
    kafka("configs", f"--alter {client} --delete-config producer_byte_rate")
    user = "--entity-type users --entity-name ann"
    kafka("configs", f"--alter {user} --add-config SCRAM-SHA-256=[iterations=8192,password=secret]")
    assert "SCRAM-SHA-256=iterations=8192" in kafka("configs", f"--describe {user}")
    kafka("configs", f"--alter {user} --delete-config SCRAM-SHA-256")
    assert "SCRAM" not in kafka("configs", f"--describe {user}")
    # Groups and the telemetry of clients are not configured here.
    assert kafka("client-metrics", "--list").strip() == ""
    assert "only topics" in kafka("configs", "--alter --entity-type groups --entity-name g --add-config a=1", code=1)


def test_acls(kafka):
    kafka("acls", "--add --allow-principal User:ann --producer --topic t")
    kafka("acls", "--add --allow-principal User:ann --consumer --topic t --group g")
    kafka("acls", "--add --deny-principal User:bob --deny-host 10.0.0.1 --operation Read --topic p --resource-pattern-type prefixed")
    said = kafka("acls", "--list --principal User:ann")
    assert set(re.findall(r"operation=(\w+)", said)) == {"CREATE", "WRITE", "DESCRIBE", "READ"}
    assert "host=10.0.0.1, operation=READ, permissionType=DENY" in kafka("acls", "--list --topic pp --resource-pattern-type match")
    refused = kafka("acls", "--add --allow-principal User:ann --operation All --delegation-token x", code=1)
    assert "rules are about topics" in refused
    for rules in ("--topic t", "--group g", "--topic p --resource-pattern-type prefixed"):
        kafka("acls", f"--remove --force {rules}")
    assert kafka("acls", "--list").strip() == ""


def test_offsets_deleted_records_and_sizes(kafka, name, tmp_path):
    topic = name("t")
    kafka("topics", f"--create --topic {topic} --partitions 2")
    kafka("verifiable-producer", f"--topic {topic} --max-messages 10 --repeating-keys 10")
    produced = f"--topic {topic} --num-records 100 --record-size 100 --throughput -1 --producer-props bootstrap.servers=SERVER"
    assert "100 records sent" in kafka("producer-perf-test", produced)
    ends = [line.split(":") for line in kafka("get-offsets", f"--topic {topic}").split()]
    assert [end[1] for end in ends] == ["0", "1"] and sum(int(end[2]) for end in ends) == 110
    end = int(ends[0][2])
    (tmp_path / "delete").write_text(json.dumps({"partitions": [{"topic": topic, "partition": 0, "offset": end}], "version": 1}))
    assert f"low_watermark: {end}" in kafka("delete-records", f"--offset-json-file {tmp_path}/delete")
    assert f"{topic}:0:{end}" in kafka("get-offsets", f"--topic {topic} --time earliest")
    shown = kafka("log-dirs", f"--describe --topic-list {topic}").splitlines()[-1]
    [of_topic] = [one["partitions"] for one in json.loads(shown)["brokers"][0]["logDirs"]]
    assert {one["partition"]: one["size"] > 0 for one in of_topic} == {f"{topic}-0": False, f"{topic}-1": True}
    left = 110 - end
    assert f", {left}, " in kafka("consumer-perf-test", f"--topic {topic} --messages {left}")


def test_transactions(kafka, name):
    topic, transactional_id = name("t"), name("id")
    kafka("topics", f"--create --topic {topic}")
    produced = f"--topic {topic} --num-records 10 --record-size 10 --throughput -1 --producer-props bootstrap.servers=SERVER"
    kafka("producer-perf-test", f"{produced} --transactional-id {transactional_id} --transaction-duration-ms 100")
    assert [one[3] for one in table(kafka("transactions", "list")) if one[0] == transactional_id] == ["CompleteCommit"]
    assert "CompleteCommit" in kafka("transactions", f"describe --transactional-id {transactional_id}")
    assert "could not be found" in kafka("transactions", "describe --transactional-id none", code=1)
    [producer] = table(kafka("transactions", f"describe-producers --topic {topic} --partition 0"))
    assert producer[3] == "9" and producer[5] == "None"
    assert table(kafka("transactions", f"find-hanging --topic {topic}")) == []
    # One that is open is ended by force, and its producer fenced.
    held = name("held")
    open_one = confluent_kafka.Producer({"bootstrap.servers": kafka.node.kafka, "transactional.id": held})
    open_one.init_transactions(20)
    open_one.begin_transaction()
    open_one.produce(topic, b"open")
    assert open_one.flush(20) == 0
    assert "Ongoing" in kafka("transactions", "list")
    kafka("transactions", f"forceTerminateTransaction --transactionalId {held}")
    assert "Ongoing" not in kafka("transactions", "list")
    with pytest.raises(confluent_kafka.KafkaException):
        open_one.commit_transaction(20)


def test_the_cluster_and_what_it_has_no_need_of(kafka, name, tmp_path):
    topic = name("t")
    kafka("topics", f"--create --topic {topic}")
    assert "Produce(0): 0 to 11 [usable: 11]" in kafka("broker-api-versions")
    assert "Cluster ID: waypost" in kafka("cluster", "cluster-id --bootstrap-server SERVER")
    assert "unfenced" in kafka("cluster", "list-endpoints --bootstrap-server SERVER")
    assert "does not support DESCRIBE_QUORUM" in kafka("metadata-quorum", "describe --status", code=1)
    # Who leads is never in question, and where replicas are neither.
    said = kafka("leader-election", f"--election-type preferred --topic {topic} --partition 0")
    assert "Valid replica already elected" in said
    assert "No partition reassignments found" in kafka("reassign-partitions", "--list")
    for node, file in ((0, "same"), (7, "elsewhere")):
        moved = {"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [node]}]}
        (tmp_path / file).write_text(json.dumps(moved))
    moves = f"--reassignment-json-file {tmp_path}"
    assert "Successfully started" in kafka("reassign-partitions", f"{moves}/same --execute")
    assert "is completed" in kafka("reassign-partitions", f"{moves}/same --verify")
    assert "Unknown broker id 7" in kafka("reassign-partitions", f"{moves}/elsewhere --execute", code=1)


def test_an_application_of_streams_is_reset(kafka, name):
    topic, application = name("t"), name("app")
    kafka("topics", f"--create --topic {topic}")
    kafka("topics", f"--create --topic {application}-counts-changelog")
    kafka("verifiable-producer", f"--topic {topic} --max-messages 5")
    kafka("console-consumer", f"--topic {topic} --from-beginning --max-messages 5 --group {application}")
    said = kafka("streams-application-reset", f"--application-id {application} --input-topics {topic}")
    assert f"Topic: {topic} Partition: 0 Offset: 0" in said
    assert f"{application}-counts-changelog" not in kafka("topics", "--list").split()
    described = kafka("consumer-groups", f"--describe --group {application}")
    assert [one[3] for one in table(described) if one[0] == application] == ["0"]
