"""Topics and consumer groups by API, command line and metrics."""

import json
import time

import confluent_kafka
import kafka
import pika
import requests

from support import eventually
from topics import KAFKA, STREAM, api, config_of, fill, produce


def cli(node, *arguments: str):
    return json.loads(node.cli(*arguments, "-o", "json").stdout or "null")


def commit(node, group: str, topic: str, *offsets: int) -> None:
    """As a consumer that comes and goes."""
    consumer = kafka.KafkaConsumer(bootstrap_servers=node.kafka, group_id=group, enable_auto_commit=False)
    parts = [kafka.TopicPartition(topic, n) for n in range(len(offsets))]
    consumer.assign(parts)
    meta = kafka.structs.OffsetAndMetadata
    consumer.commit({p: meta(o, "", -1) for p, o in zip(parts, offsets)})
    consumer.close()


def positions(node, group: str) -> dict:
    view = api(node, "GET", f"groups/%2F/{group}").json()
    return {(p["topic"], p["partition"]): p["committed"] for p in view["offsets"]}


def test_topics_are_made_shown_changed_and_removed(node, name):
    topic = name()
    cli(node, "topics", "create", topic, "-p", "2", "-c", "retention.ms=60000", "-c", "durability=os")
    produce(node, topic, b"a", b"b", key=b"k", headers=[("h", b"\xff")])
    view = cli(node, "topics", "show", topic)
    assert (view["partitions"], view["messages"], view["queue"]) == (2, 2, False)
    assert view["config"] == {"retention.ms": "60000", "durability": "os"}
    assert sum(p["end"] - p["start"] for p in view["offsets"]) == 2
    assert [t["name"] for t in cli(node, "topics", "ls") if t["name"] == topic] == [topic]
    cli(node, "topics", "config", topic, "--set", "retention.ms=-1", "--unset", "durability")
    assert config_of(node, topic)["retention.ms"] == "-1"
    assert config_of(node, topic)["durability"] == "disk"
    shown = {s["name"]: (s["value"], s["set"]) for s in cli(node, "topics", "config", topic)}
    assert (shown["retention.ms"], shown["durability"]) == (("-1", True), ("disk", False))
    # Again is fine, and more partitions too; fewer are not.
    cli(node, "topics", "create", topic)
    cli(node, "topics", "create", topic, "-p", "3")
    assert cli(node, "topics", "show", topic)["partitions"] == 3
    assert api(node, "PUT", f"topics/%2F/{topic}", json={"partitions": 1}).status_code == 400
    [partition] = [p["partition"] for p in view["offsets"] if p["end"]]
    records = cli(node, "topics", "records", topic, "-p", str(partition))
    assert [(r["offset"], r["key"], r["value"]) for r in records] == [(0, "k", "a"), (1, "k", "b")]
    assert records[0]["headers"] == [{"name": "h", "value": {"base64": "/w=="}}]
    assert abs(records[0]["timestamp"] / 1000 - time.time()) < 60
    last = cli(node, "topics", "records", topic, "-p", str(partition), "--offset", "latest", "-n", "1")
    assert [r["offset"] for r in last] == [1]
    cli(node, "topics", "delete", topic)
    assert api(node, "GET", f"topics/%2F/{topic}").status_code == 404


def test_wrong_requests_are_refused(node, name):
    topic = name()
    for path, body, status in [
        ("no%20topic", {}, 400),
        (topic, {"partitions": 0}, 400),
        (topic, {"config": {"no.such": 1}}, 400),
        (topic, {"config": {"retention.ms": "soon"}}, 400),
        (topic, {"no": 1}, 400),
        (topic, {"config": [1]}, 400),
    ]:
        answer = api(node, "PUT", f"topics/%2F/{path}", json=body)
        assert answer.status_code == status, (body, answer.text)
    assert api(node, "PUT", f"topics/nowhere/{topic}", json={}).status_code == 404
    assert api(node, "GET", f"topics/%2F/{topic}/records").status_code == 404
    api(node, "PUT", f"topics/%2F/{topic}", json={})
    for query in ["partition=7", "offset=x", "limit=x"]:
        assert api(node, "GET", f"topics/%2F/{topic}/records?{query}").status_code in (400, 404), query
    assert api(node, "POST", f"topics/%2F/{topic}").status_code == 405


