"""Permissions, limits and policies as an operator sets them, seen by a client."""

import pika
import pytest

from support import Consumer, bodies, closes_channel, eventually, get, is_empty, publish, ready, sync


@pytest.fixture
def vhost(broker, name):
    one = name("vhost")
    broker.admin.add_vhost(one)
    yield one
    broker.admin.delete_vhost(one)


@pytest.fixture
def user(broker, name):
    one = name("user")
    broker.admin.add_user(one, "secret")
    yield one
    broker.admin.delete_user(one)


@pytest.fixture
def policy(broker, name):
    """Sets policies that are removed at the end: policy("^pattern", {"max-length": 1})."""
    made = []

    def set_(pattern: str, definition: dict, **options) -> str:
        made.append(name(f"policy{len(made)}"))
        broker.admin.set_policy(made[-1], pattern, definition, **options)
        return made[-1]

    yield set_
    for one in made:
        try:
            broker.admin.delete_policy(one)
        except RuntimeError:
            pass


@pytest.mark.parametrize(
    ("act", "what", "kind"),
    [
        (lambda c, n: c.queue_declare(n), "configure", "queue"),
        (lambda c, n: c.exchange_declare(n), "configure", "exchange"),
        (lambda c, n: c.basic_get("may." + n), "read", "queue"),
        (lambda c, n: c.basic_consume("may." + n, lambda *_: None), "read", "queue"),
        (lambda c, n: c.queue_purge("may." + n), "read", "queue"),
        (lambda c, n: (c.basic_publish("may." + n, "k", b"x"), sync(c)), "write", "exchange"),
        (lambda c, n: c.queue_bind("may." + n, "amq.topic"), "write", "queue"),
        (lambda c, n: c.queue_delete(n), "configure", "queue"),
    ],
)
def test_permissions(broker, connect, vhost, user, act, what, kind):
    admin = connect(virtual_host=vhost).channel()
    for prefix in ["", "may."]:
        admin.queue_declare(prefix + "one", durable=True)
        admin.exchange_declare(prefix + "one", "direct")
    broker.admin.set_permissions(user, vhost, configure=r"^may\.", write="^$", read="^$")
    channel = connect(user=user, password="secret", virtual_host=vhost).channel()
    fresh = "one" if what == "configure" and act.__code__.co_names[0].endswith("delete") else "two"
    target = "one" if "may." in act.__code__.co_consts or fresh == "one" else "two"
    with closes_channel(403, f"ACCESS_REFUSED - .*{what} access to {kind} '(may.)?{target}' in vhost '{vhost}' refused for user '{user}'|ACCESS_REFUSED - access to {kind} '(may.)?{target}' in vhost '{vhost}' refused for user '{user}'"):
        act(channel, target)


def test_permitted(broker, connect, vhost, user):
    broker.admin.set_permissions(user, vhost, configure="^mine", write="^(mine|amq.default$)", read="^mine")
    channel = connect(user=user, password="secret", virtual_host=vhost).channel()
    channel.exchange_declare("mine.x", "fanout")
    channel.queue_declare("mine.q")
    channel.queue_bind("mine.q", "mine.x")
    channel.basic_publish("mine.x", "", b"x")
    channel.basic_publish("", "mine.q", b"y")
    assert bodies(channel, "mine.q", 2) == [b"x", b"y"]


def test_default_exchange_needs_permission(broker, connect, vhost, user):
    broker.admin.set_permissions(user, vhost, configure=".*", write="^other$", read=".*")
    channel = connect(user=user, password="secret", virtual_host=vhost).channel()
    channel.queue_declare("q")
    with closes_channel(403, "ACCESS_REFUSED - .*access to exchange 'amq.default'"):
        publish(channel, "q", "x")
        sync(channel)


def test_topic_permissions(broker, connect, vhost, user):
    broker.admin.set_permissions(user, vhost)
    broker.admin.set_topic_permissions(user, vhost, "amq.topic", write=r"^allowed\.", read=".*")
    channel = connect(user=user, password="secret", virtual_host=vhost).channel()
    channel.queue_declare("q")
    channel.queue_bind("q", "amq.topic", "#")
    channel.basic_publish("amq.topic", "allowed.key", b"x")
    assert bodies(channel, "q", 1) == [b"x"]
    with closes_channel(403, "ACCESS_REFUSED - .*topic 'other.key'"):
        channel.basic_publish("amq.topic", "other.key", b"x")
        sync(channel)


def test_limit_of_connections_per_user(broker, connect, vhost, user):
    broker.admin.set_permissions(user, vhost)
    broker.admin.set_user_limit(user, "max-connections", 1)
    login = {"user": user, "password": "secret", "virtual_host": vhost}
    connect(**login)
    with pytest.raises(pika.exceptions.AMQPConnectionError) as caught:
        connect(**login)
    assert "530" in str(caught.value) and "connection limit" in str(caught.value)


