"""What the tests of topics and streams share: making, filling and reading them by Kafka's clients and by AMQP."""

from __future__ import annotations

import functools

import kafka
import requests
from confluent_kafka import admin as librdkafka

from broker import ANY_PORT, Waypost
from support import as_bytes, eventually, props

KAFKA = ("--kafka", ANY_PORT)
STREAM = {"x-queue-type": "stream"}
# Groups take their time: sessions and rebalances count in seconds.
until = functools.partial(eventually, timeout=40, interval=0.05)


def make(node: Waypost, topic: str, partitions: int = 1, **config: str) -> str:
    """A new topic; make(node, "t", cleanup_policy="compact") sets cleanup.policy."""
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    settings = {key.replace("_", "."): value for key, value in config.items()}
    client.create_topics([librdkafka.NewTopic(topic, partitions, 1, config=settings)])[topic].result(20)
    return topic


def config_of(node: Waypost, topic: str) -> dict[str, str]:
    client = librdkafka.AdminClient({"bootstrap.servers": node.kafka})
    [future] = client.describe_configs([librdkafka.ConfigResource("topic", topic)]).values()
    return {key: entry.value for key, entry in future.result(10).items()}


def produce(node: Waypost, topic: str, *values: bytes | None, **options) -> None:
    """One record after the other, each acknowledged; the options are those of a record: key, headers, timestamp_ms."""
    producer = kafka.KafkaProducer(bootstrap_servers=node.kafka)
    for value in values:
        producer.send(topic, value, **options).get(20)
    producer.close()


def records(node: Waypost, topic: str, count: int) -> list:
    """The first records of a topic, as kafka-python shows them."""
    consumer = kafka.KafkaConsumer(
        topic, bootstrap_servers=node.kafka, auto_offset_reset="earliest", consumer_timeout_ms=15_000
    )
    taken = [next(consumer) for _ in range(count)]
    consumer.close()
    return taken


def fill(channel, queue: str, *bodies, exchange: str = "", **fields) -> None:
    """Publishes and waits for the confirms."""
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish(exchange, queue, as_bytes(body), props(**fields))


def read(channel, queue: str, count: int, offset=None, prefetch: int = 100, timeout: float = 10, **arguments) -> list:
    """The first messages of a new consumer of a stream, acknowledged: (method, properties, body)."""
    channel.basic_qos(prefetch_count=prefetch)
    if offset is not None:
        arguments["x-stream-offset"] = offset
    taken = []
    for method, properties, body in channel.consume(queue, arguments=arguments, inactivity_timeout=timeout):
        assert method is not None, f"only {len(taken)} of {count} messages"
        channel.basic_ack(method.delivery_tag)
        taken.append((method, properties, body))
        if len(taken) == count:
            break
    channel.cancel()
    return taken


def bodies(messages) -> list[bytes]:
    return [body for _, _, body in messages]


def offsets(messages) -> list[int]:
    return [properties.headers["x-stream-offset"] for _, properties, _ in messages]


def api(node: Waypost, method: str, path: str, **options) -> requests.Response:
    return requests.request(method, f"{node.http}/api/v1/{path}", timeout=10, **options)
