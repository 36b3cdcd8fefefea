"""Kafka's clients for Python behind one face, so that each goes through the same tests: kafka-python, librdkafka
(confluent-kafka), aiokafka."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import NamedTuple

import aiokafka
import aiokafka.admin
import confluent_kafka
import kafka
import kafka.admin
from confluent_kafka import admin as librdkafka

SECONDS = 20


class Record(NamedTuple):
    value: bytes | None
    key: bytes | None = None
    headers: tuple = ()
    timestamp: int | None = None
    partition: int = 0
    offset: int | None = None


class KafkaPython:
    Error = kafka.errors.KafkaError
    # It has no way to send a header without a value.
    empty_headers = False

    def __init__(self, address: str, mechanism: str | None = None, user: str = "", password: str = ""):
        self.at = {"bootstrap_servers": address}
        if mechanism:
            self.at |= {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": mechanism}
            self.at |= {"sasl_plain_username": user, "sasl_plain_password": password}
        self._admin = None

    @property
    def admin(self):
        self._admin = self._admin or kafka.KafkaAdminClient(**self.at)
        return self._admin

    def close(self) -> None:
        if self._admin:
            self._admin.close()

    def make(self, topic: str, partitions: int = 1, config: dict | None = None) -> None:
        self.admin.create_topics([kafka.admin.NewTopic(topic, partitions, 1, topic_configs=config or {})])

    def grow(self, topic: str, partitions: int) -> None:
        self.admin.create_partitions({topic: partitions})

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])

    def topics(self) -> dict[str, int]:
        return {t["name"]: len(t["partitions"]) for t in self.admin.describe_topics()}

    def config(self, topic: str, key: str) -> str:
        resource = kafka.admin.ConfigResource("TOPIC", topic, {key: None})
        return self.admin.describe_configs([resource], config_filter="all")["topic"][topic][key]["value"]

    def configure(self, topic: str, key: str, value: str) -> None:
        # It answers what came, and leaves it to its caller to look for errors.
        done = self.admin.alter_configs([kafka.admin.ConfigResource("TOPIC", topic, {key: value})])["topic"][topic]
        if done != "OK":
            raise self.Error(done)

    def delete_records(self, topic: str, before: int) -> int:
        where = kafka.TopicPartition(topic, 0)
        return self.admin.delete_records({where: before})[where]["low_watermark"]

    def send(self, topic: str, records: list[Record], codec: str = "none", idempotent: bool = True) -> list[int]:
        producer = self._producer(compression_type=None if codec == "none" else codec, enable_idempotence=idempotent)
        try:
            sent = [self._send(producer, topic, record) for record in records]
            return [one.get(SECONDS).offset for one in sent]
        finally:
            producer.close(timeout=2)

    def _producer(self, **options) -> kafka.KafkaProducer:
        return kafka.KafkaProducer(**self.at, linger_ms=20, max_request_size=8_000_000, max_block_ms=10_000, **options)

    @staticmethod
    def _send(producer, topic: str, record: Record):
        return producer.send(topic, record.value, key=record.key, headers=list(record.headers),
                             partition=record.partition, timestamp_ms=record.timestamp)

    def transact(self, topic: str, transactional_id: str, *rounds: tuple[list[Record], bool]) -> None:
        producer = self._producer(transactional_id=transactional_id)
        producer.init_transactions()
        for records, commits in rounds:
            producer.begin_transaction()
            [one.get(SECONDS) for one in [self._send(producer, topic, record) for record in records]]
            producer.commit_transaction() if commits else producer.abort_transaction()
        producer.close()

    def read(self, topic: str, count: int, committed: bool = False, at_once: int = 1 << 20) -> list[Record]:
        consumer = kafka.KafkaConsumer(
            **self.at, consumer_timeout_ms=SECONDS * 1000, max_partition_fetch_bytes=at_once,
            isolation_level="read_committed" if committed else "read_uncommitted",
        )
        where = kafka.TopicPartition(topic, 0)
        consumer.assign([where])
        consumer.seek_to_beginning(where)
        found = [self._record(next(consumer)) for _ in range(count)]
        consumer.close()
        return found

    @staticmethod
    def _record(r) -> Record:
        return Record(r.value, r.key, tuple(r.headers), r.timestamp, r.partition, r.offset)

    def ends(self, topic: str) -> tuple[int, int]:
        where, consumer = kafka.TopicPartition(topic, 0), kafka.KafkaConsumer(**self.at)
        found = consumer.beginning_offsets([where])[where], consumer.end_offsets([where])[where]
        consumer.close()
        return found

    def offset_at(self, topic: str, timestamp: int) -> int | None:
        where, consumer = kafka.TopicPartition(topic, 0), kafka.KafkaConsumer(**self.at)
        found = consumer.offsets_for_times({where: timestamp})[where]
        consumer.close()
        return found and found.offset

    def member(self, group: str, topic: str) -> Member:
        return Member(_KafkaPythonMember(kafka.KafkaConsumer(
            topic, **self.at, group_id=group, auto_offset_reset="earliest", session_timeout_ms=6000,
            heartbeat_interval_ms=500, enable_auto_commit=False,
        )))


class _KafkaPythonMember:
    def __init__(self, consumer: kafka.KafkaConsumer):
        self.consumer = consumer

    def poll(self) -> list[Record]:
        return [KafkaPython._record(r) for all in self.consumer.poll(100).values() for r in all]

    def assigned(self) -> set[int]:
        return {p.partition for p in self.consumer.assignment()}

    def commit(self) -> None:
        self.consumer.commit()

    def close(self) -> None:
        self.consumer.close()


class Member(threading.Thread):
    """A member of a group, whatever its client: it reads, commits what it has read, and leaves when it is told."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client, self.got, self.parts, self.leaves = client, [], set(), threading.Event()
        self.start()

    def run(self) -> None:
        while not self.leaves.is_set():
            came = self.client.poll()
            self.got += came
            self.parts = self.client.assigned()
            if came:
                self.client.commit()
        self.client.close()

    def leave(self) -> None:
        self.leaves.set()
        self.join(SECONDS)
        assert not self.is_alive(), "a member does not leave"


