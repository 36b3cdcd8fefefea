"""Kafka: peers that ask for more than anybody needs. The server keeps its memory, and others their answers."""

import socket
import struct
import time

import kafka
import pytest
from confluent_kafka import admin as librdkafka
from kafka.admin import NewTopic

from broker import Waypost
from topics import KAFKA, make

PARTITIONS = 1000
METADATA, DESCRIBE_CONFIGS, FIND_COORDINATOR = (3, 9), (32, 4), (10, 4)
COORDINATOR_LOAD_IN_PROGRESS = 14
SASL = '[kafka]\nauth = "always"\n'


def uvarint(n: int) -> bytes:
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def many(item: bytes, count: int) -> bytes:
    return uvarint(count + 1) + item * count


def request(api: tuple[int, int], body: bytes) -> bytes:
    """A request of a flexible version."""
    frame = struct.pack(">hhih", *api, 7, -1) + b"\0" + body
    return struct.pack(">i", len(frame)) + frame


def plain(api: int, version: int, body: bytes) -> bytes:
    """The same of a version that is none."""
    frame = struct.pack(">hhih", api, version, 7, -1) + body
    return struct.pack(">i", len(frame)) + frame


class Peer:
    def __init__(self, server: Waypost, timeout: float = 20):
        host, port = server.kafka.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)

    def ask(self, data: bytes) -> bytes:
        """The answer; empty if the server ends the connection."""
        try:
            self.socket.sendall(data)
            (length,) = struct.unpack(">i", self.take(4))
            return self.take(length)
        except (ConnectionError, EOFError):
            return b""

    def take(self, n: int) -> bytes:
        data = bytearray(n)
        rest = memoryview(data)
        while rest:
            taken = self.socket.recv_into(rest)
            if not taken:
                raise EOFError
            rest = rest[taken:]
        return bytes(data)


def memory(server: Waypost) -> int:
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


@pytest.fixture(scope="module")
def node():
    with Waypost.running(*KAFKA) as server:
        make(server, "t", PARTITIONS)
        yield server


def of_topics(count: int) -> bytes:
    return request(METADATA, many(b"\x02t\0", count) + b"\0\0\0\0")


def of_configs(count: int) -> bytes:
    return request(DESCRIBE_CONFIGS, many(b"\x02\x02t\0\0", count) + b"\1\1\0")


@pytest.mark.parametrize("asked", [of_topics, of_configs])
def test_what_is_asked_for_many_times_is_told_once(node, asked):
    peer = Peer(node)
    assert len(peer.ask(asked(2000))) == len(peer.ask(asked(1))) > 100


def test_a_request_has_no_more_items_than_a_node_has_things(node):
    def keys(count: int) -> bytes:
        return request(FIND_COORDINATOR, b"\0" + many(b"\1", count) + b"\0")

    assert len(Peer(node).ask(keys(100_000))) > 100_000
    assert Peer(node).ask(keys(500_001)) == b""


def test_answers_that_nobody_takes_do_not_pile_up(node):
    peer, size = Peer(node), len(Peer(node).ask(of_topics(1)))
    admin = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    admin.create_topics([NewTopic(f"many-{n}", 1000, 1) for n in range(40)])
    admin.close()
    # All topics, 2 MB each time.
    all_topics, before = request(METADATA, b"\0\0\0\0\0"), memory(node)
    peer.socket.sendall(all_topics * 200)
    time.sleep(4)
    assert memory(node) - before < 64 << 20
    # Others are answered all the while.
    assert len(Peer(node).ask(of_topics(1))) == size


def fetching(topic: str, wait_ms: int, least: int) -> bytes:
    """A request for what a topic of one partition has, at least so many bytes of it."""
    head = struct.pack(">iiiib", -1, wait_ms, least, 50 << 20, 0)
    partition = struct.pack(">iiqi", 1, 0, 0, 50 << 20)
    return plain(1, 4, head + struct.pack(">ih", 1, len(topic)) + topic.encode() + partition)


