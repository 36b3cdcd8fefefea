"""ZeroMQ sockets on one side, the broker's queues and exchanges on the other."""

from __future__ import annotations

import threading
import time

import pika
import pytest
import zmq

from zmtp_peers import LOCAL, device, endpoints, figure

pytestmark = pytest.mark.ours("ZeroMQ devices")


def channel(endpoint):
    return pika.BlockingConnection(endpoint.params()).channel()


def take(ch, queue: str, n: int):
    got = []
    deadline = time.monotonic() + 15
    while len(got) < n and time.monotonic() < deadline:
        method, props, body = ch.basic_get(queue, auto_ack=True)
        if method is None:
            time.sleep(0.01)
        else:
            got.append((props, body))
    return got


def test_a_zeromq_producer_reaches_an_amqp_consumer(server, peers):
    one, (front,) = device(server, f"streamer,front=bind:{LOCAL},queue=work")
    push = peers.connect(zmq.PUSH, front)
    for i in range(100):
        push.send(b"%d" % i)
    push.send_multipart([b"a", b"", b"c"])
    got = take(channel(one.endpoint), "work", 101)
    assert [body for _, body in got[:100]] == [b"%d" % i for i in range(100)]
    assert all(props.delivery_mode == 2 and props.content_type is None for props, _ in got[:100])
    props, body = got[100]
    assert props.content_type == "application/x-zmtp" and body == b"\x01\x01a\x01\x00\x00\x01c"


def test_an_amqp_producer_reaches_zeromq_consumers(server, peers):
    one, (back,) = device(server, f"streamer,back=bind:{LOCAL},queue=work")
    ch = channel(one.endpoint)
    for i in range(50):
        ch.basic_publish("", "work", b"%d" % i)
    pull = peers.connect(zmq.PULL, back)
    assert [pull.recv() for _ in range(50)] == [b"%d" % i for i in range(50)]
    # What has left is settled.
    deadline = time.monotonic() + 5
    while (state := ch.queue_declare("work", passive=True).method).message_count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert state.consumer_count == 1


def test_both_ends_with_a_durable_queue_between_them(server, peers):
    one, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL},queue=work")
    push = peers.connect(zmq.PUSH, front)
    messages = [[b"%d" % i, b"x" * (i % 300)] for i in range(2000)]
    sender = threading.Thread(target=lambda: [push.send_multipart(m) for m in messages])
    sender.start()
    sender.join()
    pull = peers.connect(zmq.PULL, back)
    assert [pull.recv_multipart() for _ in messages] == messages
    assert figure(one, "messages_dropped_total") == 0


def test_what_the_log_has_survives_kill_9(server, peers):
    one, (front,) = device(server, f"streamer,front=bind:{LOCAL},queue=work")
    push = peers.connect(zmq.PUSH, front)
    sent = 500
    for i in range(sent):
        push.send(b"%06d" % i + bytes(1000))
    ch = channel(one.endpoint)
    deadline = time.monotonic() + 10
    while ch.queue_declare("work", passive=True).method.message_count < sent:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # Messages count before they are on disk. The log has one order: what is confirmed now is there with all before it.
    ch.queue_declare("after", durable=True)
    ch.confirm_delivery()
    ch.basic_publish("", "after", b"", pika.BasicProperties(delivery_mode=2))
    one.kill()
    got = take(channel(one.start()), "work", sent)
    assert [int(body[:6]) for _, body in got] == list(range(sent))


def test_what_a_consumer_did_not_take_goes_to_another(server, peers):
    one, (back,) = device(server, f"streamer,back=bind:{LOCAL},queue=work,hwm=10")
    ch = channel(one.endpoint)
    for i in range(300):
        ch.basic_publish("", "work", b"%04d" % i + bytes(200_000))
    lazy = peers.connect(zmq.PULL, back, rcvhwm=1)
    first = {int(lazy.recv()[:4])}
    time.sleep(0.5)
    lazy.close()
    second = peers.connect(zmq.PULL, back)
    got = set()
    while len(got) < 300 and second.poll(3000):
        got.add(int(second.recv()[:4]))
    # Only what had left for the lazy one's socket may be missing.
    assert 299 in got and len(got | first) > 200


def test_a_queue_that_is_full_slows_the_producer_down(server, peers):
    one = server("--zmtp", f"streamer,front=bind:{LOCAL},queue=small")
    one.start()
    ch = channel(one.endpoint)
    ch.queue_delete("small")
    ch.queue_declare("small", durable=True, arguments={"x-max-length": 100, "x-overflow": "reject-publish"})
    (front,) = endpoints(one)
    push = peers.connect(zmq.PUSH, front, sndhwm=10, sndtimeo=1000)
    sent = 0
    with pytest.raises(zmq.Again):
        while sent < 100_000:
            push.send(b"%06d" % sent + bytes(1000))
            sent += 1
    assert 100 < sent < 100_000
    got = take(ch, "small", sent)
    assert [int(body[:6]) for _, body in got] == list(range(sent))


def test_topics_reach_an_exchange_and_come_back(server, peers):
    one, (front, back) = device(server, f"forwarder,front=bind:{LOCAL},back=bind:{LOCAL},exchange=news")
    ch = channel(one.endpoint)
    queue = ch.queue_declare("", exclusive=True).method.queue
    ch.queue_bind(queue, "news", "sport.#")
    publisher = peers.connect(zmq.PUB, front)
    subscriber = peers.connect(zmq.SUB, back)
    subscriber.subscribe(b"sport")
    deadline = time.monotonic() + 10
    subscriber.setsockopt(zmq.RCVTIMEO, 100)
    while True:
        assert time.monotonic() < deadline
        publisher.send_multipart([b"sport.probe", b"?"])
        try:
            subscriber.recv_multipart()
            break
        except zmq.Again:
            pass
    time.sleep(0.3)
    ch.queue_purge(queue)
    subscriber.setsockopt(zmq.RCVTIMEO, 200)
    with pytest.raises(zmq.Again):
        while True:
            subscriber.recv_multipart()
    subscriber.setsockopt(zmq.RCVTIMEO, 10_000)
    sent = [[b"sport.goal", b"1:0"], [b"weather", b"rain"], [b"sport.end over"], [b"sport.x", b"a", b"b"]]
    for message in sent:
        publisher.send_multipart(message)
    assert [subscriber.recv_multipart() for _ in range(3)] == [sent[0], sent[2], sent[3]]
    ch.basic_publish("news", "sport.amqp", b"from amqp")
    assert subscriber.recv_multipart() == [b"sport.amqp", b"from amqp"]
    got = take(ch, queue, 4)
    assert [body for _, body in got] == [b"1:0", b"sport.end over", b"\x01\x07sport.x\x01\x01a\x00\x01b", b"from amqp"]
    assert got[1][0].type == "zmtp.single"


def test_an_amqp_publisher_cannot_forge_frames(server, peers):
    one, (back,) = device(server, f"streamer,back=bind:{LOCAL},queue=work")
    ch = channel(one.endpoint)
    props = pika.BasicProperties(content_type="application/x-zmtp")
    ch.basic_publish("", "work", b"\x04\x05\x04PING", props)
    ch.basic_publish("", "work", b"\x01\x01a\x00\x01b", props)
    pull = peers.connect(zmq.PULL, back)
    assert pull.recv_multipart() == [b"\x04\x05\x04PING"]
    assert pull.recv_multipart() == [b"a", b"b"]