def test_limit_of_channels_per_user(broker, connect, vhost, user):
    broker.admin.set_permissions(user, vhost)
    broker.admin.set_user_limit(user, "max-channels", 2)
    connection = connect(user=user, password="secret", virtual_host=vhost)
    connection.channel(), connection.channel()
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as caught:
        connection.channel()
    assert caught.value.reply_code == 530, caught.value


def test_limit_of_queues_per_vhost(broker, connect, vhost):
    broker.admin.set_vhost_limit(vhost, "max-queues", 2)
    channel = connect(virtual_host=vhost).channel()
    channel.queue_declare("one"), channel.queue_declare("two")
    with closes_channel(406, "PRECONDITION_FAILED - cannot declare queue 'three': queue limit in vhost"):
        channel.queue_declare("three")


def test_limit_of_connections_per_vhost(broker, connect, vhost):
    broker.admin.set_vhost_limit(vhost, "max-connections", 0)
    with pytest.raises(pika.exceptions.AMQPConnectionError) as caught:
        connect(virtual_host=vhost)
    assert "530" in str(caught.value)


def test_policy_applies_to_queues_that_are_there(ch, queue, policy):
    q = queue()
    publish(ch, q, *range(10))
    policy(f"^{q}$", {"max-length": 3})
    eventually(lambda: ready(ch, q) == 3)
    assert bodies(ch, q, 3) == [b"7", b"8", b"9"]


def test_policy_applies_to_new_queues_and_ends(broker, ch, queue, policy, name):
    q = name("q")
    made = policy(f"^{q}$", {"message-ttl": 50})
    queue(suffix="q")
    publish(ch, q, "x")
    eventually(lambda: ready(ch, q) == 0, 2)
    broker.admin.delete_policy(made)
    publish(ch, q, "stays")
    assert get(ch, q)[2] == b"stays"


def test_policy_of_highest_priority_wins(ch, queue, policy):
    q = queue()
    policy(f"^{q}$", {"max-length": 5}, priority=1)
    policy(f"^{q}$", {"max-length": 2}, priority=9)
    policy("^nothing-like-it$", {"max-length": 1}, priority=10)
    publish(ch, q, *range(10))
    eventually(lambda: ready(ch, q) == 2)


def test_argument_and_policy_take_the_smaller(ch, queue, policy):
    q = queue({"x-max-length": 3})
    policy(f"^{q}$", {"max-length": 7})
    publish(ch, q, *range(10))
    sync(ch)
    assert ready(ch, q) == 3


def test_dead_letter_policy(ch, queue, policy):
    dead, q = queue(), queue()
    policy(f"^{q}$", {"dead-letter-exchange": "", "dead-letter-routing-key": dead})
    publish(ch, q, "x")
    method, _, _ = get(ch, q, auto_ack=False)
    ch.basic_reject(method.delivery_tag, requeue=False)
    assert bodies(ch, dead, 1) == [b"x"]


def test_alternate_exchange_policy(ch, exchange, queue, policy):
    x, q = exchange("direct"), queue()
    ch.queue_bind(q, "amq.fanout")
    policy(f"^{x}$", {"alternate-exchange": "amq.fanout"}, apply_to="exchanges")
    ch.basic_publish(x, "nowhere", b"x")
    assert bodies(ch, q, 1) == [b"x"]


def test_overflow_policy(ch, queue, policy):
    q = queue()
    policy(f"^{q}$", {"max-length": 1, "overflow": "reject-publish"})
    ch.confirm_delivery()
    publish(ch, q, 1)
    with pytest.raises(pika.exceptions.NackError):
        publish(ch, q, 2)


def test_operator_policy_limits_the_user(broker, ch, queue, name):
    q = queue({"x-max-length": 100})
    operator = name("operator")
    broker.admin.set_operator_policy(operator, f"^{q}$", {"max-length": 4})
    try:
        publish(ch, q, *range(10))
        sync(ch)
        assert ready(ch, q) == 4
    finally:
        broker.admin.delete_operator_policy(operator)


def test_expires_policy(ch, connection, queue, policy):
    q = queue()
    policy(f"^{q}$", {"expires": 300})

    def gone():
        channel = connection.channel()
        try:
            # Not even a passive declare may be made too often: it counts as use.
            channel.queue_declare(q, passive=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            return error.reply_code == 404

    eventually(gone, 6, 1)


def test_policy_does_not_disturb_consumers(ch, queue, policy):
    q = queue()
    consumer = Consumer(ch, q, auto_ack=True)
    policy(f"^{q}$", {"max-length": 10})
    publish(ch, q, 1, 2)
    assert consumer.wait(2) == [b"1", b"2"]
    assert is_empty(ch, q)
