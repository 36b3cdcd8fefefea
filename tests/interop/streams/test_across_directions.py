"""Every way into a stream and out of it that is not told elsewhere: ZeroMQ, HTTP, the codecs of each client, transactions,
compacted topics, what is large and what is no text. The table in docs/across-protocols.md names the tests."""

import asyncio

import aio_pika
import confluent_kafka
import kombu
import pika
import pytest
import requests
import zmq

from python_clients import CLIENTS, Record
from support import eventually, get
from test_zmtp_across import hook, push_to  # noqa: F401
from topics import KAFKA, STREAM, api, bodies, fill, make, produce, read, records
from zmtp_peers import endpoints

pytestmark = pytest.mark.ours("streams")

LOCAL = "bind:tcp://127.0.0.1:0"
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", CLIENTS)
def test_amqp_reads_what_each_client_makes_of_each_codec(node, ch, stream, kind, codec):
    client = CLIENTS[kind](node.kafka)
    sent = [Record(b"%d " % n + b"v" * (n % 300), b"k%d" % n, (("h", b"%d" % n),), 1_700_000_000_000 + n) for n in range(200)]
    client.send(stream, sent, codec)
    client.close()
    taken = read(ch, stream, 200, "first")
    assert bodies(taken) == [record.value for record in sent]
    assert [method.routing_key for method, _, _ in taken] == [f"k{n}" for n in range(200)]
    assert [properties.headers["h"] for _, properties, _ in taken] == [str(n) for n in range(200)]
    assert {properties.timestamp for _, properties, _ in taken} == {1_700_000_000}
    assert bodies(read(ch, stream, 1, 150)) == [sent[150].value]


def test_large_messages_in_both_directions(node, ch, stream):
    large = bytes(range(256)) * 20_000
    client = CLIENTS["librdkafka"](node.kafka)
    client.send(stream, [Record(large, b"from kafka")], "zstd")
    fill(ch, stream, large[::-1])
    assert bodies(read(ch, stream, 2, "first")) == [large, large[::-1]]
    assert [record.value for record in client.read(stream, 2, at_once=1000)] == [large, large[::-1]]


def test_keys_and_headers_that_are_no_text_or_come_several_times(node, ch, stream):
    """Clients of AMQP take strings for UTF-8: what is none comes as bytes, or some of them end their connection."""
    key, blob = b"\xff\x00\xfe", bytes(range(256))
    headers = (("a", b"1"), ("b", blob), ("a", blob), ("a", b""), ("none", None))
    client = CLIENTS["librdkafka"](node.kafka)
    client.send(stream, [Record(b"v", key, headers), Record(b"w", b"k" * 300), Record(None, b"gone")])
    [(method, properties, _), (long, more, _), (gone, tombstone, empty)] = read(ch, stream, 3, "first")
    assert (method.routing_key, properties.headers["x-record-key"]) == ("", key)
    assert properties.headers["a"] == ["1", blob, ""]
    assert (properties.headers["b"], properties.headers["none"]) == (blob, None)
    assert (long.routing_key, more.headers["x-record-key"]) == ("", b"k" * 300)
    assert (gone.routing_key, empty, tombstone.headers["x-stream-tombstone"]) == ("gone", b"", True)

    async def by_aio_pika() -> list:
        async with await aio_pika.connect(node.endpoint.url()) as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=10)
            queue = await channel.get_queue(stream)
            async with queue.iterator(arguments={"x-stream-offset": "first"}, timeout=10) as messages:
                return [(m.routing_key, m.headers["x-record-key"]) for m in [await anext(messages) for _ in range(2)]]

    assert asyncio.run(by_aio_pika()) == [("", key), ("", b"k" * 300)]
    taken = []
    with kombu.Connection(node.endpoint.url()) as connection, connection.channel() as channel:
        queue = kombu.Queue(stream, channel=channel, no_declare=True, consumer_arguments={"x-stream-offset": "first"})
        with kombu.Consumer(channel, queue, on_message=taken.append, prefetch_count=10):
            while len(taken) < 3:
                connection.drain_events(timeout=10)
    assert [bytes(m.headers["x-record-key"]) for m in taken[:2]] == [key, b"k" * 300]


