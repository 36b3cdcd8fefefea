"""Each of Kafka's clients for Python through each feature; the table in docs/compatibility-kafka.md says which."""

import re
import time

import pytest

from broker import Waypost
from python_clients import CLIENTS, Record
from topics import KAFKA, until

pytestmark = pytest.mark.ours("Kafka")

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


@pytest.fixture(params=CLIENTS)
def client(request, node):
    made = CLIENTS[request.param](node.kafka)
    yield made
    made.close()


@pytest.fixture
def topic(client, name):
    topic = name("t")
    client.make(topic)
    return topic


def numbered(count: int, **fields) -> list[Record]:
    return [Record(b"%d" % n, **fields) for n in range(count)]


def values(records: list[Record]) -> list[bytes]:
    return [record.value for record in records]


def test_topics_are_made_extended_and_deleted(client, name):
    topic = name("t")
    client.make(topic, 2)
    assert client.topics()[topic] == 2
    with pytest.raises(client.Error):
        client.make(topic, 2)
    client.grow(topic, 5)
    until(lambda: client.topics()[topic] == 5)
    client.delete(topic)
    until(lambda: topic not in client.topics())


def test_a_topic_is_configured(client, name):
    topic = name("t")
    with pytest.raises(client.Error):
        client.make(topic, config={"no.such": "1"})
    client.make(topic, config={"retention.ms": "600000"})
    assert client.config(topic, "retention.ms") == "600000"
    assert client.config(topic, "cleanup.policy") == "delete"
    client.configure(topic, "retention.ms", "700000")
    assert client.config(topic, "retention.ms") == "700000"
    with pytest.raises(client.Error):
        client.configure(topic, "retention.ms", "soon")


@pytest.mark.parametrize("codec", CODECS)
def test_records_come_back_as_they_were(client, topic, codec):
    # Recent: what is older than a topic keeps goes at once.
    base = int(time.time() * 1000) - 3_600_000
    headers = (("h", b"1"), ("h", b"2"), ("ä", b"\xff\0"), ("", b""))
    headers += (("none", None),) if client.empty_headers else ()
    sent = [Record(b"v" * 200 + b"%d" % n, b"k\0%d" % n, headers, base + n * 1000) for n in range(50)]
    sent += [Record(None, b"tombstone", (), base + 50_000), Record(b"", b"", (), base + 51_000)]
    assert client.send(topic, sent, codec) == list(range(52))
    assert client.read(topic, 52) == [record._replace(offset=n) for n, record in enumerate(sent)]


def test_without_idempotence(client, topic):
    assert client.send(topic, numbered(10), idempotent=False) == list(range(10))
    assert values(client.read(topic, 10)) == values(numbered(10))


def test_offsets_for_times_and_deleted_records(client, topic):
    base = int(time.time() * 1000) - 3_600_000
    for codec, first in (("gzip", 0), ("none", 10)):
        client.send(topic, [Record(b"v", timestamp=base + n * 1000) for n in range(first, first + 10)], codec)
    for n in (0, 4, 14):
        assert client.offset_at(topic, base + n * 1000 - 500) == n
    assert client.offset_at(topic, base + 1_000_000_000) is None
    assert client.ends(topic) == (0, 20)
    assert client.delete_records(topic, 5) == 5
    assert client.ends(topic) == (5, 20)
    # What is gone has no time any more, though the batch that it was in is there.
    assert [client.offset_at(topic, base + n * 1000 - 500) for n in (0, 4, 14)] == [5, 5, 14]
    assert [record.offset for record in client.read(topic, 15)] == list(range(5, 20))


def test_transactions(client, topic, name):
    first, dropped, last = ([Record(b"%s %d" % (word, n)) for n in range(5)] for word in (b"first", b"dropped", b"last"))
    client.transact(topic, name("id"), (first, True), (dropped, False), (last, True))
    assert values(client.read(topic, 10, committed=True)) == values(first + last)
    assert values(client.read(topic, 15)) == values(first + dropped + last)
    # Each transaction has a marker.
    assert client.ends(topic) == (0, 18)


def test_large_messages(client, name):
    topic = name("t")
    client.make(topic, config={"max.message.bytes": "6000000"})
    large = b"x" * 5_000_000
    assert client.send(topic, [Record(large)]) == [0]
    with pytest.raises(client.Error):
        client.send(topic, [Record(large + b"x" * 1_500_000)])
    # Larger than what the consumer asks for at once: the first batch comes whole.
    assert values(client.read(topic, 1, at_once=1000)) == [large]


def test_a_group_shares_hands_over_and_goes_on_where_it_was(client, name):
    topic, group = name("t"), name("g")
    client.make(topic, 4)

    def send(count: int) -> None:
        client.send(topic, [Record(b"%d" % n, partition=n % 4) for n in range(count)])

    def places(*members) -> list[tuple[int, int]]:
        return [(record.partition, record.offset) for member in members for record in member.got]

    send(40)
    first = client.member(group, topic)
    until(lambda: len(first.got) == 40 and first.parts == {0, 1, 2, 3})
    second = client.member(group, topic)
    until(lambda: len(first.parts) == len(second.parts) == 2)
    assert not first.parts & second.parts
    send(40)
    until(lambda: len(places(first, second)) >= 80)
    assert second.got and {record.partition for record in second.got} == second.parts
    first.leave()
    until(lambda: second.parts == {0, 1, 2, 3})
    send(40)
    until(lambda: len(places(first, second)) >= 120)
    second.leave()
    assert sorted(places(first, second)) == [(p, o) for p in range(4) for o in range(30)]
    send(4)
    third = client.member(group, topic)
    until(lambda: len(third.got) >= 4)
    third.leave()
    assert sorted(places(third)) == [(p, 30) for p in range(4)]


@pytest.fixture(scope="module")
def strict():
    """A server that asks who comes, with a user of its own."""
    with Waypost.running(*KAFKA, "--kafka-auth", "always") as node:
        node.cli("users", "add", "ann", "--password", "secret")
        node.cli("users", "permissions", "set", "ann", "^ours", "^ours", "^ours")
        yield node


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("kind", CLIENTS)
def test_who_says_who_he_is_comes_in(strict, name, kind, mechanism, caplog):
    ann = CLIENTS[kind](strict.kafka, mechanism, "ann", "secret")
    topic = "ours." + name("t")
    ann.make(topic)
    assert ann.send(topic, numbered(3)) == [0, 1, 2]
    assert values(ann.read(topic, 3)) == values(numbered(3))
    with pytest.raises(ann.Error):
        ann.make("theirs." + topic)
    ann.close()
    caplog.clear()
    stranger = CLIENTS[kind](strict.kafka, mechanism, "ann", "wrong")
    with pytest.raises(ann.Error):
        stranger.topics()
    stranger.close()
    # Two of them say why in their logs only.
    said = caplog.text + str(getattr(stranger, "failed", ""))
    assert re.search("SaslAuthenticationFailed|_AUTHENTICATION", said), said