def test_queues_streams_and_topics_are_in_one_list(node, name):
    topic, stream, queue = name("t"), name("s"), name("q")
    produce(node, topic, b"x")
    channel = pika.BlockingConnection(node.endpoint.params()).channel()
    channel.queue_declare(stream, durable=True, arguments=STREAM)
    channel.queue_declare(queue, durable=True)
    listed = {q["name"]: (q["type"], q["messages"]) for q in cli(node, "queues", "ls")}
    assert (listed[topic], listed[stream], listed[queue]) == (("topic", 1), ("stream", 0), ("classic", 0))
    assert [t["queue"] for t in cli(node, "topics", "ls") if t["name"] in (topic, stream)] == [True, False]


def test_what_waits_is_in_one_list(node, name):
    topic, queue, both = name("t"), name("q"), name("both")
    produce(node, topic, *(b"%d" % n for n in range(5)))
    channel = pika.BlockingConnection(node.endpoint.params()).channel()
    # A group and a queue may have the same name.
    for one in (queue, both):
        channel.queue_declare(one, durable=True)
    fill(channel, queue, "a", "b")
    channel.basic_consume(both, lambda *_: None)
    commit(node, both, topic, 1)
    reader = kafka.KafkaConsumer(
        topic, bootstrap_servers=node.kafka, group_id=both, enable_auto_commit=False, max_poll_records=1
    )
    # It joins by polling; what it reads it does not commit.
    eventually(lambda: reader.poll(200) is not None and reader.assignment(), timeout=30)
    listed = {(r["name"], r["type"]): r for r in cli(node, "queues", "ls")}
    figures = lambda *key: tuple(listed[key][f] for f in ("messages", "messages_ready", "consumers"))
    assert figures(queue, "classic") == (2, 2, 0)
    assert figures(both, "classic") == (0, 0, 1)
    assert figures(both, "group") == (4, 4, 1)
    assert figures(topic, "topic") == (5, 5, 0)
    group = listed[both, "group"]
    assert (group["state"], group["topics"], group["partitions"]) == ("Stable", [topic], 1)
    reader.close()
    rows = api(node, "GET", "backlogs/%2F").json()
    # What every row has is there in the same words.
    common = set.intersection(*(set(r) for r in rows))
    assert common >= {"vhost", "name", "type", "durable", "messages", "messages_ready", "messages_unacknowledged", "consumers"}
    # Who reads the list of queues finds queues there.
    assert [r["type"] for r in api(node, "GET", "queues").json() if r["name"] == both] == ["classic"]
    assert api(node, "GET", "queues").json() == [r for r in rows if r["type"] != "group"]
    assert {r["type"] for r in cli(node, "queues", "ls", "--type", "group,classic")} == {"group", "classic"}
    assert {r["type"] for r in api(node, "GET", "backlogs", params={"type": "group"}).json()} == {"group"}
    for query in ("type=groups", "type=", "kind=group"):
        assert api(node, "GET", f"backlogs?{query}").status_code == 400, query
    assert api(node, "GET", "backlogs/absent").status_code == 404
    assert api(node, "POST", "backlogs").status_code == 405


def test_groups_are_listed_with_their_lag(node, name):
    topic, group = name("t"), name("g")
    api(node, "PUT", f"topics/%2F/{topic}", json={"partitions": 2})
    producer = kafka.KafkaProducer(bootstrap_servers=node.kafka)
    for n in range(10):
        producer.send(topic, b"%d" % n, partition=n % 2).get(20)
    producer.close()
    commit(node, group, topic, 1, 5)
    [listed] = [g for g in cli(node, "groups", "ls") if g["name"] == group]
    assert (listed["lag"], listed["members"], listed["state"], listed["topics"]) == (4, 0, "Empty", [topic])
    shown = cli(node, "groups", "show", group)
    assert [(p["partition"], p["committed"], p["end"], p["lag"]) for p in shown["offsets"]] == [(0, 1, 5, 4), (1, 5, 5, 0)]
    assert api(node, "GET", f"topics/%2F/{topic}").json()["groups"] == [{"group": group, "lag": 4}]
    metrics = requests.get(f"{node.http}/metrics", timeout=5).text.splitlines()
    assert f'waypost_consumer_group_lag{{vhost="/",group="{group}",topic="{topic}"}} 4' in metrics
    assert any(line.startswith("waypost_topics ") for line in metrics)