def test_times_of_records_are_those_of_messages(node, ch, stream):
    fill(ch, stream, "with a time of its own", timestamp=1_600_000_000)
    produce(node, stream, b"from kafka", timestamp_ms=1_700_000_000_999)
    [(_, mine, _), (_, theirs, _)] = read(ch, stream, 2, "first")
    assert (mine.timestamp, theirs.timestamp) == (1_600_000_000, 1_700_000_000)
    first, second = records(node, stream, 2)
    assert dict(first.headers)["amqp.timestamp"] == b"1600000000"
    # Its own is when it came.
    assert first.timestamp > 1_700_000_000_000 and second.timestamp == 1_700_000_000_999


@pytest.fixture
def transaction(node, name):
    producer = confluent_kafka.Producer({"bootstrap.servers": node.kafka, "transactional.id": name("id")})
    producer.init_transactions(20)
    return producer


def test_what_kafka_aborts_is_seen_by_nobody_else(node, ch, name, stream, transaction, hook):
    queue = name("q")
    ch.queue_declare(queue)
    forward = {"topic": stream, "exchange": "", "routing_key": queue}
    assert api(node, "PUT", f"forwarders/%2F/{stream}", json=forward).ok
    service = "buy" + name("x").rsplit(".", 2)[1]
    push_to(node, service, hook.url)
    waiting = []
    ch.basic_qos(prefetch_count=10)
    ch.basic_consume(stream, lambda *message: waiting.append(message[3]), arguments={"x-stream-offset": "first"})
    for word in (b"kept", b"dropped", b"last"):
        transaction.begin_transaction()
        transaction.produce(stream, word)
        transaction.produce(f"services.{service}", word)
        assert transaction.flush(20) == 0
        ch.connection.process_data_events(0.3)
        # What is open is not shown either.
        assert word not in waiting
        transaction.abort_transaction(20) if word == b"dropped" else transaction.commit_transaction(20)
    eventually(lambda: ch.connection.process_data_events(0.05) or len(waiting) == 2)
    assert waiting == [b"kept", b"last"]
    assert [get(ch, queue)[2] for _ in range(2)] == [b"kept", b"last"]
    assert {hook.got.get(timeout=10)[1] for _ in range(2)} == {b"kept", b"last"}
    assert ch.basic_get(queue)[0] is None and hook.got.empty()
    assert api(node, "DELETE", f"forwarders/%2F/{stream}").ok


def test_amqp_and_a_compacted_topic(node, ch, name):
    topic, exchange = name("t"), name("x")
    make(node, topic, cleanup_policy="compact", min_cleanable_dirty_ratio="0", segment_ms="1")
    ch.queue_declare(topic, durable=True, arguments=STREAM)
    ch.exchange_declare(exchange, "fanout")
    ch.queue_bind(topic, exchange)
    for n in range(20):
        fill(ch, f"k{n % 3}", n, exchange=exchange)
    # A record needs a key there, and the stream's own name is none.
    with pytest.raises(pika.exceptions.NackError):
        fill(ch, topic, "no key")
    fill(ch, "k1", "", exchange=exchange, headers={"x-stream-tombstone": True})
    wanted = [(17, b"k2", b"17"), (18, b"k0", b"18"), (20, b"k1", None)]

    def left() -> list:
        client = CLIENTS["kafka-python"](node.kafka)
        begin, end = client.ends(topic)
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": node.kafka, "group.id": topic, "enable.partition.eof": True, "enable.auto.commit": False}
        )
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        found = []
        while (message := consumer.poll(10)) is not None and not message.error():
            found.append((message.offset(), message.key(), message.value()))
        consumer.close()
        client.close()
        assert (begin, end) == (0, 21)
        return found

    eventually(lambda: left() == wanted, 40, 0.5)
    taken = read(ch, topic, 3, "first")
    assert [(p.headers["x-stream-offset"], m.routing_key, body) for m, p, body in taken] == [
        (17, "k2", b"17"), (18, "k0", b"18"), (20, "k1", b"")
    ]
    assert taken[2][1].headers["x-stream-tombstone"] is True


