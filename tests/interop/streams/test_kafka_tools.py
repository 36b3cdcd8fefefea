"""Kafka's own command-line tools, as its users type them."""

from __future__ import annotations

import base64
import json
import re
import subprocess

import pytest

from broker import Waypost
from java_programs import JAVA, PROGRAMS, libraries
from topics import KAFKA

APPS = PROGRAMS / "java-kafka-apps"
TOOLS = {
    "acls": "org.apache.kafka.tools.AclCommand",
    "broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "cluster": "org.apache.kafka.tools.ClusterTool",
    "configs": "kafka.admin.ConfigCommand",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "features": "org.apache.kafka.tools.FeatureCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "groups": "org.apache.kafka.tools.GroupsCommand",
    "leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "replica-verification": "org.apache.kafka.tools.ReplicaVerificationTool",
    "streams-application-reset": "org.apache.kafka.tools.StreamsResetter",
    "topics": "org.apache.kafka.tools.TopicCommand",
    "transactions": "org.apache.kafka.tools.TransactionsCommand",
    "verifiable-consumer": "org.apache.kafka.tools.VerifiableConsumer",
    "verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
}


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