def test_a_group_is_set_anew_where_it_is_told(node, name):
    topic, group = name("t"), name("g")
    # The records are of a time that is long past.
    made = api(node, "PUT", f"topics/%2F/{topic}", json={"partitions": 2, "config": {"retention.ms": "-1"}})
    assert made.status_code == 204, made.text
    producer = kafka.KafkaProducer(bootstrap_servers=node.kafka)
    for n in range(20):
        producer.send(topic, b"%d" % n, partition=n % 2, timestamp_ms=1_700_000_000_000 + n * 1000).get(20)
    producer.close()
    commit(node, group, topic, 4, 6)

    def reset(*arguments: str) -> dict:
        plan = cli(node, "groups", "reset", group, *arguments)
        return {p["partition"]: p["to"] for p in plan}

    # A preview changes nothing.
    assert reset("--to-earliest", "--dry-run") == {0: 0, 1: 0}
    assert positions(node, group) == {(topic, 0): 4, (topic, 1): 6}
    assert reset("--to-latest") == {0: 10, 1: 10}
    assert positions(node, group) == {(topic, 0): 10, (topic, 1): 10}
    assert reset("--shift-by", "-3", "--partition", "1") == {1: 7}
    assert reset("--shift-by", "100", "-n") == {0: 10, 1: 10}
    assert reset("--to-offset", "3") == {0: 3, 1: 3}
    # Records 8 and 9 are the first of that time.
    assert reset("--to-timestamp", "1700000008000") == {0: 4, 1: 4}
    assert reset("--to-timestamp", "2023-11-14T22:13:29Z") == {0: 5, 1: 4}
    assert reset("--to-timestamp", "2100-01-01T00:00:00Z") == {0: 10, 1: 10}
    assert reset("--by-duration", "1h") == {0: 10, 1: 10}
    assert reset("--to-earliest") == {0: 0, 1: 0}
    consumer = kafka.KafkaConsumer(topic, bootstrap_servers=node.kafka, group_id=group, consumer_timeout_ms=15_000)
    assert {next(consumer).offset for _ in range(20)} == set(range(10))
    # Whoever reads is not moved under its feet.
    assert api(node, "POST", f"groups/%2F/{group}/reset", json={"to": "latest"}).status_code == 409
    assert api(node, "DELETE", f"groups/%2F/{group}").status_code == 409
    shown = api(node, "GET", f"groups/%2F/{group}").json()
    assert (shown["state"], shown["members"], len(shown["member_list"])) == ("Stable", 1, 1)
    consumer.close()
    cli(node, "groups", "delete", group)
    assert api(node, "GET", f"groups/%2F/{group}").status_code == 404
    # A group that never committed can be begun somewhere, by topic.
    assert api(node, "POST", f"groups/%2F/{group}/reset", json={"to": "latest"}).status_code == 404
    assert reset("--to-latest", "--topic", topic) == {0: 10, 1: 10}
    # Nor is it set to what was deleted.
    admin = kafka.KafkaAdminClient(bootstrap_servers=node.kafka)
    admin.delete_records({kafka.TopicPartition(topic, 1): 2})
    admin.close()
    assert reset("--to-timestamp", "1700000000000", "-n") == {0: 0, 1: 2}
    for body in [{}, {"to": "middle"}, {"to": "latest", "offset": 1}, {"shift_by": "x"}, {"by_duration": "x"}, {"no": 1}]:
        assert api(node, "POST", f"groups/%2F/{group}/reset", json=body).status_code == 400, body


