"""Streams over AMQP: queues of type `stream`, and topics of Kafka under the same name."""

import datetime
import decimal
import time

import confluent_kafka
import kafka
import pika
import pytest
import requests
from kafka.admin import NewTopic

from support import closes_channel, closes_connection, eventually, sync
from topics import KAFKA, STREAM, bodies, config_of, fill, offsets, produce, read, records

def test_every_consumer_reads_everything_from_where_it_says(ch, dial, stream):
    fill(ch, stream, *range(10))
    fill(ch, stream, 10)
    for number in range(2):
        messages = read(dial().channel(), stream, 11, "first")
        assert bodies(messages) == [b"%d" % n for n in range(11)], number
        assert offsets(messages) == list(range(11))
        assert not messages[0][0].redelivered
    assert offsets(read(ch, stream, 3, 8)) == [8, 9, 10]
    assert bodies(read(ch, stream, 1, "last"))[-1] == b"10"


def test_a_consumer_that_says_nothing_reads_what_comes(ch, dial, stream):
    fill(ch, stream, "before")
    channel = dial().channel()
    channel.basic_qos(prefetch_count=5)
    taken = []
    channel.basic_consume(stream, lambda *message: taken.append(message[3]))
    fill(ch, stream, "after")
    channel.connection.process_data_events(1)
    eventually(lambda: channel.connection.process_data_events(0) or taken)
    assert taken == [b"after"]


def test_an_offset_that_is_to_come_is_waited_for(ch, dial, stream):
    fill(ch, stream, *range(3))
    channel = dial().channel()
    channel.basic_qos(prefetch_count=5)
    taken = []
    channel.basic_consume(stream, lambda *message: taken.append(message[3]), arguments={"x-stream-offset": 5})
    fill(ch, stream, *range(3, 8))
    eventually(lambda: channel.connection.process_data_events(0) or len(taken) == 3)
    assert taken == [b"5", b"6", b"7"]


def test_times_and_intervals(ch, stream):
    fill(ch, stream, "old")
    time.sleep(2.1)
    middle = datetime.datetime.now(datetime.timezone.utc)
    time.sleep(1.1)
    fill(ch, stream, "new")
    assert bodies(read(ch, stream, 1, middle)) == [b"new"]
    assert bodies(read(ch, stream, 1, "2s")) == [b"new"]
    assert bodies(read(ch, stream, 2, "1h")) == [b"old", b"new"]


def test_credit_is_given_by_acknowledgements(ch, dial, stream):
    fill(ch, stream, *range(20))
    channel = dial().channel()
    channel.basic_qos(prefetch_count=4)
    taken = []
    channel.basic_consume(
        stream, lambda _c, method, _p, body: taken.append((method.delivery_tag, body)),
        arguments={"x-stream-offset": "first"},
    )
    eventually(lambda: channel.connection.process_data_events(0) or len(taken) == 4)
    channel.connection.process_data_events(0.3)
    assert len(taken) == 4
    channel.basic_ack(2, multiple=True)
    channel.basic_reject(3, requeue=True)
    eventually(lambda: channel.connection.process_data_events(0) or len(taken) == 7)
    channel.connection.process_data_events(0.3)
    assert [body for _, body in taken] == [b"%d" % n for n in range(7)]


def test_what_streams_do_not_do_is_refused(dial, name, ch, stream):
    # The mode that consumers need.
    with closes_channel(406, "PRECONDITION_FAILED - consumer prefetch count is not set for 'queue '"):
        channel = dial().channel()
        channel.basic_consume(stream, lambda *_: None)
        sync(channel)
    with closes_connection(540, "NOT_IMPLEMENTED - automatic acknowledgement not supported by stream queues queue '"):
        channel = dial().channel()
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(stream, lambda *_: None, auto_ack=True)
    with closes_connection(540, "NOT_IMPLEMENTED - queue '.*' does not support global qos"):
        channel = dial().channel()
        channel.basic_qos(prefetch_count=1, global_qos=True)
        channel.basic_consume(stream, lambda *_: None)
    for wrong in ["soon", "1x", -1, True]:
        with closes_channel(406, "PRECONDITION_FAILED - invalid arg 'x-stream-offset'"):
            read(dial().channel(), stream, 1, wrong)
    with closes_connection(540, "NOT_IMPLEMENTED - basic.get not supported by stream queues"):
        dial().channel().basic_get(stream)
    with closes_connection(540, "NOT_IMPLEMENTED - queue.purge not supported by stream queues"):
        dial().channel().queue_purge(stream)
    for wrong, text in [({"exclusive": True}, "exclusive-owner"), ({"auto_delete": True, "durable": True}, "auto-delete"),
                        ({"durable": False}, "non-durable")]:
        with closes_channel(406, f"PRECONDITION_FAILED - invalid property '{text}' for queue"):
            dial().channel().queue_declare(name(), arguments=STREAM, **wrong)
    for key, value in [("x-max-length", 5), ("x-message-ttl", 5), ("x-single-active-consumer", True),
                       ("x-max-priority", 3), ("x-dead-letter-exchange", "x"), ("x-max-age", "long")]:
        with closes_channel(406, f"PRECONDITION_FAILED - invalid arg '{key}' for queue"):
            dial().channel().queue_declare(name(), durable=True, arguments=STREAM | {key: value})
    with closes_channel(406, "PRECONDITION_FAILED - invalid arg 'x-max-age' for queue .* of queue type classic"):
        dial().channel().queue_declare(name(), durable=True, arguments={"x-max-age": "1h"})
    with closes_channel(406, "PRECONDITION_FAILED - cannot make stream 'no topic'"):
        dial().channel().queue_declare("no topic", durable=True, arguments=STREAM)
    with closes_channel(406, "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue"):
        dial().channel().queue_declare(stream, durable=True)


