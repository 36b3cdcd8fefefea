"""Topics that feed exchanges and services: what becomes of records on their way."""

import confluent_kafka
import kafka
import pika
import pytest
from kafka.admin import NewPartitions, NewTopic

from support import eventually, get
from topics import KAFKA, STREAM, api, config_of, fill, produce, read

SELF = "waypost.forward."


def forward(node, name: str, **definition) -> None:
    answer = api(node, "PUT", f"forwarders/%2F/{name}", json=definition)
    assert answer.status_code == 204, answer.text


def forwarder(node, name: str) -> dict:
    return api(node, "GET", f"forwarders/%2F/{name}").json()


@pytest.fixture
def queue(ch, name):
    queue = name("q")
    ch.queue_declare(queue, durable=True)
    ch.queue_bind(queue, "amq.topic", "order.#")
    yield queue
    ch.queue_delete(queue)


def test_a_topic_feeds_an_exchange(node, ch, queue, name):
    topic = name("t")
    produce(node, topic, b"before", key=b"order.1", headers=[("h", b"1"), ("amqp.content-type", b"text/plain")])
    forward(node, topic, topic=topic, exchange="amq.topic")
    produce(node, topic, b"after", key=b"order.2.x")
    produce(node, topic, b"elsewhere", key=b"other")
    method, properties, body = get(ch, queue)
    assert (method.exchange, method.routing_key, body) == ("amq.topic", "order.1", b"before")
    assert (properties.content_type, properties.delivery_mode) == ("text/plain", 2)
    assert properties.headers == {"h": "1", "x-forwarded-by": [topic]}
    assert get(ch, queue)[2] == b"after"
    view = eventually(lambda: (f := forwarder(node, topic))["forwarded"] == 3 and f)
    assert (view["unroutable"], view["refused"], view["waits_for"]) == (1, 0, None)
    # Its position is that of a group like any other.
    admin = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    where = kafka.TopicPartition(topic, 0)
    eventually(lambda: offset_of(admin, SELF + topic, where) == 3)
    assert api(node, "DELETE", f"forwarders/%2F/{topic}").status_code == 204
    assert offset_of(admin, SELF + topic, where) is None
    admin.close()
    assert api(node, "GET", f"forwarders/%2F/{topic}").status_code == 404
    assert api(node, "DELETE", f"forwarders/%2F/{topic}").status_code == 404


def offset_of(admin, group: str, where):
    found = admin.list_group_offsets([group])[group] if hasattr(admin, "list_group_offsets") else (
        admin.list_consumer_group_offsets(group)
    )
    return found[where].offset if where in found else None


def test_the_routing_key_and_the_beginning_can_be_set(node, ch, queue, name):
    topic = name("t")
    produce(node, topic, b"old", key=b"k")
    forward(node, topic, topic=topic, exchange="amq.topic", routing_key="order.fixed", **{"from": "latest"})
    eventually(lambda: forwarder(node, topic)["waits_for"] is None)
    produce(node, topic, b"new", key=b"k")
    method, _, body = get(ch, queue)
    assert (method.routing_key, body) == ("order.fixed", b"new")
    api(node, "DELETE", f"forwarders/%2F/{topic}")


def test_an_exchange_that_is_not_there_is_waited_for(node, ch, name):
    topic, exchange, queue = name("t"), name("x"), name("q")
    produce(node, topic, b"1", b"2", key=b"k")
    forward(node, topic, topic=topic, exchange=exchange)
    eventually(lambda: "no exchange" in (forwarder(node, topic)["waits_for"] or ""))
    ch.exchange_declare(exchange, "fanout")
    ch.queue_declare(queue)
    ch.queue_bind(queue, exchange)
    # The first may have gone to the exchange before the queue was bound; none comes out of order.
    eventually(lambda: forwarder(node, topic)["forwarded"] == 2)
    assert forwarder(node, topic)["unroutable"] + ch.queue_declare(queue, passive=True).method.message_count == 2
    api(node, "DELETE", f"forwarders/%2F/{topic}")


def test_a_position_behind_the_end_is_none_and_a_new_topic_begins_anew(node, ch, queue, name):
    topic = name("t")
    produce(node, topic, b"1", b"2", key=b"order.1")
    forward(node, topic, topic=topic, exchange="amq.topic")
    assert [get(ch, queue)[2] for _ in range(2)] == [b"1", b"2"]
    where = confluent_kafka.TopicPartition(topic, 0, 1000)
    consumer = confluent_kafka.Consumer({"bootstrap.servers": node.kafka, "group.id": SELF + topic})
    eventually(lambda: consumer.committed([where], 10)[0].offset == 2)
    consumer.commit(offsets=[where], asynchronous=False)
    produce(node, topic, b"3", key=b"order.1")
    assert get(ch, queue)[2] == b"3"
    eventually(lambda: consumer.committed([where], 10)[0].offset == 3)
    consumer.close()
    admin = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    admin.delete_topics([topic])
    admin.close()
    produce(node, topic, b"4", key=b"order.1")
    assert get(ch, queue)[2] == b"4"
    api(node, "DELETE", f"forwarders/%2F/{topic}")


