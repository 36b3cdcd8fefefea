"""x-delayed-message: what it routes by, how long it waits, what survives, how it is cancelled."""

import time

import pika
import pytest

from support import bodies, closes_channel, eventually, get, is_empty, props

pytestmark = pytest.mark.ours("delayed messages are a plugin that this RabbitMQ does not have")


def delayed(exchange, kind="direct", **more):
    return exchange("x-delayed-message", arguments={"x-delayed-type": kind} | more)


def send(ch, x, key, body, delay, **fields):
    ch.basic_publish(x, key, body, props(headers={"x-delay": delay}, **fields))


def test_waits_as_long_as_told(ch, exchange, queue):
    x, q = delayed(exchange), queue()
    ch.queue_bind(q, x, "k")
    started = time.monotonic()
    send(ch, x, "k", b"x", 400)
    assert is_empty(ch, q, 0.2)
    _, properties, body = get(ch, q)
    assert 0.35 < time.monotonic() - started < 1.0
    assert body == b"x" and properties.headers["x-delay"] in (400, -400)


def test_comes_in_the_order_of_the_time_it_is_due(ch, exchange, queue):
    x, q = delayed(exchange), queue()
    ch.queue_bind(q, x, "k")
    for delay in [600, 200, 400, 0]:
        send(ch, x, "k", str(delay).encode(), delay)
    assert bodies(ch, q, 4) == [b"0", b"200", b"400", b"600"]


@pytest.mark.parametrize("headers", [None, {}, {"x-delay": 0}])
def test_without_delay_at_once(ch, exchange, queue, headers):
    x, q = delayed(exchange), queue()
    ch.queue_bind(q, x, "k")
    ch.basic_publish(x, "k", b"x", props(headers=headers))
    assert get(ch, q, timeout=1)[2] == b"x"


def test_routes_as_its_type(ch, exchange, queue):
    x, q = delayed(exchange, "topic"), queue()
    ch.queue_bind(q, x, "a.*")
    send(ch, x, "a.b", b"yes", 50)
    send(ch, x, "b.b", b"no", 50)
    assert bodies(ch, q, 1) == [b"yes"]
    assert is_empty(ch, q)


def test_bindings_are_looked_at_when_it_is_due(ch, exchange, queue):
    x, q = delayed(exchange), queue()
    send(ch, x, "k", b"x", 400)
    ch.queue_bind(q, x, "k")
    assert bodies(ch, q, 1) == [b"x"]


def test_deleting_the_exchange_cancels(ch, exchange, queue):
    x, q = delayed(exchange), queue()
    ch.queue_bind(q, x, "k")
    send(ch, x, "k", b"x", 300)
    ch.exchange_delete(x)
    delayed(exchange)
    assert is_empty(ch, q, 0.6)


def test_confirm_does_not_wait(ch, exchange, queue):
    x, q = delayed(exchange), queue()
    ch.queue_bind(q, x, "k")
    ch.confirm_delivery()
    started = time.monotonic()
    send(ch, x, "k", b"x", 3000, delivery_mode=2)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("arguments", [None, {"x-delayed-type": "nonsense"}, {"x-delayed-type": 5}])
def test_needs_a_type(ch, name, arguments):
    with closes_channel(406, "PRECONDITION_FAILED"):
        ch.exchange_declare(name(), "x-delayed-message", arguments=arguments)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_survives_a_restart(server, end):
    own = server()
    connection = pika.BlockingConnection(own.start().params())
    ch = connection.channel()
    ch.exchange_declare("later", "x-delayed-message", durable=True, arguments={"x-delayed-type": "direct"})
    ch.queue_declare("q", durable=True)
    ch.queue_bind("q", "later", "k")
    ch.confirm_delivery()
    send(ch, "later", "k", b"while down", 100, delivery_mode=2)
    send(ch, "later", "k", b"afterwards", 2500, delivery_mode=2)
    started = time.monotonic()
    if end == "stop":
        # A client that does not answer the farewell would hold the stop up.
        connection.close()
    own.stop() if end == "stop" else own.kill()
    time.sleep(0.2)
    ch = pika.BlockingConnection(own.start().params()).channel()
    assert bodies(ch, "q", 1) == [b"while down"]
    assert bodies(ch, "q", 1) == [b"afterwards"]
    assert 2.4 < time.monotonic() - started < 5
    eventually(lambda: is_empty(ch, "q"))
