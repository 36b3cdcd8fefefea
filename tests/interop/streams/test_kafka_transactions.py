"""Kafka's transactions: stock clients commit, abort, fence each other, consume and produce at once, are too slow, and
live through a `kill -9`."""

import asyncio
import time

import aiokafka
import confluent_kafka
import kafka
import pytest
from confluent_kafka import TopicPartition

from broker import Waypost
from topics import KAFKA, make


def transactional(node: Waypost, transactional_id: str, **options) -> confluent_kafka.Producer:
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": node.kafka, "transactional.id": transactional_id, "linger.ms": 0} | options
    )
    producer.init_transactions(20)
    return producer


def seen(node: Waypost, topic: str, partitions: int = 1, level: str = "read_committed", quiet: float = 1.0) -> list:
    """All values that a consumer is shown, by partition."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": node.kafka, "group.id": f"look-{topic}", "isolation.level": level, "enable.partition.eof": True}
    )
    consumer.assign([TopicPartition(topic, n, 0) for n in range(partitions)])
    values, ended, deadline = [[] for _ in range(partitions)], set(), time.monotonic() + 20
    while len(ended) < partitions and time.monotonic() < deadline:
        message = consumer.poll(quiet)
        if message is None:
            continue
        if message.error():
            assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF, message.error()
            ended.add(message.partition())
        else:
            values[message.partition()].append(message.value())
    consumer.close()
    assert len(ended) == partitions, f"no end of {topic} in 20 s: {values}"
    return values


def test_commit_and_abort_over_several_partitions(node, name):
    topic = name("t")
    make(node, topic, 2)
    producer = transactional(node, name("id"))
    for word in ("first", "dropped", "last"):
        producer.begin_transaction()
        for partition in (0, 1):
            producer.produce(topic, word.encode(), partition=partition)
        producer.flush(20)
        if word == "dropped":
            assert seen(node, topic, 2) == [[b"first"], [b"first"]]
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
    assert seen(node, topic, 2) == [[b"first", b"last"]] * 2
    assert seen(node, topic, 2, "read_uncommitted") == [[b"first", b"dropped", b"last"]] * 2
    # Each marker takes an offset.
    where = TopicPartition(topic, 0)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": topic})
    assert consumer.get_watermark_offsets(where) == (0, 6)
    consumer.close()


def test_what_is_open_is_not_shown_and_holds_back_what_follows(node, name):
    topic = name("t")
    make(node, topic)
    producer = transactional(node, name("id"))
    producer.begin_transaction()
    producer.produce(topic, b"open")
    producer.flush(20)
    other = confluent_kafka.Producer({"bootstrap.servers": node.kafka})
    other.produce(topic, b"after")
    other.flush(20)
    assert seen(node, topic) == [[]]
    assert seen(node, topic, 1, "read_uncommitted") == [[b"open", b"after"]]
    producer.commit_transaction(20)
    assert seen(node, topic) == [[b"open", b"after"]]


def test_a_second_producer_of_the_same_id_fences_the_first(node, name):
    topic, transactional_id = name("t"), name("id")
    make(node, topic)
    first = transactional(node, transactional_id)
    first.begin_transaction()
    first.produce(topic, b"first")
    first.flush(20)
    second = transactional(node, transactional_id)
    second.begin_transaction()
    second.produce(topic, b"second")
    second.commit_transaction(20)
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        first.commit_transaction(20)
    assert refused.value.args[0].code() == confluent_kafka.KafkaError._FENCED
    assert refused.value.args[0].fatal()
    assert seen(node, topic) == [[b"second"]]


def test_consume_transform_produce(node, name):
    source, sink, group = name("source"), name("sink"), name("g")
    make(node, source, 2)
    make(node, sink)
    plain = confluent_kafka.Producer({"bootstrap.servers": node.kafka})
    for n in range(100):
        plain.produce(source, b"%d" % n, partition=n % 2)
    plain.flush(20)
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": node.kafka,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([source])
    producer = transactional(node, name("id"))
    done, rounds, deadline = 0, 0, time.monotonic() + 60
    while done < 100 and time.monotonic() < deadline:
        messages = [m for m in consumer.consume(10, 1) if not m.error()]
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            producer.produce(sink, message.value() + b"!")
        positions = consumer.position(consumer.assignment())
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata(), 20)
        rounds += 1
        if rounds % 3 == 0:
            producer.abort_transaction(20)
            # Back to what counts.
            for one in consumer.committed(consumer.assignment(), 20):
                consumer.seek(TopicPartition(source, one.partition, max(one.offset, 0)))
        else:
            producer.commit_transaction(20)
            done += len(messages)
    committed = consumer.committed([TopicPartition(source, n) for n in (0, 1)], 20)
    assert [one.offset for one in committed] == [50, 50]
    consumer.close()
    values = sorted(int(v[:-1]) for v in seen(node, sink)[0])
    assert values == list(range(100))
    assert rounds > 3


def test_offsets_of_a_member_that_was_put_out_are_refused(node, name):
    source, group = name("source"), name("g")
    make(node, source)
    plain = confluent_kafka.Producer({"bootstrap.servers": node.kafka})
    plain.produce(source, b"v")
    plain.flush(20)
    options = {"bootstrap.servers": node.kafka, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = confluent_kafka.Consumer(options)
    consumer.subscribe([source])
    assert consumer.poll(20).value() == b"v"
    member = consumer.consumer_group_metadata()
    consumer.close()
    producer = transactional(node, name("id"))
    producer.begin_transaction()
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        producer.send_offsets_to_transaction([TopicPartition(source, 0, 1)], member, 20)
    assert refused.value.args[0].txn_requires_abort()
    producer.abort_transaction(20)


def test_who_is_too_slow_is_aborted(node, name):
    topic = name("t")
    make(node, topic)
    producer = transactional(node, name("id"), **{"transaction.timeout.ms": 1500, "message.timeout.ms": 1500})
    producer.begin_transaction()
    producer.produce(topic, b"slow")
    producer.flush(20)
    plain = confluent_kafka.Producer({"bootstrap.servers": node.kafka})
    plain.produce(topic, b"after")
    plain.flush(20)
    assert seen(node, topic) == [[]]
    time.sleep(3)
    assert seen(node, topic) == [[b"after"]]
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        producer.commit_transaction(20)
    assert refused.value.args[0].code() == confluent_kafka.KafkaError._FENCED


@pytest.mark.parametrize("commit", [True, False])
def test_a_transaction_survives_kill_9(server, name, commit):
    one = server(*KAFKA)
    one.start()
    make(one, "t", 2)
    producer = transactional(one, "id")
    producer.begin_transaction()
    producer.produce("t", b"before", partition=0)
    assert producer.flush(20) == 0
    one.kill()
    one.start()
    assert seen(one, "t", 2) == [[], []]
    # The client goes on as if nothing had been.
    producer.produce("t", b"behind", partition=0)
    producer.produce("t", b"behind", partition=1)
    assert producer.flush(30) == 0
    (producer.commit_transaction if commit else producer.abort_transaction)(30)
    one.kill()
    one.start()
    assert seen(one, "t", 2) == ([[b"before", b"behind"], [b"behind"]] if commit else [[], []])
    producer.begin_transaction()
    producer.produce("t", b"more", partition=1)
    producer.commit_transaction(30)
    assert seen(one, "t", 2)[1][-1:] == [b"more"]
    assert one.stop() == 0, one.tail()


def test_kill_9_at_any_moment_leaves_all_or_nothing(server):
    """Each transaction writes one value to two topics and an offset; whatever the moment of the kill, they agree."""
    one = server(*KAFKA)
    one.start()
    make(one, "a")
    make(one, "b")
    number, told = 0, 0
    for round_ in range(5):
        producer = transactional(one, "id")
        group = confluent_kafka.Consumer({"bootstrap.servers": one.kafka, "group.id": "g"})
        until = time.monotonic() + 0.3 + 0.1 * round_
        while time.monotonic() < until:
            number += 1
            producer.begin_transaction()
            producer.produce("a", b"%d" % number)
            producer.produce("b", b"%d" % number)
            producer.send_offsets_to_transaction([TopicPartition("a", 0, number)], group.consumer_group_metadata(), 20)
            producer.commit_transaction(20)
            told = number
        number += 1
        producer.begin_transaction()
        producer.produce("a", b"%d" % number)
        producer.produce("b", b"%d" % number)
        producer.send_offsets_to_transaction([TopicPartition("a", 0, number)], group.consumer_group_metadata(), 20)
        producer.flush(20)
        # The commit is on its way, or is not.
        if round_ % 2:
            with pytest.raises(confluent_kafka.KafkaException):
                one.process.kill()
                producer.commit_transaction(1)
        one.kill()
        one.start()
        transactional(one, "id")
        [a], [b] = seen(one, "a"), seen(one, "b")
        assert a == b, f"round {round_}: half a transaction"
        assert len(a) == len(set(a)) and int(a[-1]) >= told, f"round {round_}"
        [offset] = group.committed([TopicPartition("a", 0)], 20)
        assert offset.offset == int(a[-1]), f"round {round_}"
        group.close()
    assert one.stop() == 0, one.tail()


def test_aiokafka(node, name):
    source, topic, group = name("source"), name("t"), name("g")
    make(node, topic, 2)
    make(node, source)

    async def run() -> None:
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=node.kafka, transactional_id=name("id"))
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"kept", partition=0)
            await producer.send_and_wait(topic, b"kept", partition=1)
            offsets = {aiokafka.TopicPartition(source, 0): 7}
            await producer.send_offsets_to_transaction(offsets, group)
        with pytest.raises(ZeroDivisionError):
            async with producer.transaction():
                await producer.send_and_wait(topic, b"dropped", partition=0)
                raise ZeroDivisionError
        await producer.stop()
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=node.kafka, group_id=group, isolation_level="read_committed", enable_auto_commit=False
        )
        await consumer.start()
        where = [aiokafka.TopicPartition(topic, n) for n in (0, 1)]
        consumer.assign(where)
        await consumer.seek_to_beginning()
        values = [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in (0, 1)]
        assert values == [b"kept", b"kept"]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(consumer.getone(), 1)
        assert await consumer.committed(aiokafka.TopicPartition(source, 0)) == 7
        await consumer.stop()

    asyncio.run(run())


def test_kafka_python(node, name):
    topic, group = name("t"), name("g")
    make(node, topic)
    producer = kafka.KafkaProducer(bootstrap_servers=node.kafka, transactional_id=name("id"))
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, b"kept")
    where = kafka.TopicPartition(topic, 0)
    producer.send_offsets_to_transaction({where: kafka.structs.OffsetAndMetadata(3, "m", -1)}, group)
    producer.commit_transaction()
    producer.begin_transaction()
    producer.send(topic, b"dropped").get(20)
    producer.abort_transaction()
    producer.close()
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=node.kafka, group_id=group, isolation_level="read_committed", consumer_timeout_ms=2000
    )
    consumer.assign([where])
    consumer.seek_to_beginning(where)
    assert [m.value for m in consumer] == [b"kept"]
    assert consumer.committed(where) == 3
    consumer.close()


def test_administrators_see_transactions(node, name):
    topic, transactional_id = name("t"), name("id")
    make(node, topic)
    producer = transactional(node, transactional_id)
    producer.begin_transaction()
    producer.produce(topic, b"v")
    producer.flush(20)
    client = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    open_ones = {t.transactional_id: t for all in client.list_transactions().values() for t in all}
    assert open_ones[transactional_id].state == "Ongoing"
    [empty] = client.list_transactions(state_filters=["Empty"]).values()
    [matching] = client.list_transactions(transactional_id_pattern=transactional_id[:-1] + ".").values()
    assert transactional_id not in {t.transactional_id for t in empty}
    assert [t.transactional_id for t in matching] == [transactional_id]
    described = client.describe_transactions([transactional_id])[transactional_id]
    where = kafka.TopicPartition(topic, 0)
    assert set(described.topic_partitions) == {where}
    [state] = client.describe_producers([where])[where].active_producers
    assert (state.producer_id, state.current_transaction_start_offset) == (described.producer_id, 0)
    producer.abort_transaction(20)
    described = client.describe_transactions([transactional_id])[transactional_id]
    assert described.state == "CompleteAbort"
    with pytest.raises(kafka.errors.TransactionalIdNotFoundError):
        client.describe_transactions([name("nobody")])
    client.close()


def test_a_timeout_that_is_too_long_is_refused(node, name):
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        transactional(node, name("id"), **{"transaction.timeout.ms": 900_001})
    assert refused.value.args[0].code() == confluent_kafka.KafkaError.INVALID_TRANSACTION_TIMEOUT
