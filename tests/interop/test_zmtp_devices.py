"""Devices that come and go while the server runs: by the API and by the command line."""

from __future__ import annotations

import json
import socket
import threading
import time

import pika
import pytest
import requests
import zmq

from support import eventually
from zmtp_peers import figure, free_port

pytestmark = pytest.mark.ours("ZeroMQ devices")

ENDS = "front=bind:tcp://127.0.0.1:0,back=bind:tcp://127.0.0.1:0"


@pytest.fixture
def node(server):
    one = server()
    one.amqp = one.start()
    one.api = f"{one.http}/api/v1/devices"
    return one


def declare(node, definition: str, name: str | None = None, **more) -> requests.Response:
    place = f"{node.api}/{name}" if name else node.api
    return requests.request("PUT" if name else "POST", place, json={"definition": definition}, timeout=20, **more)


def test_a_device_is_declared_used_counted_and_removed(node, peers):
    assert requests.get(node.api).json() == []
    made = declare(node, f"streamer,{ENDS}", "pipe")
    assert made.status_code == 200, made.text
    front, back = made.json()["endpoints"]
    push, pull = peers.connect(zmq.PUSH, front), peers.connect(zmq.PULL, back)
    for n in range(100):
        push.send(b"%03d" % n)
    assert [pull.recv() for _ in range(100)] == [b"%03d" % n for n in range(100)]
    seen = lambda: requests.get(f"{node.api}/pipe").json()
    eventually(lambda: seen()["messages"]["sent"] == 100)
    device = seen()
    assert (device["state"], device["kind"], device["declared_by"]) == ("running", "streamer", "request")
    assert (device["peers"], device["messages"]["received"], device["messages"]["dropped"]) == (2, 100, 0)
    # 100 messages of 3 bytes with 2 of their frames, and the handshakes.
    assert 500 < device["bytes"]["received"] < 1500 and 500 < device["bytes"]["sent"] < 1500
    eventually(lambda: figure(node, "messages_received_total") == 100)
    assert requests.delete(f"{node.api}/pipe").status_code == 204
    assert requests.get(node.api).json() == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(front.removeprefix("tcp://").split(":"))
    assert requests.delete(f"{node.api}/pipe").status_code == 404


def test_names_are_given_and_kept_apart(node):
    names = [declare(node, f"router,{ENDS}").json()["name"] for _ in range(2)]
    assert names == ["router-1", "router-2"]
    first = declare(node, f"streamer,{ENDS}", "one").json()
    assert declare(node, f"streamer, {ENDS}", "one").json()["endpoints"] == first["endpoints"]
    assert declare(node, f"streamer,{ENDS},hwm=5", "one").status_code == 409
    assert declare(node, f"streamer,{ENDS},name=two", "one").status_code == 400
    assert declare(node, f"streamer,{ENDS}", "a%20b").status_code == 400
    assert requests.delete(f"{node.api}/router-1").status_code == 204
    assert declare(node, f"router,{ENDS}").json()["name"] == "router-1"


def test_fields_instead_of_text(node):
    body = {"kind": "forwarder", "front": "bind:tcp://127.0.0.1:0", "back": ["bind:tcp://127.0.0.1:0"], "hwm": 7}
    made = requests.put(f"{node.api}/news", json=body)
    assert made.status_code == 200, made.text
    assert made.json()["kind"] == "forwarder" and ",hwm=7" in made.json()["definition"]
    refused = requests.put(f"{node.api}/other", json=body | {"hvm": 7})
    assert refused.status_code == 400 and "did you mean `hwm`" in refused.text


def test_what_cannot_be_is_refused_and_leaves_nothing(node):
    taken = free_port()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", taken))
        holder.listen()
        refused = declare(node, f"streamer,front=bind:tcp://127.0.0.1:0,back=bind:tcp://127.0.0.1:{taken}")
        assert refused.status_code == 400 and str(taken) in refused.text
    for bad in ("pipe", "streamer", f"streamer,{ENDS},vhost=x", f"streamer,{ENDS},queue=q,vhost=nowhere"):
        assert declare(node, bad).status_code == 400, bad
    assert requests.get(node.api).json() == []
    assert declare(node, f"streamer,front=bind:tcp://127.0.0.1:0,back=bind:tcp://127.0.0.1:{taken}").status_code == 200


def test_a_bridge_that_is_removed_gives_back_what_it_had(node, peers):
    front, back = declare(node, f"streamer,{ENDS},queue=jobs", "bridge").json()["endpoints"]
    push = peers.connect(zmq.PUSH, front)
    for n in range(50):
        push.send(b"%d" % n)
    queue = lambda: requests.get(f"{node.http}/api/v1/queues/%2F/jobs").json()
    eventually(lambda: queue()["messages"] == 50)
    assert requests.delete(f"{node.api}/bridge").status_code == 204
    assert (queue()["messages_ready"], queue()["messages_unacknowledged"]) == (50, 0)
    channel = pika.BlockingConnection(node.amqp.params()).channel()
    assert channel.basic_get("jobs", auto_ack=True)[2] == b"0"
    _, back = declare(node, f"streamer,{ENDS},queue=jobs", "bridge").json()["endpoints"]
    pull = peers.connect(zmq.PULL, back)
    assert [pull.recv() for _ in range(49)] == [b"%d" % n for n in range(1, 50)]


