"""Consume, transform, produce in transactions while the server is killed: each input is in both outputs once, and what one
transaction wrote is there as a whole or not at all."""

import collections
import random
import threading
import time

import confluent_kafka
import pytest
from confluent_kafka import KafkaException, TopicPartition

from broker import Waypost
from topics import KAFKA, make

pytestmark = pytest.mark.ours("the server is killed")

PARTITIONS = 4
SINKS = ("left", "right")
# Clients that find a server again soon after it was killed. By its other strategy librdkafka 2.16 throws away the brokers that it
# knows but for the one that it has noted as the group's coordinator, for whom offsets in transactions then wait minutes.
SOON = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20}
SOON |= {"metadata.recovery.strategy": "none"}


class Transformer(threading.Thread):
    """One member of the group: what it takes it writes to both sinks, in a transaction with its offsets. Some it aborts."""

    def __init__(self, node: Waypost, name: str):
        super().__init__(daemon=True)
        self.server, self.label, self.going = {"bootstrap.servers": node.kafka} | SOON, name, True
        self.transactions, self.failure, self.producer, self.doing = 0, None, None, "nothing"
        self.random = random.Random(name)
        group = {"group.id": "transformers", "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        group |= {"isolation.level": "read_committed", "session.timeout.ms": 6000, "heartbeat.interval.ms": 300}
        self.consumer = confluent_kafka.Consumer(self.server | group)
        self.consumer.subscribe(["source"])

    def run(self):
        try:
            while self.going:
                self.turn()
        except Exception as failure:
            self.failure = failure
        finally:
            self.consumer.close()

    def turn(self):
        if self.producer is None:
            self.begin_anew()
        taken = [one for one in self.consumer.consume(50, 0.1) if not one.error()]
        if not taken:
            return
        self.transactions += 1
        try:
            self.producer.begin_transaction()
            for one in taken:
                value = f"{self.label}-{self.transactions}:{len(taken)}:{one.value().decode()}".encode()
                for sink in SINKS:
                    self.producer.produce(sink, value, partition=self.random.randrange(2))
            following = [TopicPartition("source", p, o) for p, o in self.positions(taken).items()]
            metadata = self.consumer.consumer_group_metadata()
            self.until_done("sends offsets", lambda: self.producer.send_offsets_to_transaction(following, metadata, 30))
            if self.random.random() < 0.1:
                self.back()
            else:
                self.until_done("commits", lambda: self.producer.commit_transaction(30))
        except KafkaException as failure:
            if failure.args[0].fatal():
                # Nothing but a new producer helps, whose start aborts what was open.
                self.begin_anew()
                self.rewind()
            elif failure.args[0].txn_requires_abort():
                self.back()
            else:
                raise

    def begin_anew(self):
        self.producer = confluent_kafka.Producer(self.server | {"transactional.id": self.label, "linger.ms": 0})
        self.until_done("begins", lambda: self.producer.init_transactions(30))

    @staticmethod
    def positions(taken) -> dict[int, int]:
        return {one.partition(): one.offset() + 1 for one in taken}

    def until_done(self, what: str, action):
        """As librdkafka wants it: what may be tried again is."""
        while True:
            self.doing = what
            try:
                action()
                self.doing = "consumes"
                return
            except KafkaException as failure:
                if not failure.args[0].retriable():
                    raise

    def back(self):
        self.until_done("aborts", lambda: self.producer.abort_transaction(30))
        self.rewind()

    def rewind(self):
        """To what is committed."""
        self.doing = "rewinds"
        while self.going:
            try:
                for one in self.consumer.committed(self.consumer.assignment(), 30):
                    self.consumer.seek(TopicPartition(one.topic, one.partition, max(one.offset, 0)))
                self.doing = "consumes"
                return
            except KafkaException as failure:
                # Killed once more, or the partition went to the other one.
                if not failure.args[0].retriable() and failure.args[0].code() >= 0:
                    raise


def committed(node: Waypost, sink: str) -> list[bytes]:
    """All that is committed in a sink."""
    settings = {"bootstrap.servers": node.kafka, "group.id": "look", "isolation.level": "read_committed"}
    consumer = confluent_kafka.Consumer(settings | {"enable.partition.eof": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(sink, n, 0) for n in range(2)])
    values, ended = [], set()
    while len(ended) < 2:
        message = consumer.poll(30)
        assert message is not None, f"no end of {sink}"
        if message.error():
            assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF, message.error()
            ended.add(message.partition())
        else:
            values.append(message.value())
    consumer.close()
    return values


def torn(values: list[bytes]) -> set[bytes]:
    """The transactions of which there is a part only."""
    found, sizes = collections.Counter(), {}
    for value in values:
        transaction, size, _ = value.split(b":")
        found[transaction] += 1
        sizes[transaction] = int(size)
    return {one for one in found if found[one] != sizes[one]}


def check_all(node: Waypost, sent: int, members: list[Transformer], seen: dict[str, list[bytes]]) -> None:
    """Everything that was sent is in both sinks once, of the same transactions; also what was seen there before."""
    sinks, deadline = {}, time.monotonic() + 90
    while any(len(sinks.get(sink, [])) < sent for sink in SINKS):
        what = {sink: len(values) for sink, values in sinks.items()} | {one.label: (one.doing, one.failure) for one in members}
        assert time.monotonic() < deadline, f"{sent} were sent, and there are {what}"
        sinks = {sink: committed(node, sink) for sink in SINKS}
    for sink, values in sinks.items():
        assert not torn(values)
        assert set(seen[sink]) <= set(values), "what was seen was not committed"
        numbers = sorted(int(value.split(b":")[2]) for value in values)
        twice = [n for n, times in collections.Counter(numbers).items() if times > 1]
        assert not twice, f"twice in {sink}: {twice[:5]}"
        assert numbers == list(range(sent)), f"lost on the way to {sink}"
    assert sorted(sinks["left"]) == sorted(sinks["right"])


def rounds(count: int) -> None:
    with Waypost.running(*KAFKA) as node:
        make(node, "source", PARTITIONS)
        for sink in SINKS:
            make(node, sink, 2)
        writer = confluent_kafka.Producer({"bootstrap.servers": node.kafka, "enable.idempotence": True, "linger.ms": 5} | SOON)
        members = [Transformer(node, name) for name in ("one", "two")]
        for member in members:
            member.start()
        sent = 0
        for _ in range(count):
            ends = time.monotonic() + random.uniform(0.5, 2)
            while time.monotonic() < ends:
                for _ in range(20):
                    writer.produce("source", b"%d" % sent, partition=sent % PARTITIONS)
                    sent += 1
                writer.poll(0.02)
            node.kill()
            node.start()
            # At once, with transactions on their way. Of one there may be a part yet, where another that is open holds back the rest.
            seen = {sink: committed(node, sink) for sink in SINKS}
            assert writer.flush(60) == 0
            check_all(node, sent, members, seen)
            assert not any(member.failure for member in members), [member.failure for member in members]
        for member in members:
            member.going = False
        for member in members:
            member.join(60)
        assert not any(member.failure for member in members), [member.failure for member in members]
        assert all(member.transactions > 0 for member in members), "one of them did nothing"


@pytest.mark.timeout(240)
def test_a_few_rounds():
    rounds(3)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_rounds():
    rounds(50)