ALL_PROPERTIES = dict(
    content_type="text/plain", content_encoding="utf-8", delivery_mode=1, priority=7, correlation_id="c",
    reply_to="r", expiration="60000", message_id="m", timestamp=1_700_000_000, type="t", user_id="guest",
    app_id="a", cluster_id="k",
)
HEADERS = {
    "text": "ä", "number": 7, "big": 1 << 40, "flag": True, "nothing": None, "list": ["a", 1, [b"x"]],
    "several": ["a", "b"], "inner": {"x": {"y": 1}}, "amqp.odd": "1", "price": decimal.Decimal("1.25"),
    "when": datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
}


def test_properties_and_headers_come_back_as_they_were(ch, stream, name):
    exchange = name("x")
    ch.exchange_declare(exchange, "topic")
    ch.queue_bind(stream, exchange, "a.#")
    fill(ch, "a.b", "body", exchange=exchange, headers=HEADERS, **ALL_PROPERTIES)
    [(method, properties, body)] = read(ch, stream, 1, "first")
    assert (method.exchange, method.routing_key, body) == (exchange, "a.b", b"body")
    assert {key: getattr(properties, key) for key in ALL_PROPERTIES} == ALL_PROPERTIES
    assert properties.headers == HEADERS | {"x-stream-offset": 0}


def test_what_amqp_publishes_kafka_reads(node, ch, stream, name):
    exchange = name("x")
    ch.exchange_declare(exchange, "fanout")
    ch.queue_bind(stream, exchange)
    fill(ch, "key", "value", exchange=exchange, headers={"h": "1", "n": 5}, content_type="text/plain")
    fill(ch, stream, "bare")
    first, second = records(node, stream, 2)
    assert (first.key, first.value, first.offset) == (b"key", b"value", 0)
    assert dict(first.headers) == {
        "amqp.exchange": exchange.encode(), "amqp.content-type": b"text/plain", "h": b"1", "n": b"5",
        "amqp.type.n": b"I",
    }
    assert abs(first.timestamp / 1000 - time.time()) < 60
    assert (second.key, second.value) == (None, b"bare")


def test_what_kafka_produces_amqp_reads(node, ch, name):
    topic = name("t")
    produce(node, topic, b"one", b"two", key=b"k", headers=[("h", b"1"), ("h", b"2"), ("amqp.type", b"event")])
    produce(node, topic, b"three")
    # Kafka's topics are no queues until somebody declares them.
    with closes_channel(404, "NOT_FOUND"):
        ch.connection.channel().queue_declare(topic, passive=True)
    found = ch.queue_declare(topic, durable=True, arguments=STREAM)
    assert found.method.message_count == 3
    one, two, three = read(ch, topic, 3, "first")
    assert (one[0].exchange, one[0].routing_key, one[2]) == ("", "k", b"one")
    assert one[1].headers == {"h": ["1", "2"], "x-stream-offset": 0}
    assert (one[1].type, one[1].delivery_mode) == ("event", 2)
    assert abs(one[1].timestamp - time.time()) < 60
    assert (three[0].routing_key, three[1].headers["x-stream-offset"]) == (topic, 2)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_batches_of_any_codec_are_read(node, ch, stream, codec):
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": node.kafka, "compression.type": codec, "linger.ms": 50}
    )
    for n in range(2000):
        producer.produce(stream, b"%d" % n + b"x" * 50, key=b"k")
    assert producer.flush(20) == 0
    messages = read(ch, stream, 2000, "first", prefetch=500)
    assert [int(body.split(b"x")[0]) for body in bodies(messages)] == list(range(2000))
    assert bodies(read(ch, stream, 1, 1234))[0].startswith(b"1234x")