class Librdkafka:
    Error = confluent_kafka.KafkaException
    empty_headers = True

    def __init__(self, address: str, mechanism: str | None = None, user: str = "", password: str = ""):
        self.failed: list = []
        self.at = {"bootstrap.servers": address, "error_cb": self.failed.append}
        if mechanism:
            self.at |= {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": mechanism}
            self.at |= {"sasl.username": user, "sasl.password": password}
        self.admin = librdkafka.AdminClient(self.at)

    def close(self) -> None:
        pass

    def make(self, topic: str, partitions: int = 1, config: dict | None = None) -> None:
        self.admin.create_topics([librdkafka.NewTopic(topic, partitions, 1, config=config or {})])[topic].result(SECONDS)

    def grow(self, topic: str, partitions: int) -> None:
        self.admin.create_partitions([librdkafka.NewPartitions(topic, partitions)])[topic].result(SECONDS)

    def delete(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(SECONDS)

    def topics(self) -> dict[str, int]:
        try:
            return {name: len(t.partitions) for name, t in self.admin.list_topics(timeout=SECONDS).topics.items()}
        finally:
            # Why it failed is said here.
            self.admin.poll(0)

    def config(self, topic: str, key: str) -> str:
        resource = librdkafka.ConfigResource("topic", topic)
        return self.admin.describe_configs([resource])[resource].result(SECONDS)[key].value

    def configure(self, topic: str, key: str, value: str) -> None:
        change = librdkafka.ConfigEntry(key, value, incremental_operation=librdkafka.AlterConfigOpType.SET)
        resource = librdkafka.ConfigResource("topic", topic, incremental_configs=[change])
        self.admin.incremental_alter_configs([resource])[resource].result(SECONDS)

    def delete_records(self, topic: str, before: int) -> int:
        [done] = self.admin.delete_records([confluent_kafka.TopicPartition(topic, 0, before)]).values()
        return done.result(SECONDS).low_watermark

    def send(self, topic: str, records: list[Record], codec: str = "none", idempotent: bool = True) -> list[int]:
        options = {"compression.type": codec, "enable.idempotence": idempotent, "linger.ms": 20}
        producer = confluent_kafka.Producer(self.at | options | {"message.max.bytes": 8_000_000, "message.timeout.ms": 10_000})
        return self._send(producer, topic, records)

    @staticmethod
    def _send(producer, topic: str, records: list[Record]) -> list[int]:
        told: list = []
        for record in records:
            more = {"timestamp": record.timestamp} if record.timestamp else {}
            producer.produce(topic, record.value, key=record.key, headers=list(record.headers),
                             partition=record.partition, on_delivery=lambda *outcome: told.append(outcome), **more)
        assert producer.flush(SECONDS) == 0
        for error, _ in told:
            if error:
                raise confluent_kafka.KafkaException(error)
        return [message.offset() for _, message in told]

    def transact(self, topic: str, transactional_id: str, *rounds: tuple[list[Record], bool]) -> None:
        producer = confluent_kafka.Producer(self.at | {"transactional.id": transactional_id, "linger.ms": 20})
        producer.init_transactions(SECONDS)
        for records, commits in rounds:
            producer.begin_transaction()
            self._send(producer, topic, records)
            producer.commit_transaction(SECONDS) if commits else producer.abort_transaction(SECONDS)

    def _consumer(self, group: str, **options) -> confluent_kafka.Consumer:
        return confluent_kafka.Consumer(self.at | {"group.id": group, "enable.auto.commit": False} | options)

    def read(self, topic: str, count: int, committed: bool = False, at_once: int = 1 << 20) -> list[Record]:
        level = "read_committed" if committed else "read_uncommitted"
        consumer = self._consumer(topic, **{"isolation.level": level, "max.partition.fetch.bytes": at_once})
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, confluent_kafka.OFFSET_BEGINNING)])
        found, deadline = [], time.monotonic() + SECONDS
        while len(found) < count and time.monotonic() < deadline:
            found += [self._record(m) for m in consumer.consume(count - len(found), 1)]
        consumer.close()
        return found

    @staticmethod
    def _record(m) -> Record:
        assert m.error() is None, m.error()
        return Record(m.value(), m.key(), tuple(m.headers() or ()), m.timestamp()[1], m.partition(), m.offset())

    def ends(self, topic: str) -> tuple[int, int]:
        return self._consumer(topic).get_watermark_offsets(confluent_kafka.TopicPartition(topic, 0), timeout=SECONDS)

    def offset_at(self, topic: str, timestamp: int) -> int | None:
        where = confluent_kafka.TopicPartition(topic, 0, timestamp)
        offset = self._consumer(topic).offsets_for_times([where], timeout=SECONDS)[0].offset
        return None if offset == confluent_kafka.OFFSET_END else offset

    def member(self, group: str, topic: str) -> Member:
        consumer = self._consumer(group, **{"auto.offset.reset": "earliest", "session.timeout.ms": 6000})
        consumer.subscribe([topic])
        return Member(_LibrdkafkaMember(consumer))


