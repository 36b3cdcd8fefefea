"""connection.blocked: publishers are held back when room is short, consumers go on."""

import pika
import pytest

from support import PERSISTENT, bodies, eventually

pytestmark = pytest.mark.ours("started with limits of the test's own")

# More than any disk has, and less than any process uses.
FULL_DISK = ["--disk-free-limit", "1000000GiB"]
FULL_MEMORY = ["--memory-high-watermark", "0.000001"]


@pytest.mark.parametrize(("flags", "reason"), [(FULL_DISK, "low on disk"), (FULL_MEMORY, "low on memory")])
def test_publishers_are_told(server, flags, reason):
    own = server(*flags)
    own.start()
    connection = pika.BlockingConnection(own.endpoint.params())
    told = []
    connection.add_on_connection_blocked_callback(lambda _c, frame: told.append(frame.method.reason))
    ch = connection.channel()
    ch.queue_declare("q", durable=True)

    def publish_and_look():
        ch.basic_publish("", "q", b"x", PERSISTENT)
        connection.process_data_events(0.05)
        return told

    assert eventually(publish_and_look) == [reason]


def test_consumers_go_on(server):
    own = server()
    ch = pika.BlockingConnection(own.start().params()).channel()
    ch.queue_declare("q", durable=True)
    ch.confirm_delivery()
    for n in range(100):
        ch.basic_publish("", "q", b"%d" % n, PERSISTENT)
    own.stop()
    own.flags += FULL_DISK
    ch = pika.BlockingConnection(own.start().params()).channel()
    assert bodies(ch, "q", 100) == [b"%d" % n for n in range(100)]


def test_a_held_back_publisher_does_not_harm_others(server):
    own = server(*FULL_DISK)
    own.start()
    publisher = pika.BlockingConnection(own.endpoint.params(blocked_connection_timeout=None))
    channel = publisher.channel()
    channel.queue_declare("q", durable=True)
    for _ in range(100):
        channel.basic_publish("", "q", b"x" * 10_000, PERSISTENT)
    other = pika.BlockingConnection(own.endpoint.params()).channel()
    other.queue_declare("other", durable=True)
    other.queue_delete("other")