def test_a_waiting_consumer_gets_what_kafka_produces(node, ch, stream):
    ch.basic_qos(prefetch_count=10)
    taken = []
    ch.basic_consume(stream, lambda *message: taken.append(message[3]))
    sync_prefetch(ch)
    produce(node, stream, b"live")
    eventually(lambda: ch.connection.process_data_events(0) or taken)
    assert taken == [b"live"]


def sync_prefetch(channel) -> None:
    """A round trip that leaves the prefetch as it is."""
    channel.exchange_declare("amq.direct", passive=True)


def test_topics_of_several_partitions_are_read_whole(node, ch, name):
    topic = name("t")
    client = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    client.create_topics([NewTopic(topic, 3, 1)])
    ch.queue_declare(topic, durable=True, arguments=STREAM)
    exchange = name("x")
    ch.exchange_declare(exchange, "fanout")
    ch.queue_bind(topic, exchange)
    for n in range(30):
        fill(ch, f"key{n}", n, exchange=exchange)
    messages = read(ch, topic, 30, "first")
    assert sorted(bodies(messages), key=int) == [b"%d" % n for n in range(30)]
    by_key = {m.routing_key: p.headers["x-stream-partition"] for m, p, _ in messages}
    assert set(by_key.values()) == {0, 1, 2}
    # Kafka's own clients choose the same partition for a key.
    producer = kafka.KafkaProducer(bootstrap_servers=node.kafka)
    for n in range(10):
        assert producer.send(topic, b"x", key=b"key%d" % n).get(20).partition == by_key[f"key{n}"]
    producer.close()
    client.close()


def test_transactions_that_are_aborted_are_not_seen_and_those_of_amqp_are_whole(ch, stream):
    channel = ch.connection.channel()
    channel.tx_select()
    channel.basic_publish("", stream, b"gone")
    channel.tx_rollback()
    channel.basic_publish("", stream, b"a")
    channel.basic_publish("", stream, b"b")
    channel.tx_commit()
    assert bodies(read(ch, stream, 2, "first")) == [b"a", b"b"]


def test_filters_are_exact(ch, dial, stream):
    for n in range(30):
        value = {"x-stream-filter-value": "abc"[n % 3]} if n % 5 else None
        fill(ch, stream, n, headers=value)
    wanted = [n for n in range(30) if n % 5 and n % 3 == 1]
    messages = read(dial().channel(), stream, len(wanted), "first", **{"x-stream-filter": "b"})
    assert bodies(messages) == [b"%d" % n for n in wanted]
    wanted = [n for n in range(30) if not n % 5 or n % 3 != 1]
    arguments = {"x-stream-filter": ["a", "c"], "x-stream-match-unfiltered": True}
    assert bodies(read(dial().channel(), stream, len(wanted), "first", **arguments)) == [b"%d" % n for n in wanted]


def test_large_messages_and_many(ch, dial, stream):
    big = bytes(range(256)) * 20_000
    fill(ch, stream, big)
    for n in range(3000):
        ch.basic_publish("", stream, b"%d" % n)
    messages = read(dial().channel(), stream, 3001, "first", prefetch=700)
    assert bodies(messages) == [big] + [b"%d" % n for n in range(3000)]


def test_arguments_become_the_topic_s_configuration(node, ch, name):
    queue = name()
    arguments = STREAM | {"x-max-age": "2h", "x-max-length-bytes": 1_000_000, "x-stream-max-segment-size-bytes": 5_000_000,
                          "x-initial-cluster-size": 1, "x-queue-leader-locator": "client-local"}
    ch.queue_declare(queue, durable=True, arguments=arguments)
    ch.queue_declare(queue, durable=True, arguments=arguments)
    assert config_of(node, queue)["retention.ms"] == "7200000"
    assert config_of(node, queue)["retention.bytes"] == "1000000"
    assert config_of(node, queue)["segment.bytes"] == "5000000"
    with closes_channel(406, "PRECONDITION_FAILED - inequivalent arg 'x-max-age'"):
        ch.queue_declare(queue, durable=True, arguments=arguments | {"x-max-age": "3h"})