def test_who_waits_for_more_than_there_is_keeps_nothing_from_others(node):
    topic, record, count = make(node, "waited-for", 1), bytes(1_000_000), 40
    producer = kafka.KafkaProducer(bootstrap_servers=node.kafka, max_request_size=2 << 20, linger_ms=0)
    for _ in range(count):
        producer.send(topic, record).get(20)
    producer.close()
    waiting = [Peer(node) for _ in range(8)]
    for peer in waiting:
        peer.socket.sendall(fetching(topic, 60_000, 50 << 20))
    time.sleep(1)
    assert len(Peer(node).ask(fetching(topic, 60_000, 1))) > count * len(record)
    # Who waits in vain is told what there is.
    assert len(Peer(node).ask(fetching(topic, 100, 50 << 20))) > count * len(record)
    for peer in waiting:
        peer.socket.close()


class Answer:
    """An answer of a flexible version, read from its front."""

    def __init__(self, data: bytes):
        # Behind the correlation id and its tags.
        self.data = data[5:]

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        (n,), self.data = struct.unpack(form, self.data[:size]), self.data[size:]
        return n

    def uvarint(self) -> int:
        n = shift = 0
        while True:
            byte = self.number("B")
            n, shift = n | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return n

    def text(self) -> bytes:
        length = max(self.uvarint() - 1, 0)
        text, self.data = self.data[:length], self.data[length:]
        return text


def described(peer: Peer, groups: list[str]) -> dict[str, tuple[int, int]]:
    """What DescribeGroups says of groups: their codes, and how much their members have said."""
    names = b"".join(uvarint(len(g) + 1) + g.encode() for g in groups)
    answer = Answer(peer.ask(request((15, 5), uvarint(len(groups) + 1) + names + b"\0\0")))
    answer.number(">i")
    told = {}
    for _ in range(answer.uvarint() - 1):
        code, group = answer.number(">h"), answer.text().decode()
        answer.text(), answer.text(), answer.text()
        said = 0
        for _ in range(answer.uvarint() - 1):
            [_, _, _, _, metadata, _] = [answer.text() for _ in range(6)]
            said += len(metadata)
            answer.uvarint()
        answer.number(">i"), answer.uvarint()
        told[group] = (code, said)
    return told


def test_groups_are_described_in_portions(node):
    said, names, peers = 900_000, [f"large-{n}" for n in range(40)], []
    for group in names:
        compact = lambda text: uvarint(len(text) + 1) + text
        protocol = compact(b"range") + compact(bytes(said)) + b"\0"
        member = compact(b"") + compact(b"instance") + compact(b"consumer") + uvarint(2) + protocol + b"\0"
        peers.append(Peer(node))
        peers[-1].socket.sendall(request((11, 6), compact(group.encode()) + struct.pack(">ii", 60_000, 60_000) + member))
    for peer in peers:
        peer.take(*struct.unpack(">i", peer.take(4)))
    asker, left, rounds = Peer(node), names, 0
    while left:
        told = described(asker, left)
        assert list(told) == left
        again = [group for group, (code, _) in told.items() if code == COORDINATOR_LOAD_IN_PROGRESS]
        assert all(told[group] == (0, said) for group in left if group not in again)
        # Clients ask again for those only that they were not told of.
        assert 16 <= len(left) - len(again) <= 20 or not again
        left, rounds = again, rounds + 1
    assert rounds == 3
    # One by one, as librdkafka asks, it makes no difference.
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    futures = client.describe_consumer_groups(names).values()
    assert [len(future.result(20).members) for future in futures] == [1] * len(names)


def test_who_has_not_said_who_he_is_sends_little():
    with Waypost.running(*KAFKA, config=SASL) as server:
        versions = (18, 3)
        small = request(versions, b"\2a\2b\0")
        assert len(Peer(server).ask(small)) > 50
        assert Peer(server).ask(struct.pack(">i", 600_000) + small[4:]) == b""


def test_who_is_refused_has_time_to_read_that():
    """Clients that find the end of the connection together with the answer do not look at the answer."""

    with Waypost.running(*KAFKA, config=SASL) as server:
        peer, token = Peer(server), b"\0guest\0wrong"
        assert peer.ask(plain(17, 1, b"\0\5PLAIN"))
        answer = peer.ask(plain(36, 0, struct.pack(">i", len(token)) + token))
        assert struct.unpack(">ih", answer[:6]) == (7, 58)
        peer.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.socket.recv(1)
        # But not for ever.
        peer.socket.settimeout(5)
        assert peer.socket.recv(1) == b""
