"""Majordomo's clients and workers, written with ZeroMQ's own library, against the services of the broker."""

from __future__ import annotations

import json
import time
import urllib.request

import pika
import pytest
import zmq

from zmtp_peers import endpoints

pytestmark = pytest.mark.ours("ZeroMQ devices")

C1, W1, C2, W2 = b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02"
READY, REQUEST = b"\x01", b"\x02"


@pytest.fixture
def mdp(server, request):
    """A broker that gives workers up soon, or as late as `parametrize("mdp", ["…"], indirect=True)` says."""
    heartbeat = getattr(request, "param", "200ms")
    one = server("--zmtp", f"majordomo,front=bind:tcp://127.0.0.1:0,worker-heartbeat={heartbeat}")
    one.amqp = one.start()
    (one.front,) = endpoints(one)
    return one


def worker(peers, mdp, service: bytes, dialect: bytes = W2) -> zmq.Socket:
    socket = peers.connect(zmq.DEALER, mdp.front)
    socket.send_multipart([*([b""] if dialect == W1 else []), dialect, READY, service])
    return socket


def request(socket: zmq.Socket, dialect: bytes = W2) -> tuple[bytes, list[bytes]]:
    """The next request, heartbeats answered meanwhile: address and body."""
    heartbeat = b"\x05" if dialect == W2 else b"\x04"
    head = [b""] if dialect == W1 else []
    while True:
        parts = socket.recv_multipart()
        parts = parts[len(head) :]
        assert parts[0] == dialect
        if parts[1] == heartbeat:
            socket.send_multipart([*head, dialect, heartbeat])
            continue
        assert parts[1] == REQUEST, parts
        address, empty, *body = parts[2:]
        assert empty == b""
        return address, body


def reply(socket: zmq.Socket, address: bytes, body: list[bytes], dialect: bytes = W2, final: bool = True) -> None:
    code = b"\x03" if dialect == W1 or not final else b"\x04"
    socket.send_multipart([*([b""] if dialect == W1 else []), dialect, code, address, b"", *body])


@pytest.mark.parametrize("dialect", [W1, W2])
def test_a_client_of_each_version_is_served_by_a_worker_of_each(peers, mdp, dialect):
    echo = worker(peers, mdp, b"echo", dialect)
    old, new = peers.connect(zmq.REQ, mdp.front), peers.connect(zmq.DEALER, mdp.front)
    old.send_multipart([C1, b"echo", b"hello", b"", b"x"])
    address, body = request(echo, dialect)
    assert body == [b"hello", b"", b"x"]
    reply(echo, address, [b"re", *body], dialect)
    assert old.recv_multipart() == [C1, b"echo", b"re", b"hello", b"", b"x"]
    new.send_multipart([C2, b"\x01", b"echo", b"single"])
    address, body = request(echo, dialect)
    assert body == [b"single"]
    reply(echo, address, [b"answer"], dialect)
    assert new.recv_multipart() == [C2, b"\x03", b"echo", b"answer"]


def test_partial_replies_come_in_order(peers, mdp):
    echo, client = worker(peers, mdp, b"echo"), peers.connect(zmq.DEALER, mdp.front)
    client.send_multipart([C2, b"\x01", b"echo", b"count"])
    address, _ = request(echo)
    for part in (b"1", b"2"):
        reply(echo, address, [part], final=False)
    reply(echo, address, [b"3"])
    got = [client.recv_multipart()[1:] for _ in range(3)]
    assert got == [[b"\x02", b"echo", b"1"], [b"\x02", b"echo", b"2"], [b"\x03", b"echo", b"3"]]


def test_a_request_waits_for_a_worker(peers, mdp):
    client = peers.connect(zmq.DEALER, mdp.front)
    client.send_multipart([C2, b"\x01", b"late", b"hello"])
    time.sleep(0.3)
    late = worker(peers, mdp, b"late")
    address, body = request(late)
    reply(late, address, body)
    assert client.recv_multipart() == [C2, b"\x03", b"late", b"hello"]


def test_workers_that_die_or_fall_silent_give_back_what_they_had(peers, mdp):
    client = peers.connect(zmq.DEALER, mdp.front)
    dying, silent = worker(peers, mdp, b"job"), None
    client.send_multipart([C2, b"\x01", b"job", b"do it"])
    assert request(dying)[1] == [b"do it"]
    dying.close()
    silent = worker(peers, mdp, b"job")
    assert request(silent)[1] == [b"do it"]
    # From here on it says nothing more, not even heartbeats.
    good = worker(peers, mdp, b"job")
    address, body = request(good)
    reply(good, address, body)
    assert client.recv_multipart() == [C2, b"\x03", b"job", b"do it"]


def test_mmi_answers_from_the_registry(peers, mdp):
    client = peers.connect(zmq.DEALER, mdp.front)

    def status(service: bytes) -> bytes:
        client.send_multipart([C2, b"\x01", b"mmi.service", service])
        return client.recv_multipart()[-1]

    assert status(b"echo") == b"404"
    echo = worker(peers, mdp, b"echo")
    deadline = time.monotonic() + 5
    while status(b"echo") != b"200":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    echo.close()
    while status(b"echo") != b"404":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.send_multipart([C2, b"\x01", b"mmi.nothing", b"echo"])
    assert client.recv_multipart()[-1] == b"501"


def test_an_amqp_client_is_answered_by_a_zeromq_worker(peers, mdp):
    echo = worker(peers, mdp, b"echo")
    ch = pika.BlockingConnection(mdp.amqp.params()).channel()
    answers = []
    ch.basic_consume("amq.rabbitmq.reply-to", lambda *args: answers.append(args), auto_ack=True)
    props = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id="abc")
    ch.basic_publish("amq.services", "echo", b"from amqp", props)
    address, body = request(echo)
    assert body == [b"from amqp"]
    reply(echo, address, [b"from zeromq"])
    deadline = time.monotonic() + 5
    while not answers:
        assert time.monotonic() < deadline
        ch.connection.process_data_events(0.1)
    _, _, props, body = answers[0]
    assert (props.correlation_id, body) == ("abc", b"from zeromq")


def test_a_zeromq_client_is_answered_by_an_amqp_instance(peers, mdp):
    ch = pika.BlockingConnection(mdp.amqp.params()).channel()
    ch.queue_declare("sum-queue", durable=True)

    def serve(channel, method, props, body):
        answer = pika.BasicProperties(correlation_id=props.correlation_id)
        channel.basic_publish("", props.reply_to, b"%d" % sum(map(int, body.split())), answer)
        channel.basic_ack(method.delivery_tag)

    ch.basic_consume("sum-queue", serve)
    client = peers.connect(zmq.REQ, mdp.front)
    client.send_multipart([C1, b"sum", b"1 2 3"])
    deadline = time.monotonic() + 5
    while not client.poll(0):
        assert time.monotonic() < deadline
        ch.connection.process_data_events(0.1)
    assert client.recv_multipart() == [C1, b"sum", b"6"]


def test_workers_are_instances_in_the_registry(peers, mdp):
    kept = worker(peers, mdp, b"seen")
    deadline = time.monotonic() + 5
    names = set()
    while "seen" not in names:
        assert time.monotonic() < deadline
        with urllib.request.urlopen(f"{mdp.http}/api/v1/services", timeout=10) as answer:
            listed = json.load(answer)
        names = {one["service"] for one in listed if one["passing"] == 1}
        time.sleep(0.02)
    kept.close()
