"""What producer and consumer agree on; declaring it twice is harmless."""

import os

import pika

QUEUE, FAILED = "orders", "orders.failed"


def connect() -> pika.BlockingConnection:
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
    return pika.BlockingConnection(pika.URLParameters(url))


def declare(channel) -> None:
    channel.queue_declare(FAILED, durable=True)
    # Rejected orders go to the default exchange, which reaches queues by their name.
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": FAILED}
    channel.queue_declare(QUEUE, durable=True, arguments=arguments)