def test_a_circle_of_a_topic_and_an_exchange_ends(node, ch, name):
    topic = name("t")
    ch.queue_declare(topic, durable=True, arguments=STREAM)
    exchange = name("x")
    ch.exchange_declare(exchange, "fanout")
    ch.queue_bind(topic, exchange)
    forward(node, topic, topic=topic, exchange=exchange)
    produce(node, topic, b"round")
    eventually(lambda: forwarder(node, topic)["looped"] == 1)
    assert ch.queue_declare(topic, passive=True).method.message_count == 2
    api(node, "DELETE", f"forwarders/%2F/{topic}")


def test_forwarders_of_one_topic_that_lead_back_to_it_do_not_multiply_records(node, ch, name):
    topic, exchange = name("t"), name("x")
    ch.queue_declare(topic, durable=True, arguments=STREAM)
    ch.exchange_declare(exchange, "fanout")
    ch.queue_bind(topic, exchange)
    names = [f"{topic}-{n}" for n in range(4)]
    for one in names:
        forward(node, one, topic=topic, exchange=exchange)
    produce(node, topic, b"round")
    # Each forwards the first record, and none what any of them has forwarded.
    eventually(lambda: [forwarder(node, one)["looped"] for one in names] == [4] * 4)
    eventually(lambda: [forwarder(node, one)["lag"] for one in names] == [0] * 4)
    assert ch.queue_declare(topic, passive=True).method.message_count == 5
    for one in names:
        api(node, "DELETE", f"forwarders/%2F/{one}")


def test_a_record_comes_through_sixteen_forwarders_at_most(node, ch, name):
    topic, exchange = name("t"), name("x")
    ch.exchange_declare(exchange, "fanout")
    seen = lambda n: b"f" + str(n).encode()
    headers = [("x-forwarded-by", seen(n)) for n in range(16)]
    produce(node, topic, b"far", headers=headers)
    produce(node, topic, b"less far", headers=headers[1:])
    forward(node, topic, topic=topic, exchange=exchange)
    eventually(lambda: forwarder(node, topic)["forwarded"] == 1)
    assert forwarder(node, topic)["hop_limit_exceeded"] == 1
    assert forwarder(node, topic)["looped"] == 0
    api(node, "DELETE", f"forwarders/%2F/{topic}")


def test_records_that_cannot_be_messages_are_left_out(node, ch, queue, name):
    topic = name("t")
    produce(node, topic, b"bad", key=b"order.1", headers=[("amqp.expiration", b"soon")])
    produce(node, topic, b"good", key=b"order.2")
    forward(node, topic, topic=topic, exchange="amq.topic")
    assert get(ch, queue)[2] == b"good"
    assert forwarder(node, topic)["refused"] == 1
    api(node, "DELETE", f"forwarders/%2F/{topic}")


def test_a_forwarder_is_refused_what_it_cannot_be(node, name):
    for path, body in [
        ("services.x", {"topic": "t", "exchange": "amq.topic"}),
        (name(), {"topic": "t"}),
        (name(), {"topic": "t", "exchange": "amq.topic", "from": "middle"}),
        (name(), {"topic": "t", "exchange": "amq.topic", "no": 1}),
        (name(), {"topic": "t", "exchange": "amq.topic", "routing_key": "k" * 256}),
    ]:
        assert api(node, "PUT", f"forwarders/%2F/{path}", json=body).status_code in (400, 409), body
    assert api(node, "PUT", "forwarders/nowhere/x", json={"topic": "t", "exchange": "x"}).status_code == 404


def consume_as(node, service: str, taken: list, **identity):
    connection = pika.BlockingConnection(node.endpoint.params())
    channel = connection.channel()
    channel.basic_qos(prefetch_count=10)

    def take(channel, method, properties, body):
        taken.append((identity.get("version"), properties, body))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(f"{service}-queue", take, arguments={"x-service": identity})
    return connection


