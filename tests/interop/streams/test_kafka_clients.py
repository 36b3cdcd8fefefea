"""Kafka's clients of other languages, where their tools are found: kafkajs, @platformatic/kafka, franz-go, sarama,
kafka-go, Kafka's own for Java, kcat."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import confluent_kafka
import pytest

from broker import Waypost
from java_programs import CACHE, PROGRAMS, get, libraries, need
from topics import KAFKA, make

SASL = {"SASL_USER": "ann", "SASL_PASSWORD": "secret"}
MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

pytestmark = [pytest.mark.ours("Kafka"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def nodes():
    """One that is open, one that asks who is there."""
    with Waypost.running(*KAFKA) as free, Waypost.running(*KAFKA, "--kafka-auth", "always") as strict:
        strict.cli("users", "add", "ann", "--password", "secret")
        strict.cli("users", "permissions", "set", "ann", ".*", ".*", ".*")
        yield free, strict


def run(command: list[str], folder: pathlib.Path, nodes) -> None:
    environment = {"BROKER": nodes[0].kafka, "SASL_BROKER": nodes[1].kafka, "MECHANISMS": ",".join(MECHANISMS)}
    environment = os.environ | environment | SASL
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "all good" in done.stdout


def node_modules(folder: pathlib.Path) -> None:
    need("node", "npm")
    if not (folder / "node_modules").exists():
        get(["npm", "ci", "--no-audit", "--no-fund"], folder)


def test_kafkajs(nodes):
    folder = PROGRAMS / "node-kafka"
    node_modules(folder)
    run(["node", "main.js"], folder, nodes)


def test_platformatic(nodes):
    folder = PROGRAMS / "node-platformatic"
    node_modules(folder)
    # It needs a newer Node.js than most machines have, and brings it along.
    run([str(folder / "node_modules/.bin/node"), "main.js"], folder, nodes)


@pytest.mark.parametrize("clients", ["go-kafka", "go-kafka-apps"])
def test_go(nodes, tmp_path, clients):
    """franz-go; sarama and kafka-go."""
    need("go")
    folder, program = PROGRAMS / clients, tmp_path / "client"
    get(["go", "mod", "download"], folder)
    built = subprocess.run(["go", "build", "-o", program, "."], cwd=folder, capture_output=True, text=True, timeout=280)
    assert built.returncode == 0, built.stderr
    run([str(program)], folder, nodes)


def test_kafkas_own_client(nodes):
    folder = PROGRAMS / "java-kafka"
    run(["java", "-cp", f"{libraries('java-kafka')}/*", "Main.java"], folder, nodes)


@pytest.fixture(scope="module")
def kcat():
    """kcat from the machine, or out of Debian's package, unpacked where it disturbs nobody."""
    if found := shutil.which("kcat"):
        return lambda *arguments, **options: kcat_run(found, os.environ, *arguments, **options)
    need("apt-get", "dpkg")
    root = CACHE / "kcat"
    if not root.exists():
        part = CACHE / "kcat.part"
        part.mkdir(parents=True, exist_ok=True)
        get(["apt-get", "download", "kcat", "librdkafka1", "libyajl2"], part)
        for package in part.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=part, check=True, timeout=60)
            package.unlink()
        part.rename(root)
    libraries = ":".join(str(one.parent) for one in root.glob("usr/lib/*/librdkafka.so.1"))
    environment = os.environ | {"LD_LIBRARY_PATH": libraries}
    program = str(root / "usr/bin/kcat")
    if subprocess.run([program, "-V"], env=environment, capture_output=True, timeout=20).returncode != 0:
        pytest.skip("Debian's kcat does not run here")
    return lambda *arguments, **options: kcat_run(program, environment, *arguments, **options)