def test_zeromq_and_kafka(server, peers, name):
    node = server(
        *KAFKA, *("--zmtp", f"streamer,front={LOCAL},queue=work"),
        *("--zmtp", f"forwarder,front={LOCAL},exchange=news"), *("--zmtp", f"forwarder,back={LOCAL},exchange=news"),
        *("--zmtp", f"majordomo,front={LOCAL}"),
    )
    node.start()
    channel = pika.BlockingConnection(node.endpoint.params()).channel()
    channel.queue_declare("stories", durable=True, arguments=STREAM)
    channel.queue_bind("stories", "news", "sport.#")
    work, front, back, workers = endpoints(node)
    publisher, subscriber = peers.connect(zmq.PUB, front), peers.connect(zmq.SUB, back)
    subscriber.setsockopt(zmq.SUBSCRIBE, b"sport.")

    def published() -> bool:
        publisher.send_multipart([b"sport.ski", b"from zeromq"])
        return subscriber.poll(100)

    eventually(published, 10)
    assert subscriber.recv_multipart() == [b"sport.ski", b"from zeromq"]
    [record] = records(node, "stories", 1)
    assert (record.key, record.value) == (b"sport.ski", b"from zeromq")
    while subscriber.poll(200):
        subscriber.recv_multipart()
    # And back: a topic feeds the exchange, and so a subscriber.
    assert api(node, "PUT", "forwarders/%2F/wire", json={"topic": "wire", "exchange": "news"}).ok
    produce(node, "wire", b"from kafka", key=b"sport.golf")
    assert subscriber.recv_multipart() == [b"sport.golf", b"from kafka"]
    # Behind a streamer it is a queue like any other.
    pushes = peers.connect(zmq.PUSH, work)
    channel.queue_bind("work", "news", "work")
    pushes.send(b"queued")
    assert get(channel, "work")[2] == b"queued"
    # A topic of a service, and a worker of Majordomo.
    produce(node, "services.echo", b"to a worker")
    worker = peers.connect(zmq.DEALER, workers)
    worker.send_multipart([b"", b"MDPW01", b"\x01", b"echo"])
    assert worker.recv_multipart()[-1] == b"to a worker"


def test_a_stream_behind_a_streamer(server, peers):
    """PUSH sockets fill a stream that Kafka's clients and AMQP read."""
    node = server(*KAFKA, "--zmtp", f"streamer,front={LOCAL},queue=log")
    node.start()
    channel = pika.BlockingConnection(node.endpoint.params()).channel()
    # The device has made a plain queue at its start.
    channel.queue_delete("log")
    channel.queue_declare("log", durable=True, arguments=STREAM)
    push = peers.connect(zmq.PUSH, endpoints(node)[0])
    for n in range(50):
        push.send(b"%d" % n)
    push.send_multipart([b"a", b"b"])
    found = records(node, "log", 51)
    assert [record.value for record in found[:50]] == [b"%d" % n for n in range(50)]
    assert dict(found[50].headers)["amqp.content-type"] == b"application/x-zmtp"
    assert bodies(read(channel, "log", 50, "first")) == [b"%d" % n for n in range(50)]


def test_http_and_kafka(node, ch, name, stream, hook):
    # In: every change of the configuration center goes to an exchange, and a stream keeps them.
    ch.queue_bind(stream, "amq.config", "directions.#")
    for value in (b"v1", b"v2"):
        requests.put(f"{node.http}/api/v1/config/keys/directions/db/url", data=value, timeout=10).raise_for_status()
        record = records(node, stream, 1 if value == b"v1" else 2)[-1]
        assert (record.key, record.value) == (b"directions.db.url", value)
        assert dict(record.headers)["amqp.type"] == b"config.put"
    # Out: a topic of a service whose instance is a web service.
    service = "web" + name("x").rsplit(".", 2)[1]
    push_to(node, service, hook.url)
    produce(node, f"services.{service}", b"one", headers=[("trace", b"t")])
    produce(node, f"services.{service}", b"two")
    # At the same time, in any order.
    pushed = [hook.got.get(timeout=15) for _ in range(2)]
    assert {body for _, body in pushed} == {b"one", b"two"}
    assert {headers["waypost-service"] for headers, _ in pushed} == {service}


def test_a_message_to_a_service_by_http_that_dies_is_in_the_stream(node, ch, name, stream):
    service = "lost" + name("x").rsplit(".", 2)[1]
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": stream, "x-message-ttl": 50}
    ch.queue_declare(f"{service}-queue", durable=True, arguments=dead)
    sent = requests.post(f"{node.http}/api/v1/services/{service}/send", data=b"nobody came", timeout=10)
    assert sent.ok, sent.text
    [record] = records(node, stream, 1)
    assert record.value == b"nobody came"