def test_policies_limit_a_stream_while_they_apply(node, ch, name):
    queue = name("limited")
    ch.queue_declare(queue, durable=True, arguments=STREAM)
    fill(ch, queue, *[b"x" * 1000] * 100)
    url = f"{node.http}/api/v1/policies/%2F/{queue}"
    definition = {"max-length-bytes": 20_000, "max-age": "1D"}
    put = requests.put(url, json={"pattern": f"^{queue}$", "apply_to": "streams", "definition": definition}, timeout=5)
    assert put.ok, put.text
    eventually(lambda: ch.queue_declare(queue, passive=True).method.message_count < 30, 15)
    assert config_of(node, queue)["retention.bytes"] == "-1"
    requests.delete(url, timeout=5)
    left = ch.queue_declare(queue, passive=True).method.message_count
    fill(ch, queue, *[b"x" * 1000] * 50)
    time.sleep(6)
    assert ch.queue_declare(queue, passive=True).method.message_count == left + 50


def test_a_deleted_stream_is_gone_for_everybody(node, ch, dial, name):
    for way in ["queue", "topic"]:
        queue = name(way)
        ch.queue_declare(queue, durable=True, arguments=STREAM)
        ch.queue_bind(queue, "amq.topic", "gone.#")
        fill(ch, queue, "x")
        channel = dial().channel()
        channel.basic_qos(prefetch_count=1)
        cancelled = []
        channel.add_on_cancel_callback(cancelled.append)
        channel.basic_consume(queue, lambda *_: None)
        if way == "queue":
            with closes_channel(406, "PRECONDITION_FAILED - queue '.*' in use"):
                ch.connection.channel().queue_delete(queue, if_unused=True)
            assert ch.queue_delete(queue).method.message_count == 1
        else:
            client = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
            client.delete_topics([queue])
            client.close()
        eventually(lambda: channel.connection.process_data_events(0) or cancelled)
        with closes_channel(404, "NOT_FOUND"):
            ch.connection.channel().queue_declare(queue, passive=True)
        assert queue not in kafka.KafkaConsumer(bootstrap_servers=node.kafka).topics()
        # The name is free, and the new one is empty.
        assert ch.queue_declare(queue, durable=True, arguments=STREAM).method.message_count == 0
        ch.queue_delete(queue)


def test_streams_outlive_a_kill(server, name):
    node, queue = server(*KAFKA), name()
    node.start()
    channel = pika.BlockingConnection(node.endpoint.params()).channel()
    channel.queue_declare(queue, durable=True, arguments=STREAM | {"x-max-age": "1h"})
    channel.queue_bind(queue, "amq.fanout")
    fill(channel, "k", *range(50), exchange="amq.fanout", headers={"n": 1})
    node.kill()
    node.start()
    channel = pika.BlockingConnection(node.endpoint.params()).channel()
    channel.queue_declare(queue, durable=True, arguments=STREAM | {"x-max-age": "1h"})
    fill(channel, "k", *range(50, 60), exchange="amq.fanout")
    messages = read(channel, queue, 60, "first")
    assert bodies(messages) == [b"%d" % n for n in range(60)]
    assert offsets(messages) == list(range(60))
    # Deleted as a topic while nobody looks: the queue is gone with it.
    client = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    client.delete_topics([queue])
    client.close()
    node.kill()
    node.start()
    channel = pika.BlockingConnection(node.endpoint.params()).channel()
    with closes_channel(404, "NOT_FOUND"):
        channel.queue_declare(queue, passive=True)


def test_listings_show_streams_among_the_queues(node, ch, stream):
    fill(ch, stream, *range(5))
    ch.basic_qos(prefetch_count=2)
    ch.basic_consume(stream, lambda *_: None, arguments={"x-stream-offset": "first"}, consumer_tag="mine")
    view = requests.get(f"{node.http}/api/v1/queues/%2F/{stream}", timeout=5).json()
    assert (view["type"], view["messages"], view["consumers"], view["durable"]) == ("stream", 5, 1, True)
    assert view["stats"]["published"] == 5
    consumers = requests.get(f"{node.http}/api/v1/consumers", timeout=5).json()
    [mine] = [c for c in consumers["items"] if c["queue"] == stream] if isinstance(consumers, dict) else [
        c for c in consumers if c["queue"] == stream
    ]
    assert (mine["tag"], mine["prefetch"]) == ("mine", 2)


def test_dead_letters_may_go_to_a_stream(ch, stream, name):
    queue = name("q")
    ch.queue_declare(queue, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": stream})
    fill(ch, queue, "dead")
    method, _, _ = ch.basic_get(queue)
    ch.basic_reject(method.delivery_tag, requeue=False)
    [(_, properties, body)] = read(ch, stream, 1, "first")
    assert (body, properties.headers["x-death"][0]["reason"]) == (b"dead", "rejected")
