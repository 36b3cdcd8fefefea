"""What tests need beside a client library: waiting, collecting, expecting an exception of the protocol."""

from __future__ import annotations

import contextlib
import re
import socket
import time

import pika
import pika.exceptions
import pytest


def eventually(check, timeout: float = 5, interval: float = 0.02):
    """Calls until the result is true, and returns it; fails when that takes longer than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {timeout} s; the last result was {result!r}"
        time.sleep(interval)


@contextlib.contextmanager
def closes_channel(code: int, text: str):
    """Expects channel.close with this code and a text that matches the pattern from its start."""
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        yield
    assert caught.value.reply_code == code, caught.value
    assert re.match(text, caught.value.reply_text), caught.value.reply_text


@contextlib.contextmanager
def closes_connection(code: int, text: str):
    """Expects connection.close with this code and a text that matches the pattern from its start."""
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as caught:
        yield
    assert caught.value.reply_code == code, caught.value
    assert re.match(text, caught.value.reply_text), caught.value.reply_text


def sync(channel) -> None:
    """A round trip: what was sent before has been seen by the broker, an exception that it caused surfaces here."""
    channel.basic_qos(prefetch_count=0)


def props(**fields) -> pika.BasicProperties:
    return pika.BasicProperties(**fields)


PERSISTENT = pika.BasicProperties(delivery_mode=2)


def publish(channel, queue: str, *bodies, **fields) -> None:
    """Publishes each body to a queue through the default exchange."""
    for body in bodies:
        channel.basic_publish("", queue, as_bytes(body), props(**fields) if fields else None)


def as_bytes(body) -> bytes:
    return body if isinstance(body, bytes) else str(body).encode()


def get(channel, queue: str, timeout: float = 5, auto_ack: bool = True):
    """The next message as (method, properties, body), waiting for it."""

    def one():
        method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
        return (method, properties, body) if method else None

    return eventually(one, timeout)


def bodies(channel, queue: str, count: int, timeout: float = 5) -> list[bytes]:
    return [get(channel, queue, timeout)[2] for _ in range(count)]


def is_empty(channel, queue: str, settle: float = 0.1) -> bool:
    """No message is there now, and none comes within `settle` seconds."""
    time.sleep(settle)
    return channel.basic_get(queue, auto_ack=True)[0] is None


def ready(channel, queue: str) -> int:
    return channel.queue_declare(queue, passive=True).method.message_count


def consumers(channel, queue: str) -> int:
    return channel.queue_declare(queue, passive=True).method.consumer_count


class Consumer:
    """A consumer that keeps what it receives; run its connection with `wait` or `quiet`."""

    def __init__(self, channel, queue: str, **options):
        self.channel, self.received, self.cancelled = channel, [], False
        channel.add_on_cancel_callback(self._cancelled)
        self.tag = channel.basic_consume(queue, self._received, **options)

    def _received(self, _channel, method, properties, body):
        self.received.append((method, properties, body))

    def _cancelled(self, _frame):
        self.cancelled = True

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, _, body in self.received]

    def wait(self, count: int, timeout: float = 5) -> list[bytes]:
        """Until at least `count` messages have come in all; returns all bodies."""
        self._run(lambda: len(self.received) >= count, timeout)
        assert len(self.received) >= count, f"{len(self.received)} of {count} messages within {timeout} s"
        return self.bodies

    def wait_cancelled(self, timeout: float = 5) -> None:
        self._run(lambda: self.cancelled, timeout)
        assert self.cancelled, f"not cancelled within {timeout} s"

    def quiet(self, seconds: float = 0.2) -> list[bytes]:
        """What has come after so many seconds."""
        self._run(lambda: False, seconds)
        return self.bodies

    def _run(self, done, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not done() and time.monotonic() < deadline:
            self.channel.connection.process_data_events(time_limit=0.02)

    def ack(self, index: int = -1, **options) -> None:
        self.channel.basic_ack(self.received[index][0].delivery_tag, **options)

    def nack(self, index: int = -1, **options) -> None:
        self.channel.basic_nack(self.received[index][0].delivery_tag, **options)


def cut(connection) -> None:
    """Ends the TCP connection without a word of AMQP, as a crash of the client would."""
    connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