class _LibrdkafkaMember:
    def __init__(self, consumer: confluent_kafka.Consumer):
        self.consumer = consumer

    def poll(self) -> list[Record]:
        return [Librdkafka._record(m) for m in self.consumer.consume(100, 0.1)]

    def assigned(self) -> set[int]:
        return {p.partition for p in self.consumer.assignment()}

    def commit(self) -> None:
        self.consumer.commit(asynchronous=False)

    def close(self) -> None:
        self.consumer.close()


class AioKafka:
    Error = aiokafka.errors.KafkaError
    empty_headers = True

    def __init__(self, address: str, mechanism: str | None = None, user: str = "", password: str = ""):
        self.at = {"bootstrap_servers": address}
        if mechanism:
            self.at |= {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": mechanism}
            self.at |= {"sasl_plain_username": user, "sasl_plain_password": password}
        self.loop, self._admin = asyncio.new_event_loop(), None
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(2 * SECONDS)

    def close(self) -> None:
        if self._admin:
            self.run(self._admin.close())
        self.loop.call_soon_threadsafe(self.loop.stop)

    @property
    def admin(self):
        if self._admin is None:
            # It wants to be made where its loop runs.
            async def made():
                client = aiokafka.admin.AIOKafkaAdminClient(**self.at)
                await client.start()
                return client

            self._admin = self.run(made())
        return self._admin

    def make(self, topic: str, partitions: int = 1, config: dict | None = None) -> None:
        self._done(self.admin.create_topics([aiokafka.admin.NewTopic(topic, partitions, 1, topic_configs=config)]), "topic_errors")

    def grow(self, topic: str, partitions: int) -> None:
        self._done(self.admin.create_partitions({topic: aiokafka.admin.NewPartitions(partitions)}), "topic_errors")

    def delete(self, topic: str) -> None:
        self._done(self.admin.delete_topics([topic]), "topic_error_codes")

    def _done(self, asked, errors: str) -> None:
        """It answers what came, and leaves it to its caller to look for errors."""
        for _, code, *_ in getattr(self.run(asked), errors):
            if code:
                raise aiokafka.errors.for_code(code)

    def topics(self) -> dict[str, int]:
        return {t["topic"]: len(t["partitions"]) for t in self.run(self.admin.describe_topics())}

    def config(self, topic: str, key: str) -> str:
        resource = aiokafka.admin.config_resource.ConfigResource("TOPIC", topic)
        [answer] = self.run(self.admin.describe_configs([resource]))
        return {entry[0]: entry[1] for entry in answer.resources[0][4]}[key]

    def configure(self, topic: str, key: str, value: str) -> None:
        resource = aiokafka.admin.config_resource.ConfigResource("TOPIC", topic, {key: value})
        [answer] = self.run(self.admin.alter_configs([resource]))
        if code := answer.resources[0][0]:
            raise aiokafka.errors.for_code(code)

    def delete_records(self, topic: str, before: int) -> int:
        where = aiokafka.TopicPartition(topic, 0)
        records = aiokafka.admin.records_to_delete.RecordsToDelete(before)
        return self.run(self.admin.delete_records({where: records}))[where]

    def send(self, topic: str, records: list[Record], codec: str = "none", idempotent: bool = True) -> list[int]:
        async def sent() -> list[int]:
            producer = aiokafka.AIOKafkaProducer(
                **self.at, compression_type=None if codec == "none" else codec, enable_idempotence=idempotent,
                linger_ms=20, max_request_size=8_000_000, request_timeout_ms=10_000,
            )
            await producer.start()
            try:
                return await self._send(producer, topic, records)
            finally:
                await producer.stop()

        return self.run(sent())

    @staticmethod
    async def _send(producer, topic: str, records: list[Record]) -> list[int]:
        sent = [
            await producer.send(topic, record.value, key=record.key, headers=list(record.headers),
                                partition=record.partition, timestamp_ms=record.timestamp)
            for record in records
        ]
        return [(await one).offset for one in sent]

    def transact(self, topic: str, transactional_id: str, *rounds: tuple[list[Record], bool]) -> None:
        async def all_rounds() -> None:
            producer = aiokafka.AIOKafkaProducer(**self.at, transactional_id=transactional_id, linger_ms=20)
            await producer.start()
            for records, commits in rounds:
                await producer.begin_transaction()
                await self._send(producer, topic, records)
                await (producer.commit_transaction() if commits else producer.abort_transaction())
            await producer.stop()

        self.run(all_rounds())

    def _with_consumer(self, action, **options):
        async def done():
            consumer = aiokafka.AIOKafkaConsumer(**self.at, enable_auto_commit=False, **options)
            await consumer.start()
            try:
                return await action(consumer)
            finally:
                await consumer.stop()

        return self.run(done())

    def read(self, topic: str, count: int, committed: bool = False, at_once: int = 1 << 20) -> list[Record]:
        async def some(consumer) -> list[Record]:
            consumer.assign([aiokafka.TopicPartition(topic, 0)])
            await consumer.seek_to_beginning()
            return [self._record(await asyncio.wait_for(consumer.getone(), SECONDS)) for _ in range(count)]

        level = "read_committed" if committed else "read_uncommitted"
        return self._with_consumer(some, isolation_level=level, max_partition_fetch_bytes=at_once)

    @staticmethod
    def _record(r) -> Record:
        return Record(r.value, r.key, tuple(r.headers), r.timestamp, r.partition, r.offset)

    def ends(self, topic: str) -> tuple[int, int]:
        where = aiokafka.TopicPartition(topic, 0)

        async def both(consumer) -> tuple[int, int]:
            return (await consumer.beginning_offsets([where]))[where], (await consumer.end_offsets([where]))[where]

        return self._with_consumer(both)

    def offset_at(self, topic: str, timestamp: int) -> int | None:
        where = aiokafka.TopicPartition(topic, 0)

        async def asked(consumer):
            return (await consumer.offsets_for_times({where: timestamp}))[where]

        found = self._with_consumer(asked)
        return found and found.offset

    def member(self, group: str, topic: str) -> Member:
        async def made():
            consumer = aiokafka.AIOKafkaConsumer(
                topic, **self.at, group_id=group, auto_offset_reset="earliest", session_timeout_ms=6000,
                heartbeat_interval_ms=500, enable_auto_commit=False, metadata_max_age_ms=2000,
            )
            await consumer.start()
            return consumer

        return Member(_AioKafkaMember(self, made))


class _AioKafkaMember:
    def __init__(self, client: AioKafka, make):
        # Its start waits for the group: it begins where other members need not wait for it.
        self.client, self.make, self.consumer = client, make, None

    def poll(self) -> list[Record]:
        self.consumer = self.consumer or self.client.run(self.make())
        came = self.client.run(self.consumer.getmany(timeout_ms=100))
        return [AioKafka._record(r) for all in came.values() for r in all]

    def assigned(self) -> set[int]:
        return {p.partition for p in self.consumer.assignment()}

    def commit(self) -> None:
        self.client.run(self.consumer.commit())

    def close(self) -> None:
        if self.consumer:
            self.client.run(self.consumer.stop())


CLIENTS = {"kafka-python": KafkaPython, "librdkafka": Librdkafka, "aiokafka": AioKafka}
