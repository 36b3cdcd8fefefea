"""Fixtures of what speaks of topics and streams."""

from __future__ import annotations

import pika
import pytest

from broker import Waypost
from topics import KAFKA, STREAM


@pytest.fixture(scope="module")
def node():
    """A server that Kafka's clients may come to without a word."""
    with Waypost.running(*KAFKA) as server:
        yield server


@pytest.fixture
def dial(node):
    """Opens connections of AMQP that are closed when the test ends."""
    opened = []

    def one() -> pika.BlockingConnection:
        opened.append(pika.BlockingConnection(node.endpoint.params()))
        return opened[-1]

    yield one
    for connection in opened:
        if connection.is_open:
            connection.close()


@pytest.fixture
def ch(dial):
    return dial().channel()


@pytest.fixture
def stream(ch, name):
    queue = name("s")
    ch.queue_declare(queue, durable=True, arguments=STREAM)
    return queue
