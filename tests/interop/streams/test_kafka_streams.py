"""Kafka Streams: its features against a server, and exactly once while the server is killed."""

from __future__ import annotations

import collections
import os
import random
import subprocess
import time

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition

from broker import Waypost
from java_programs import JAVA, PROGRAMS, libraries
from topics import KAFKA, make

APPS = PROGRAMS / "java-kafka-apps"
WORDS = ["to", "be", "or", "not", "that", "is", "the", "question"]

pytestmark = pytest.mark.ours("Kafka")


def streams(*arguments: str) -> list[str]:
    return [*JAVA, "-cp", f"{libraries('java-kafka-apps')}/*", "Streams.java", *arguments]


def environment(node: Waypost, folder) -> dict[str, str]:
    return os.environ | {"BROKER": node.kafka, "STATE": str(folder)}


@pytest.mark.timeout(300)
def test_stores_windows_joins_and_instances_that_come_and_go(node, tmp_path):
    done = subprocess.run(
        streams(), cwd=APPS, env=environment(node, tmp_path), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert "all good" in done.stdout


def write(producer: confluent_kafka.Producer, begun: int, lines: int) -> collections.Counter:
    """Writes lines of words; how often each word is in them."""
    counted = collections.Counter()
    for n in range(begun, begun + lines):
        line = [word for at, word in enumerate(WORDS, 1) if n % at == 0]
        counted.update(line)
        producer.produce("count-in", " ".join(line).encode(), partition=n % 4)
    return counted


def counted(node: Waypost, expected: collections.Counter) -> dict[str, list[int]]:
    """The counts of each word in their order, as they are committed, once the last expected one is there."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": node.kafka, "group.id": "reader", "isolation.level": "read_committed", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition("count-out", n, 0) for n in range(4)])
    found, deadline = collections.defaultdict(list), time.monotonic() + 90
    while any(expected[word] not in found[word][-1:] for word in expected) and time.monotonic() < deadline:
        for message in consumer.consume(1000, 0.2):
            assert message.error() is None, message.error()
            found[message.key().decode()].append(int.from_bytes(message.value(), "big"))
    found_later = consumer.consume(10, 1)
    consumer.close()
    assert not found_later, "more than once"
    return found


def rounds(tmp_path, count: int) -> None:
    with Waypost.running(*KAFKA) as node:
        for topic in ("count-in", "count-out"):
            make(node, topic, 4)
        # An idempotent producer does not say a line twice, so whatever comes twice is the doing of others.
        producer = confluent_kafka.Producer(
            {"bootstrap.servers": node.kafka, "enable.idempotence": True, "linger.ms": 1, "reconnect.backoff.max.ms": 200}
        )
        with (tmp_path / "said").open("w+") as said:
            application = subprocess.Popen(
                streams("count"), cwd=APPS, env=environment(node, tmp_path), stdin=subprocess.PIPE, stdout=said, stderr=said
            )
            try:
                expected, lines = write(producer, 1, 50), 51
                counted(node, expected)
                for _ in range(count):
                    until = time.monotonic() + random.uniform(0.5, 2)
                    while time.monotonic() < until:
                        expected.update(write(producer, lines, 5))
                        lines += 5
                        producer.poll(0.02)
                    node.kill()
                    expected.update(write(producer, lines, 20))
                    lines += 20
                    node.start()
                assert producer.flush(60) == 0
                found = counted(node, expected)
                assert application.poll() is None, (tmp_path / "said").read_text()[-4000:]
                assert {word: len(counts) for word, counts in found.items()} == expected
                wrong = {word: counts for word, counts in found.items() if counts != list(range(1, expected[word] + 1))}
                assert not wrong, "lost, twice or out of order"
                application.stdin.close()
                assert application.wait(30) == 0, (tmp_path / "said").read_text()[-4000:]
            finally:
                application.kill()
                application.wait()


@pytest.mark.timeout(240)
def test_words_are_counted_exactly_once_while_the_server_is_killed(tmp_path):
    rounds(tmp_path, 4)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_words_are_counted_exactly_once_in_many_rounds(tmp_path):
    rounds(tmp_path, 40)