def test_groups_of_the_newer_protocol_are_among_them(node, name):
    topic, group = name("t"), name("g")
    produce(node, topic, b"x")
    settings = {"bootstrap.servers": node.kafka, "group.id": group, "group.protocol": "consumer",
                "auto.offset.reset": "earliest"}
    consumer = confluent_kafka.Consumer(settings)
    consumer.subscribe([topic])
    assert eventually(lambda: consumer.poll(0.2), 20).value() == b"x"
    consumer.commit(asynchronous=False)
    shown = cli(node, "groups", "show", group)
    assert (shown["members"], shown["protocol"], shown["lag"]) == (1, "uniform", 0)
    assert [g["name"] for g in cli(node, "groups", "ls") if g["name"] == group] == [group]
    assert api(node, "POST", f"groups/%2F/{group}/reset", json={"to": "earliest"}).status_code == 409
    consumer.close()
    assert api(node, "POST", f"groups/%2F/{group}/reset", json={"to": "earliest"}).status_code == 200


def test_forwarders_are_managed_by_the_command_line(node, name):
    topic, queue = name("t"), name("q")
    channel = pika.BlockingConnection(node.endpoint.params()).channel()
    channel.queue_declare(queue, durable=True)
    produce(node, topic, b"1", b"2", b"3")
    cli(node, "forwarders", "add", topic, "--topic", topic, "--exchange", "", "--routing-key", queue)
    eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count == 3)
    [listed] = [f for f in cli(node, "forwarders", "ls") if f["name"] == topic]
    assert (listed["forwarded"], listed["to"]["routing_key"]) == (3, queue)
    # Its position can be set like that of any group, and it goes on from there.
    group = f"waypost.forward.{topic}"
    eventually(lambda: cli(node, "groups", "show", group)["lag"] == 0)
    cli(node, "groups", "reset", group, "--to-offset", "1")
    eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count == 5)
    eventually(lambda: cli(node, "groups", "show", group)["lag"] == 0)
    cli(node, "forwarders", "rm", topic)
    assert [f for f in cli(node, "forwarders", "ls") if f["name"] == topic] == []


def test_users_are_held_to_their_permissions(server, name):
    node = server(*KAFKA, config="[http]\nauth = \"always\"\n")
    node.start()
    admin = ("guest", "guest")
    for user in ["ann"]:
        made = api(node, "PUT", f"users/{user}", json={"password": "pw", "tags": ["management"]}, auth=admin)
        assert made.ok, made.text
    rights = {"configure": "^mine", "write": "^mine", "read": "^mine"}
    assert api(node, "PUT", "permissions/%2F/ann", json=rights, auth=admin).ok
    ann = ("ann", "pw")
    assert api(node, "PUT", "topics/%2F/mine", json={}, auth=ann).status_code == 204
    assert api(node, "PUT", "topics/%2F/other", json={}, auth=ann).status_code == 403
    assert api(node, "PUT", "topics/%2F/other", json={}, auth=admin).status_code == 204
    for method, path in [("DELETE", "topics/%2F/other"), ("GET", "topics/%2F/other/records"),
                         ("GET", "groups/%2F/other"), ("DELETE", "groups/%2F/other")]:
        assert api(node, method, path, auth=ann).status_code == 403, path
    for topic, group in [("mine", "mine.group"), ("other", "other.group")]:
        made = api(node, "POST", f"groups/%2F/{group}/reset", json={"to": "earliest", "topic": topic}, auth=admin)
        assert made.ok, made.text
    groups = lambda auth: [r["name"] for r in api(node, "GET", "backlogs?type=group", auth=auth).json()]
    assert (groups(admin), groups(ann)) == (["mine.group", "other.group"], ["mine.group"])
    assert api(node, "PUT", "vhosts/closed", json={}, auth=admin).ok
    assert api(node, "GET", "backlogs/closed?type=group", auth=ann).status_code == 404
    body = {"topic": "other", "exchange": "mine"}
    assert api(node, "PUT", "forwarders/%2F/mine", json=body, auth=ann).status_code == 403
    body = {"topic": "mine", "exchange": "amq.topic"}
    assert api(node, "PUT", "forwarders/%2F/mine", json=body, auth=ann).status_code == 403
    body = {"topic": "mine", "exchange": "mine"}
    assert api(node, "PUT", "forwarders/%2F/mine", json=body, auth=ann).status_code == 204
