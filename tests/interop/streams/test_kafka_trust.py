"""Kafka: damage on the way, topics described page by page, rules and quotas by our own commands, users that go."""

import json
import socket
import struct
import threading
import time

import confluent_kafka
import kafka
import pytest
from kafka.errors import KafkaError

from broker import Waypost
from test_kafka_hostile import Peer, many, memory, request, uvarint
from topics import KAFKA, api, make, records

pytestmark = pytest.mark.ours("Kafka")

DESCRIBE_TOPICS = (75, 0)
CORRUPT_MESSAGE, INVALID_TOPIC, UNKNOWN_TOPIC, TOPIC_AUTHORIZATION_FAILED = 2, 17, 3, 29


class Damaging:
    """A proxy that turns a bit of every record batch that clients send, as long as it is told to."""

    def __init__(self) -> None:
        self.target, self.harms, self.harmed = ("", 0), True, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            for one in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.carry, args=one, daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket, requests: bool) -> None:
        try:
            while data := self.frame(source):
                at = data.find(b"value to be harmed")
                if requests and self.harms and at > 0:
                    data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                    self.harmed += 1
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                one.close()

    @staticmethod
    def frame(source: socket.socket) -> bytes:
        data = b""
        while len(data) < 4 or len(data) < 4 + struct.unpack(">i", data[:4])[0]:
            missing = 4 - len(data) if len(data) < 4 else 4 + struct.unpack(">i", data[:4])[0] - len(data)
            part = source.recv(missing)
            if not part:
                return b""
            data += part
        return data


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_batch_that_was_damaged_on_its_way_is_refused(idempotent):
    proxy = Damaging()
    # Clients are told the proxy's address.
    with Waypost.running("--kafka", f"127.0.0.1:0,advertise={proxy.address}") as server:
        host, port = server.kafka.rsplit(":", 1)
        proxy.target = host, int(port)
        settings = {"bootstrap.servers": proxy.address, "enable.idempotence": idempotent, "message.timeout.ms": 3000}
        producer = confluent_kafka.Producer(settings | ({} if idempotent else {"retries": 0}))
        outcome = []
        producer.produce("t", b"value to be harmed", on_delivery=lambda error, _: outcome.append(error))
        producer.flush(20)
        [error] = outcome
        assert proxy.harmed and error is not None
        # A code that says that it may be sent again; who may not is told it.
        assert idempotent or error.code() == CORRUPT_MESSAGE, error
        # Nothing of it is there; what comes whole is.
        proxy.harms = False
        whole = kafka.KafkaProducer(bootstrap_servers=proxy.address)
        assert whole.send("t", b"value to be harmed").get(20).offset == 0
        whole.close()


def described(answer: bytes) -> tuple[list[tuple[int, str, list[int]]], tuple[str, int] | None]:
    """The topics of an answer (code, name, partitions), and where to go on."""
    at = 4 + 1 + 4

    def take(n: int) -> bytes:
        nonlocal at
        at += n
        return answer[at - n : at]

    def number() -> int:
        n = shift = 0
        while True:
            (byte,) = take(1)
            n |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return n

    def text() -> str:
        return take(number() - 1).decode()

    topics = []
    for _ in range(number() - 1):
        (code,) = struct.unpack(">h", take(2))
        name = text()
        take(17)
        partitions = []
        for _ in range(number() - 1):
            partitions.append(struct.unpack(">hi", take(6))[1])
            take(8)
            for _ in range(5):
                take(4 * (number() - 1))
            take(1)
        take(5)
        topics.append((code, name, partitions))
    cursor = None
    if take(1) == b"\1":
        cursor = text(), struct.unpack(">i", take(4))[0]
        take(1)
    assert take(1) == b"\0" and at == len(answer)
    return topics, cursor


def compact(text: str) -> bytes:
    return uvarint(len(text) + 1) + text.encode()


def ask_for(peer: Peer, topics: list[str], limit: int, cursor: tuple[str, int] | None = None):
    body = uvarint(len(topics) + 1) + b"".join(compact(t) + b"\0" for t in topics) + struct.pack(">i", limit)
    body += b"\xff" if cursor is None else b"\1" + compact(cursor[0]) + struct.pack(">i", cursor[1]) + b"\0"
    return peer.ask(request(DESCRIBE_TOPICS, body + b"\0"))


