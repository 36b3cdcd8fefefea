"""Peers that do what no library does: each harms only itself."""

from __future__ import annotations

import socket
import struct
import time

import pytest
import zmq

from support import eventually
from zmtp_peers import LOCAL, Peers, device, figure

pytestmark = pytest.mark.ours("ZeroMQ devices")

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + bytes(32)


def raw(endpoint: str) -> socket.socket:
    host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def property_(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def command(name: bytes, data: bytes) -> bytes:
    body = bytes([len(name)]) + name + data
    return bytes([4, len(body)]) + body if len(body) < 256 else b"\x06" + struct.pack(">Q", len(body)) + body


def ready(endpoint: str, kind: bytes) -> socket.socket:
    peer = raw(endpoint)
    peer.sendall(GREETING + command(b"READY", property_(b"Socket-Type", kind)))
    got = b""
    while b"READY" not in got:
        got += peer.recv(1000)
    return peer


def is_closed(peer: socket.socket) -> bool:
    peer.settimeout(10)
    try:
        while peer.recv(65536):
            pass
        return True
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def resident_kib(server) -> int:
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


def works(peers: Peers, front: str, back: str) -> None:
    push, pull = peers.connect(zmq.PUSH, front), peers.connect(zmq.PULL, back)
    for i in range(10):
        push.send(b"%d" % i)
    assert [pull.recv() for _ in range(10)] == [b"%d" % i for i in range(10)]
    push.close()
    pull.close()


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" + bytes(8) + b"\x7f\x01\x05",
        b"\x01\x00",
        GREETING.replace(b"NULL", b"NULX"),
        GREETING + b"\x00\x01x",
        GREETING + command(b"READY", b"\xff"),
        GREETING + command(b"READY", property_(b"Socket-Type", b"PUSHY")),
        GREETING + command(b"HELLO", b""),
        GREETING + b"\x06" + struct.pack(">Q", 2**63 - 1),
    ],
)
def test_nonsense_instead_of_a_handshake(server, peers, octets):
    one, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL}")
    peer = raw(front)
    peer.sendall(octets)
    assert is_closed(peer)
    works(peers, front, back)
    eventually(lambda: figure(one, "peers_refused_total") == 1)


def test_a_frame_of_any_announced_size_costs_nothing(server, peers):
    one, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL}")
    before = resident_kib(one)
    fits, closed = [], []
    for _ in range(50):
        fits.append(ready(front, b"PUSH"))
        fits[-1].sendall(b"\x02" + struct.pack(">Q", 60 << 20) + b"x" * 100)
        closed.append(ready(front, b"PUSH"))
        closed[-1].sendall(b"\x02" + struct.pack(">Q", 2**63 - 1))
    assert all(is_closed(peer) for peer in closed)
    works(peers, front, back)
    assert resident_kib(one) - before < 20_000


def test_a_stalled_greeting_holds_nobody_up(server, peers):
    _, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL}")
    stalled = [raw(front) for _ in range(200)]
    for i, peer in enumerate(stalled):
        peer.sendall(GREETING[: i % 64])
    works(peers, front, back)


def test_a_million_subscriptions_end_the_subscriber_only(server, peers):
    one, (front, back) = device(server, f"forwarder,front=bind:{LOCAL},back=bind:{LOCAL}")
    greedy = ready(back, b"SUB")
    greedy.settimeout(30)
    with pytest.raises(OSError):
        for i in range(200):
            greedy.sendall(b"".join(command(b"SUBSCRIBE", b"%d-%d" % (i, j)) for j in range(5000)))
        while greedy.recv(65536):
            pass
        raise ConnectionResetError
    publisher, subscriber = peers.connect(zmq.PUB, front), peers.connect(zmq.SUB, back)
    subscriber.subscribe(b"")
    deadline = time.monotonic() + 10
    while not subscriber.poll(50):
        assert time.monotonic() < deadline
        publisher.send(b"hello")
    eventually(lambda: figure(one, "peers_refused_total") == 1)


def test_who_never_reads_holds_a_bounded_queue(server, peers):
    one, (front, back) = device(server, f"forwarder,front=bind:{LOCAL},back=bind:{LOCAL},hwm=100")
    deaf = ready(back, b"SUB")
    deaf.sendall(command(b"SUBSCRIBE", b""))
    publisher, subscriber = peers.connect(zmq.PUB, front, sndhwm=0), peers.connect(zmq.SUB, back)
    subscriber.subscribe(b"")
    deadline = time.monotonic() + 10
    while not subscriber.poll(50):
        assert time.monotonic() < deadline
        publisher.send(b"hello")
    body = bytes(50_000)
    seen = 0
    for _ in range(1000):
        publisher.send(body)
        while subscriber.poll(0):
            seen += len(subscriber.recv()) == len(body)
    while subscriber.poll(500):
        seen += len(subscriber.recv()) == len(body)
    assert seen > 500 and figure(one, "messages_dropped_total") > 0
    assert resident_kib(one) < 200_000


def test_endless_frames_of_one_message_meet_the_limit(server, peers):
    _, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL},max-message=1MiB")
    endless = ready(front, b"PUSH")
    with pytest.raises(OSError):
        for _ in range(10_000):
            endless.sendall(b"\x01\x00" * 1000)
    works(peers, front, back)


@pytest.mark.parametrize("again", range(4))
def test_pings_without_end_cost_nothing(server, peers, again):
    """Several times: it depends on where the socket stops taking answers."""
    one, (front, back) = device(server, f"streamer,front=bind:{LOCAL},back=bind:{LOCAL}")
    pinging = ready(front, b"PUSH")
    pinging.settimeout(1)
    before = resident_kib(one)
    pings = command(b"PING", b"\0\0" + b"c" * 16) * 10_000
    # It reads none of the answers: at some point it is not read either.
    with pytest.raises(TimeoutError):
        for _ in range(500):
            pinging.sendall(pings)
    works(peers, front, back)
    assert resident_kib(one) - before < 10_000
