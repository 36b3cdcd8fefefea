"""Kafka Connect, distributed: its worker keeps its state in topics, copies files into topics and back, exactly once where it can;
MirrorMaker, which is built on it."""

from __future__ import annotations

import pathlib
import socket
import subprocess

import confluent_kafka
import pytest
import requests
from confluent_kafka import TopicPartition

from broker import Waypost
from java_programs import JAVA, libraries
from topics import KAFKA, config_of, make, produce, records, until

pytestmark = [pytest.mark.ours("Kafka"), pytest.mark.timeout(240)]

SOURCE = {"connector.class": "FileStreamSource", "exactly.once.support": "required", "transaction.boundary": "poll"}
SINK = {"connector.class": "FileStreamSink", "consumer.override.isolation.level": "read_committed"}


def started(said: pathlib.Path, program: str, properties: pathlib.Path) -> subprocess.Popen:
    java = [*JAVA, "-cp", f"{libraries('java-kafka-apps')}/*", program, str(properties)]
    with said.open("a") as log:
        return subprocess.Popen(java, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(40)
    finally:
        process.kill()


def write(path: pathlib.Path, properties: dict[str, str]) -> None:
    path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))


class Worker:
    """A worker of a Connect cluster, and its REST API."""

    def __init__(self, node: Waypost, folder: pathlib.Path):
        self.said = folder / "said"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        properties = {
            "bootstrap.servers": node.kafka,
            "group.id": "connect",
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
            "exactly.once.source.support": "enabled",
            "offset.flush.interval.ms": "500",
            "connector.client.config.override.policy": "All",
            "plugin.discovery": "service_load",
            "listeners": self.url,
            "scheduled.rebalance.max.delay.ms": "1000",
        }
        for what in ("config", "offset", "status"):
            properties |= {f"{what}.storage.topic": f"connect-{what}", f"{what}.storage.replication.factor": "1"}
        self.properties = folder / "worker.properties"
        write(self.properties, properties)

    def __enter__(self) -> "Worker":
        self.process = started(self.said, "org.apache.kafka.connect.cli.ConnectDistributed", self.properties)
        until(self.ready, timeout=90)
        return self

    def __exit__(self, *_) -> None:
        end(self.process)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.said.read_text()[-4000:]
        try:
            return requests.get(f"{self.url}/connectors", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def ask(self, method: str, path: str, **options):
        """Asks until the worker is not at work on something else."""

        def answered():
            answer = requests.request(method, f"{self.url}/connectors{path}", timeout=60, **options)
            return answer.status_code not in (409, 500, 503) and answer

        answer = until(answered)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def run(self, name: str, **config: str) -> None:
        self.ask("PUT", f"/{name}/config", json={"tasks.max": "1"} | config)

    def states(self, name: str) -> set[str]:
        answer = requests.get(f"{self.url}/connectors/{name}/status", timeout=20)
        if not answer.ok:
            return {"unknown"}
        status = answer.json()
        return {status["connector"]["state"]} | {task["state"] for task in status["tasks"]}


def append(path: pathlib.Path, *lines: str) -> None:
    with path.open("a") as file:
        file.write("".join(line + "\n" for line in lines))


def committed(node: Waypost, topic: str) -> list[str]:
    settings = {"bootstrap.servers": node.kafka, "group.id": "look", "isolation.level": "read_committed"}
    consumer = confluent_kafka.Consumer(settings | {"enable.partition.eof": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = []
    while not (message := consumer.poll(20)).error():
        values.append(message.value().decode())
    assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF, message.error()
    consumer.close()
    return values


def test_files_are_copied_and_a_new_worker_goes_on(tmp_path):
    read, written = tmp_path / "read", tmp_path / "written"
    with Waypost.running(*KAFKA) as node:
        append(read, "one", "two")
        with Worker(node, tmp_path) as worker:
            worker.run("source", file=str(read), topic="lines", **SOURCE)
            worker.run("sink", file=str(written), topics="lines", **SINK)
            until(lambda: written.exists() and written.read_text() == "one\ntwo\n")
            until(lambda: worker.states("source") == worker.states("sink") == {"RUNNING"})
            for topic in ("connect-config", "connect-offset", "connect-status"):
                assert config_of(node, topic)["cleanup.policy"] == "compact", topic
            worker.ask("PUT", "/sink/pause")
            until(lambda: worker.states("sink") == {"PAUSED"})
            append(read, "three")
            until(lambda: committed(node, "lines") == ["one", "two", "three"])
            assert written.read_text() == "one\ntwo\n"
        # What it is to do is in its topics.
        with Worker(node, tmp_path) as worker:
            assert sorted(worker.ask("GET", "")) == ["sink", "source"]
            until(lambda: worker.states("sink") == {"PAUSED"})
            worker.ask("PUT", "/sink/resume")
            append(read, "four")
            until(lambda: written.read_text() == "one\ntwo\nthree\nfour\n")
            assert committed(node, "lines") == ["one", "two", "three", "four"]
            # Once more from the second line on: offsets of a connector that stands still may be set.
            worker.ask("PUT", "/source/stop")
            until(lambda: worker.states("source") == {"STOPPED"})
            where = {"partition": {"filename": str(read)}, "offset": {"position": 4}}
            worker.ask("PATCH", "/source/offsets", json={"offsets": [where]})
            assert worker.ask("GET", "/source/offsets") == {"offsets": [where]}
            worker.ask("PUT", "/source/resume")
            until(lambda: committed(node, "lines")[4:] == ["two", "three", "four"])
            for name in ("source", "sink"):
                worker.ask("DELETE", f"/{name}")
            assert worker.ask("GET", "") == []


def test_lines_are_copied_exactly_once_while_the_server_is_killed(tmp_path):
    read = tmp_path / "read"
    with Waypost.running(*KAFKA) as node, Worker(node, tmp_path) as worker:
        append(read, "0")
        worker.run("source", file=str(read), topic="lines", **SOURCE)
        until(lambda: committed(node, "lines") == ["0"])
        lines = ["0"]
        for n in range(3):
            more = [str(len(lines) + k) for k in range(2000)]
            lines += more
            append(read, *more[:1000])
            until(lambda: len(committed(node, "lines")) > len(lines) - 2000)
            append(read, *more[1000:])
            node.kill()
            node.start()
            until(lambda: len(committed(node, "lines")) >= len(lines), timeout=60)
            assert committed(node, "lines") == lines, f"round {n}"
            assert worker.states("source") == {"RUNNING"}


def test_mirrormaker_copies_topics_their_configuration_and_where_groups_are(tmp_path):
    with Waypost.running(*KAFKA) as near, Waypost.running(*KAFKA) as far:
        make(near, "orders", 2, retention_ms="123456")
        produce(near, "orders", *(b"%d" % n for n in range(10)))
        make(near, "table", cleanup_policy="compact")
        produce(near, "table", b"value", key=b"key")
        settings = {"bootstrap.servers": near.kafka, "group.id": "reader", "enable.auto.commit": False}
        consumer = confluent_kafka.Consumer(settings)
        ends = [TopicPartition("orders", n, consumer.get_watermark_offsets(TopicPartition("orders", n))[1]) for n in (0, 1)]
        consumer.commit(offsets=ends, asynchronous=False)
        consumer.close()
        properties = {
            "clusters": "near,far",
            "near.bootstrap.servers": near.kafka,
            "far.bootstrap.servers": far.kafka,
            "near->far.enabled": "true",
            "sync.group.offsets.enabled": "true",
            # Where a group is, to the record.
            "offset.lag.max": "0",
            "plugin.discovery": "service_load",
            "exactly.once.source.support": "enabled",
        }
        properties |= {f"{what}.interval.seconds": "1" for what in ("emit.checkpoints", "sync.group.offsets")}
        made = ("", "checkpoints.topic.", "heartbeats.topic.", "offset-syncs.topic.", "offset.storage.", "status.storage.", "config.storage.")
        properties |= {f"{what}replication.factor": "1" for what in made}
        write(tmp_path / "mirror.properties", properties)
        process = started(tmp_path / "said", "org.apache.kafka.connect.mirror.MirrorMaker", tmp_path / "mirror.properties")
        try:
            look = confluent_kafka.Consumer({"bootstrap.servers": far.kafka, "group.id": "reader"})
            until(lambda: {"near.orders", "near.table"} <= look.list_topics(timeout=10).topics.keys(), timeout=90)
            assert sorted(int(one.value) for one in records(far, "near.orders", 10)) == list(range(10))
            [of_table] = records(far, "near.table", 1)
            assert (of_table.key, of_table.value) == (b"key", b"value")
            until(lambda: config_of(far, "near.orders")["retention.ms"] == "123456")
            assert config_of(far, "near.table")["cleanup.policy"] == "compact"
            there = [TopicPartition("near.orders", one.partition) for one in ends]
            expected = [one.offset for one in ends]
            until(lambda: [one.offset for one in look.committed(there, timeout=10)] == expected, timeout=60)
            look.close()
        finally:
            end(process)