def kcat_run(program: str, environment, *arguments: str, given: bytes = b"", check: bool = True) -> str:
    done = subprocess.run([program, *arguments], env=environment, input=given, capture_output=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done.stdout.decode() + ("" if check else done.stderr.decode())


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_kcat_reads_what_it_wrote(nodes, name, kcat, codec):
    topic, broker = name("t"), ["-b", nodes[0].kafka]
    lines = "".join(f"k{n}:{'v' * 100}{n}\n" for n in range(300)).encode()
    kcat("-P", *broker, "-t", topic, "-K", ":", "-z", codec, "-H", "h=x", "-X", "enable.idempotence=true", given=lines)
    whole = ["-t", topic, "-e", "-q", "-o", "beginning"]
    read = kcat("-C", *broker, *whole, "-f", "%o %k:%s %h\n").splitlines()
    assert read == [f"{n} k{n}:{'v' * 100}{n} h=x" for n in range(300)]
    assert kcat("-C", *broker, "-t", topic, "-e", "-q", "-o", "-3", "-f", "%o\n").split() == ["297", "298", "299"]
    assert f'topic "{topic}" with 1 partitions' in kcat("-L", *broker, "-t", topic)


def test_kcat_as_a_member_of_a_group_goes_on_where_it_was(nodes, name, kcat):
    topic, group, broker = name("t"), name("g"), ["-b", nodes[0].kafka]
    consume = ["-G", group, *broker, "-e", "-q", "-X", "auto.offset.reset=earliest", "-f", "%o\n", topic]
    for first in (0, 10):
        kcat("-P", *broker, "-t", topic, given=b"".join(b"%d\n" % n for n in range(10)))
        assert kcat(*consume).split() == [str(n) for n in range(first, first + 10)]
    found = kcat("-Q", *broker, "-t", f"{topic}:0:1000")
    assert "offset 0" in found


def test_kcat_and_large_messages(nodes, name, kcat, tmp_path):
    topic, broker = make(nodes[0], name("t"), max_message_bytes="6000000"), ["-b", nodes[0].kafka]
    (tmp_path / "large").write_bytes(b"x" * 5_000_000)
    kcat("-P", *broker, "-t", topic, "-X", "message.max.bytes=8000000", str(tmp_path / "large"))
    read = kcat("-C", *broker, "-t", topic, "-e", "-q", "-f", "%S\n", "-X", "fetch.message.max.bytes=1000")
    assert read.split() == ["5000000"]


def test_kcat_and_transactions(nodes, name, kcat):
    topic, broker = name("t"), ["-b", nodes[0].kafka]
    # All that it is given is one transaction.
    kcat("-P", *broker, "-t", topic, "-X", "transactional.id=kcat", given=b"a\nb\n")
    producer = confluent_kafka.Producer({"bootstrap.servers": nodes[0].kafka, "transactional.id": "kcat"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"dropped")
    assert producer.flush(20) == 0
    read = ["-C", *broker, "-t", topic, "-e", "-q", "-f", "%o %s\n", "-X"]
    assert kcat(*read, "isolation.level=read_committed").splitlines() == ["0 a", "1 b"]
    assert kcat(*read, "isolation.level=read_uncommitted").splitlines() == ["0 a", "1 b", "3 dropped"]
    producer.abort_transaction(20)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_kcat_says_who_it_is(nodes, name, kcat, mechanism):
    def sasl(password: str) -> list[str]:
        settings = {"security.protocol": "sasl_plaintext", "sasl.mechanism": mechanism}
        settings |= {"sasl.username": "ann", "sasl.password": password}
        return ["-b", nodes[1].kafka, *(f"-X{key}={value}" for key, value in settings.items())]

    topic = name("t")
    kcat("-P", *sasl("secret"), "-t", topic, given=b"hello\n")
    assert kcat("-C", *sasl("secret"), "-t", topic, "-e", "-q", "-o", "beginning") == "hello\n"
    refused = kcat("-L", *sasl("wrong"), "-m", "5", check=False)
    assert "uthentication" in refused