def test_a_topic_of_a_service_feeds_it(node, ch, name):
    service = "cart" + name("x").rsplit(".", 2)[1]
    topic = f"services.{service}"
    # Before anybody serves: what comes waits in the mailbox.
    produce(node, topic, b"for-2", headers=[("x-version", b"^2"), ("trace", b"t")])
    produce(node, topic, b"for-1", headers=[("x-version", b"^1")])
    produce(node, topic, b"wrong", headers=[("x-version", b"not a version!")])
    produce(node, topic, b"keyed", key=b"customer-1")
    admin = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    where = kafka.TopicPartition(topic, 0)
    eventually(lambda: offset_of(admin, SELF + topic, where) == 4, 15)
    admin.close()
    taken: list = []
    servers = [consume_as(node, service, taken, version=version) for version in ["1.0.0", "2.1.0"]]

    def all_there():
        for connection in servers:
            connection.process_data_events(0)
        return len(taken) == 3

    eventually(all_there)
    by = {body: (version, properties) for version, properties, body in taken}
    assert (by[b"for-2"][0], by[b"for-1"][0]) == ("2.1.0", "1.0.0")
    assert by[b"for-2"][1].headers["trace"] == "t"
    assert (by[b"keyed"][1].headers["x-deliver"], by[b"keyed"][1].headers["x-key"]) == ("key", "customer-1")
    assert forwarder(node, topic)["refused"] == 1
    for connection in servers:
        connection.close()


def test_a_topic_of_a_service_has_one_partition(server):
    node = server(*KAFKA, config="[kafka]\ndefault_partitions = 3\n")
    node.start()
    client = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    partitions = lambda topic: len(client.describe_topics([topic])[0]["partitions"])
    produce(node, "services.cart", b"x")
    produce(node, "services.Cart", b"x")
    api(node, "PUT", "topics/%2F/services.order", json={})
    client.create_topics([NewTopic("services.shop", -1, -1)])
    names = ["services.cart", "services.Cart", "services.order", "services.shop"]
    assert [partitions(name) for name in names] == [1, 3, 1, 1]
    for only_check in (True, False):
        with pytest.raises(kafka.errors.InvalidPartitionsError):
            client.create_topics([NewTopic("services.other", 2, 1)], validate_only=only_check)
        with pytest.raises(kafka.errors.InvalidPartitionsError, match="the topic of a service has one"):
            client.create_partitions({"services.cart": NewPartitions(2)}, validate_only=only_check)
    client.close()
    refused = api(node, "PUT", "topics/%2F/services.cart", json={"partitions": 2})
    assert (refused.status_code, partitions_of(node, "services.cart")) == (400, 1)
    assert "the topic of a service has one" in refused.json()["reason"]


def partitions_of(node, topic: str) -> int:
    return api(node, "GET", f"topics/%2F/{topic}").json()["partitions"]


def test_nothing_is_lost_on_the_way_to_a_service(server, name):
    """Killed again and again: each record is in the mailbox at least once, in order but for what comes twice."""
    node = server(*KAFKA)
    node.start()
    for part in range(4):
        produce(node, "services.cart", *[b"%d" % n for n in range(part * 50, part * 50 + 50)])
        node.kill()
        node.start()
    channel = pika.BlockingConnection(node.endpoint.params()).channel()
    channel.queue_declare("cart-queue", durable=True)
    seen: list[int] = []
    while not seen or seen[-1] != 199:
        seen.append(int(get(channel, "cart-queue", 15)[2]))
    first = [n for at, n in enumerate(seen) if n not in seen[:at]]
    assert first == list(range(200))


def test_a_topic_bound_to_an_exchange_and_read_by_kafka_and_amqp(node, ch, name):
    """The whole way: AMQP to a stream, by a forwarder to a queue, and to Kafka's consumer."""
    topic, exchange, queue = name("t"), name("x"), name("q")
    ch.exchange_declare(exchange, "headers")
    ch.queue_declare(topic, durable=True, arguments=STREAM)
    ch.queue_bind(topic, exchange, arguments={"kind": "a"})
    ch.queue_declare(queue, durable=True)
    forward(node, topic, topic=topic, exchange="")
    fill(ch, queue, "yes", exchange=exchange, headers={"kind": "a", "n": 3}, message_id="m")
    fill(ch, queue, "no", exchange=exchange, headers={"kind": "b"})
    method, properties, body = get(ch, queue)
    assert (method.routing_key, body, properties.message_id) == (queue, b"yes", "m")
    assert properties.headers == {"kind": "a", "n": 3, "x-forwarded-by": [topic]}
    [(_, properties, _)] = read(ch, topic, 1, "first")
    assert properties.headers == {"kind": "a", "n": 3, "x-stream-offset": 0}
    assert config_of(node, topic)["retention.ms"] == "-1"
    api(node, "DELETE", f"forwarders/%2F/{topic}")


def test_partitions_of_a_topic_are_all_forwarded(node, ch, queue, name):
    topic = name("t")
    client = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    client.create_topics([NewTopic(topic, 3, 1)])
    client.close()
    producer = kafka.KafkaProducer(bootstrap_servers=node.kafka)
    for n in range(30):
        producer.send(topic, b"%d" % n, key=b"order.%d" % n).get(20)
    producer.close()
    forward(node, topic, topic=topic, exchange="amq.topic")
    assert sorted(int(get(ch, queue)[2]) for _ in range(30)) == list(range(30))
    api(node, "DELETE", f"forwarders/%2F/{topic}")