def test_workers_of_majordomo_leave_with_it(node, peers):
    (front,) = declare(node, "majordomo,front=bind:tcp://127.0.0.1:0", "mdp").json()["endpoints"]
    worker = peers.connect(zmq.DEALER, front)
    worker.send_multipart([b"MDPW02", b"\x01", b"echo"])
    passing = lambda: [one["passing"] for one in requests.get(f"{node.http}/api/v1/services").json()]
    eventually(lambda: passing() == [1])
    assert requests.delete(f"{node.api}/mdp").status_code == 204
    eventually(lambda: sum(passing()) == 0)


def test_a_peer_that_does_not_read_holds_up_no_removal(node, peers):
    front, back = declare(node, f"streamer,{ENDS}", "stuck").json()["endpoints"]
    pull = peers.connect(zmq.PULL, back, rcvhwm=1, rcvbuf=4096)
    push = peers.connect(zmq.PUSH, front, sndtimeo=300)
    with pytest.raises(zmq.Again):
        for _ in range(100_000):
            push.send(bytes(10_000))
    since = time.monotonic()
    assert requests.delete(f"{node.api}/stuck", timeout=20).status_code in (200, 204)
    assert time.monotonic() - since < 8
    pull.close()
    eventually(lambda: requests.get(node.api).json() == [])


def test_a_peer_that_reads_by_drops_does_not_keep_the_server(node, peers):
    # A local socket: one over TCP is writable in strides only, which few readers are slow enough to stretch.
    place = node.dir / "news"
    ends = f"front=bind:tcp://127.0.0.1:0,back=bind:ipc://{place},hwm=100000"
    made = declare(node, f"forwarder,{ends}", "news").json()["endpoints"]
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(place))
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
        ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
        slow.sendall(greeting + bytes([4, len(ready)]) + ready + b"\x00\x01\x01")
        publisher = peers.connect(zmq.PUB, made[0], sndhwm=0)
        seen = lambda: requests.get(f"{node.api}/news").json()["messages"]
        deadline = time.monotonic() + 10
        while seen()["sent"] < 600:
            assert time.monotonic() < deadline
            for _ in range(20):
                publisher.send(bytes(100_000))
            time.sleep(0.02)
        over = threading.Event()

        def sip():
            while not over.wait(0.02) and slow.recv(32768):
                pass

        sipping = threading.Thread(target=sip)
        sipping.start()
        try:
            assert node.stop() == 0
        finally:
            over.set()
            sipping.join()


def test_only_administrators_declare_and_remove(node):
    user = f"{node.http}/api/v1/users/watcher"
    assert requests.put(user, json={"password": "pw", "tags": ["monitoring"]}).status_code == 204
    watcher = {"auth": ("watcher", "pw")}
    assert declare(node, f"streamer,{ENDS}", "pipe").status_code == 200
    assert declare(node, f"streamer,{ENDS},queue=q", "bridge").status_code == 200
    assert declare(node, f"streamer,{ENDS}", "mine", **watcher).status_code == 403
    assert requests.delete(f"{node.api}/pipe", **watcher).status_code == 403
    # The bridge's vhost is none of theirs.
    assert [one["name"] for one in requests.get(node.api, **watcher).json()] == ["pipe"]
    assert requests.get(f"{node.api}/bridge", **watcher).status_code == 404


def test_devices_of_the_configuration_are_listed_and_come_back(server):
    one = server("--zmtp", f"streamer,{ENDS},name=fixed")
    one.start()
    api = f"{one.http}/api/v1/devices"
    assert [(d["name"], d["declared_by"]) for d in requests.get(api).json()] == [("fixed", "configuration")]
    assert requests.delete(f"{api}/fixed").status_code == 204
    requests.put(f"{api}/late", json={"definition": f"streamer,{ENDS}"}).raise_for_status()
    assert one.stop() == 0
    one.start()
    assert [d["name"] for d in requests.get(f"{one.http}/api/v1/devices").json()] == ["fixed"]


def test_the_command_line(node, peers):
    name, kind, ends = node.cli("devices", "add", f"streamer,{ENDS}").stdout.split()
    assert (name, kind) == ("streamer-1", "streamer")
    front, back = ends.split(",")
    push, pull = peers.connect(zmq.PUSH, front), peers.connect(zmq.PULL, back)
    push.send(b"x")
    assert pull.recv() == b"x"
    eventually(lambda: json.loads(node.cli("devices", "ls", "-o", "json").stdout)[0]["messages"]["sent"] == 1)
    row = node.cli("devices", "ls").stdout.rstrip("\n").split("\t")
    assert row[:3] == ["streamer-1", "streamer", "running"] and row[4:7] == ["2", "1", "1"]
    table = node.cli("devices", "ls", "-o", "table").stdout
    assert table.startswith("NAME ") and "DROPPED" in table
    assert "messages.received\t1" in node.cli("devices", "show", "streamer-1").stdout
    again = node.cli("devices", "add", f"router,{ENDS}", "--name", "streamer-1", check=False)
    assert again.returncode == 6 and "remove it first" in again.stderr
    assert node.cli("devices", "add", "pipe", check=False).returncode != 0
    node.cli("devices", "rm", "streamer-1")
    assert node.cli("devices", "rm", "streamer-1", check=False).returncode == 4
    assert node.cli("devices", "ls").stdout == ""