def test_topics_are_described_page_by_page():
    with Waypost.running(*KAFKA) as server:
        for topic, partitions in (("a", 3), ("b", 1), ("c", 5000)):
            make(server, topic, partitions)
        peer = Peer(server)
        seen, cursor, pages = {}, None, 0
        while True:
            topics, cursor = described(ask_for(peer, [], 1000, cursor))
            for code, topic, partitions in topics:
                assert code == 0
                seen.setdefault(topic, []).extend(partitions)
            assert sum(len(p) for _, _, p in topics) <= 1000
            pages += 1
            if cursor is None:
                break
        assert seen == {"a": [*range(3)], "b": [0], "c": [*range(5000)]} and pages == 6
        # At most 2,000, whatever is asked for; at least one.
        assert described(ask_for(peer, ["c"], 1 << 30)) == ([(0, "c", [*range(2000)])], ("c", 2000))
        assert described(ask_for(peer, ["b", "a"], -5)) == ([(0, "a", [0])], ("a", 1))
        # Named ones, also those that are not there; twice is once.
        wanted = ["b", "none", "no topic", "b"]
        codes = [(UNKNOWN_TOPIC, "none", []), (INVALID_TOPIC, "no topic", [])]
        assert described(ask_for(peer, wanted, 100)) == ([(0, "b", [0]), *sorted(codes, key=lambda c: c[1])], None)
        # A cursor of a topic that is gone leads on behind it; one that is none ends the connection.
        assert described(ask_for(peer, [], 2, ("aa", 7))) == ([(0, "b", [0]), (0, "c", [0])], ("c", 1))
        assert described(ask_for(peer, [], 10, ("c", 1 << 30))) == ([(0, "c", [])], None)
        assert ask_for(peer, [], 10, ("a", -2)) == b""


def test_topics_that_may_not_be_seen_are_refused_once_however_many_pages_there_are():
    with Waypost.running(*KAFKA, "--kafka-auth", "always") as server:
        for topic, partitions in (("a", 1), ("b", 3), ("c", 1), ("d", 1)):
            api(server, "PUT", f"topics/%2F/{topic}", json={"partitions": partitions}).raise_for_status()
        server.cli("users", "add", "ann", "--password", "secret")
        for topic in ("b", "d"):
            server.cli("acls", "add", "allow", "ann", "describe", "topic", topic)
        peer = signed_in(server, "ann", "secret")
        wanted, refused = ["a", "b", "c", "d"], TOPIC_AUTHORIZATION_FAILED
        first, cursor = described(ask_for(peer, wanted, 2))
        assert (first, cursor) == ([(refused, "a", []), (0, "b", [0, 1])], ("b", 2))
        assert described(ask_for(peer, wanted, 2, cursor)) == ([(0, "b", [2]), (refused, "c", []), (0, "d", [0])], None)
        # Who asks for all is not told what there is.
        assert described(ask_for(peer, [], 100)) == ([(0, "b", [0, 1, 2]), (0, "d", [0])], None)


def signed_in(server: Waypost, user: str, password: str) -> Peer:
    def plain(api: int, version: int, body: bytes) -> bytes:
        frame = struct.pack(">hhih", api, version, 7, -1) + body
        return struct.pack(">i", len(frame)) + frame

    peer, token = Peer(server), f"\0{user}\0{password}".encode()
    peer.ask(plain(17, 1, b"\0\5PLAIN"))
    assert struct.unpack(">ih", peer.ask(plain(36, 0, struct.pack(">i", len(token)) + token))[:6]) == (7, 0)
    return peer


def test_records_that_twenty_peers_do_not_take_share_room():
    with Waypost.running(*KAFKA) as server:
        make(server, "t")
        producer = confluent_kafka.Producer({"bootstrap.servers": server.kafka, "message.max.bytes": 200_000})
        for _ in range(600):
            producer.produce("t", b"x" * 100_000)
            producer.flush(20)
        # Fetch 11 of everything: 60 MB for each.
        partition = struct.pack(">iiqqi", 0, -1, 0, -1, 1 << 30)
        body = struct.pack(">iiiibiiih", -1, 0, 1, 1 << 30, 0, 0, -1, 1, 1) + b"t" + struct.pack(">i", 1) + partition
        frame = struct.pack(">hhih", 1, 11, 7, -1) + body + struct.pack(">ih", 0, 0)
        fetch = struct.pack(">i", len(frame)) + frame
        peers = [Peer(server) for _ in range(20)]
        for peer in peers:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.socket.sendall(fetch)
        most = 0
        for _ in range(25):
            time.sleep(0.2)
            most = max(most, memory(server))
        assert most < 450 << 20, most >> 20
        # They are answered once they read, and others meanwhile.
        assert len(records(server, "t", 3)) == 3
        (length,) = struct.unpack(">i", peers[0].take(4))
        assert length > 100_000 and len(peers[0].take(200_000)) == 200_000


def test_rules_and_quotas_by_the_command_line():
    with Waypost.running(*KAFKA, "--kafka-auth", "always") as server:
        def cli(*arguments, **options):
            return server.cli(*arguments, **options)

        def shown(*arguments):
            return json.loads(cli(*arguments, "-o", "json").stdout)

        cli("users", "add", "ann", "--password", "secret")
        cli("acls", "add", "allow", "ann", "write", "topic", "ann.", "--prefixed")
        cli("acls", "add", "allow", "ann", "create", "topic", "ann.", "--prefixed")
        cli("acls", "add", "deny", "*", "all", "topic", "ann.secret")
        as_ann = {
            "bootstrap_servers": server.kafka, "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN",
            "sasl_plain_username": "ann", "sasl_plain_password": "secret", "max_block_ms": 3000,
        }  # fmt: skip
        producer = kafka.KafkaProducer(**as_ann)
        assert producer.send("ann.public", b"x").get(10).offset == 0
        with pytest.raises(KafkaError):
            producer.send("ann.secret", b"x").get(10)
        assert len(shown("acls", "ls")) == 3
        [rule] = shown("acls", "ls", "--effect", "deny")
        assert rule == {
            "vhost": "/", "resource": "topic", "name": "ann.secret", "pattern": "literal", "principal": "User:*",
            "host": "*", "operation": "all", "effect": "deny",
        }  # fmt: skip
        assert len(shown("acls", "ls", "--name", "ann.secret", "--pattern", "match")) == 3
        assert [r["effect"] for r in shown("acls", "rm", "--name", "ann.secret")] == ["deny"]
        assert producer.send("ann.secret", b"x").get(10).offset == 0
        # What would remove all, and what is no rule.
        assert cli("acls", "rm", check=False).returncode != 0
        assert cli("acls", "add", "allow", "ann", "fly", "topic", "t", check=False).returncode == 2
        assert cli("acls", "add", "allow", "ann", "read", "cluster", "t", check=False).returncode != 0
        for wrong in ({"resource": "topic"}, {"resource": "x", "name": "t"}, {"no": 1}):
            assert api(server, "POST", "acls/%2F", json=wrong, auth=("guest", "guest")).status_code == 400
        # A user that goes, while he is connected.
        cli("users", "rm", "ann")
        with pytest.raises(KafkaError):
            producer.send("ann.public", b"x").get(10)
        producer.close(timeout=1)

        cli("quotas", "set", "--user", "bob", "--produce", "1000", "--fetch", "2000.5")
        cli("quotas", "set", "--default-user", "--client-id", "app", "--fetch", "5")
        bob = {"user": "bob", "producer_byte_rate": 1000.0, "consumer_byte_rate": 2000.5}
        default = {"user": None, "client_id": "app", "producer_byte_rate": None, "consumer_byte_rate": 5.0}
        assert sorted(shown("quotas", "ls"), key=len) == [bob, default]
        assert "<default>\tapp" in cli("quotas", "ls").stdout
        for wrong in (["--produce", "0"], ["--produce", "-1"], ["--produce", "nan"], ["--produce", "inf"], []):
            assert cli("quotas", "set", "--user", "bob", *wrong, check=False).returncode != 0, wrong
        assert cli("quotas", "set", "--produce", "1", check=False).returncode == 2
        assert cli("quotas", "rm", "--user", "nobody", check=False).returncode == 4
        cli("quotas", "rm", "--user", "bob")
        cli("quotas", "rm", "--default-user", "--client-id", "app")
        assert shown("quotas", "ls") == []


def test_topics_have_names():
    with Waypost.running(*KAFKA) as server:
        assert api(server, "PUT", "topics/%2F/", json={}).status_code == 400
        for command in ("create", "show", "delete"):
            assert server.cli("topics", command, "", check=False).returncode == 2, command
        for bad in (".", "..", "a b", "ä", "x" * 250, "a/b"):
            assert server.cli("topics", "create", bad, check=False).returncode != 0, bad
        wrong = {"topic": "no topic", "exchange": "amq.topic"}
        assert api(server, "PUT", "forwarders/%2F/f", json=wrong).status_code in (400, 409, 412)
        assert server.cli("topics", "ls", "-o", "json").stdout.strip() == "[]"
