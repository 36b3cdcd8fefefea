"""Peers that misbehave, many at a time, while others work: everybody else goes on, memory stays bounded, and the server
still stops when it is told to."""

import json
import pathlib
import socket
import struct
import sys
import threading
import time
import urllib.request

import pika
import pika.spec
import pytest

from raw import Raw
from support import PERSISTENT, bodies, eventually, is_empty

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "chaos"))
from wire import Broken, Client, publishes  # noqa: E402

spec = pika.spec
pytestmark = pytest.mark.ours("a server of the test's own, whose process is looked at")

MIB = 1024 * 1024


@pytest.fixture
def own(server):
    one = server("--memory-queue-budget", "8MiB")
    one.start()
    yield one
    assert one.alive(), one.tail()
    assert one.stop() == 0, one.tail()
    assert "panicked" not in one.log.read_text(errors="replace")


def resident(own) -> int:
    """Resident memory of the server, bytes."""
    status = pathlib.Path(f"/proc/{own.process.pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmRSS"))) * 1024


def listed(own, path: str):
    with urllib.request.urlopen(f"{own.http}/api/v1/{path}", timeout=10) as answer:
        return json.load(answer)


def opened(own, channels: int = 1) -> Raw:
    one = Raw(own.endpoint.host, own.endpoint.port, 20)
    one.open()
    for number in range(1, channels + 1):
        one.send_method(spec.Channel.Open(), number)
    for _ in range(channels):
        one.expect(spec.Channel.OpenOk)
    return one


def works(own) -> None:
    """Somebody else's messages come and go, in a time in which a user would not look up."""
    started = time.monotonic()
    connection = pika.BlockingConnection(own.endpoint.params())
    ch = connection.channel()
    ch.confirm_delivery()
    q = ch.queue_declare("", exclusive=True).method.queue
    for n in range(20):
        ch.basic_publish("", q, b"%d" % n)
    assert bodies(ch, q, 20) == [b"%d" % n for n in range(20)]
    connection.close()
    took = time.monotonic() - started
    assert took < 8, f"it took {took} s"


def flood(one: Raw, data: bytes, most: int) -> int:
    """Sends until the server takes no more for a while, or `most` bytes are sent; returns how many were."""
    one.socket.settimeout(1.5)
    sent, view = 0, memoryview(data)
    try:
        while sent < most:
            sent += one.socket.send(view[sent % len(data) :])
    except TimeoutError:
        pass
    return sent


def frames(method, channel: int = 1) -> bytes:
    return pika.frame.Method(channel, method).marshal()


def mandatory(size: int) -> bytes:
    method = frames(spec.Basic.Publish(exchange="", routing_key="nowhere", mandatory=True))
    header = pika.frame.Header(1, size, spec.BasicProperties()).marshal()
    return method + header + struct.pack(">BHI", 3, 1, size) + bytes(size) + b"\xce"


@pytest.mark.parametrize(
    ("what", "most"),
    [
        (mandatory(10_000), 300 * MIB),
        (mandatory(10), 60 * MIB),
        (frames(spec.Queue.Declare(queue="q", durable=True)), 40 * MIB),
        (frames(spec.Basic.Get(queue="full", no_ack=False)), 40 * MIB),
        (frames(spec.Basic.Qos(prefetch_count=1)), 40 * MIB),
        (frames(spec.Queue.Purge(queue="absent")), 40 * MIB),
        (frames(spec.Basic.Consume(queue="q", no_ack=True)), 20 * MIB),
    ],
    ids=["returns", "small-returns", "declares", "gets", "qos", "refused", "consumers"],
)
def test_a_peer_that_asks_without_end_and_never_reads(own, what, most):
    client = Client(own.endpoint)
    client.call(spec.Queue.Declare(queue="q", durable=True), spec.Queue.DeclareOk)
    client.call(spec.Queue.Declare(queue="full", durable=True), spec.Queue.DeclareOk)
    client.publish("", "full", [b"x" * 1000] * 1000, mode=1)
    client.close()
    before = resident(own)
    one = opened(own)
    many = what * (MIB // len(what) + 1)
    flood(one, many, most)
    works(own)
    grown = resident(own) - before
    assert grown < 160 * MIB, f"{grown >> 20} MiB more"
    one.close()
    works(own)


def test_readers_that_never_read(own):
    client = Client(own.endpoint)
    client.call(spec.Queue.Declare(queue="q", durable=False, auto_delete=False), spec.Queue.DeclareOk)
    before = resident(own)
    readers = [opened(own) for _ in range(12)]
    for n, one in enumerate(readers):
        one.send_method(spec.Basic.Consume(queue="q", no_ack=bool(n % 2), nowait=True), 1)
    client.call(spec.Confirm.Select(), spec.Confirm.SelectOk)
    for _ in range(40):
        client.publish("", "q", [b"x" * 50_000] * 50, mode=1)
        client.wait_confirms()
    works(own)
    grown = resident(own) - before
    # What lies in sockets, in windows and in the budget of queues; 100 MB were sent.
    assert grown < 90 * MIB, f"{grown >> 20} MiB more"
    for one in readers:
        one.close()

    def ready():
        return client.call(spec.Queue.Declare(queue="q", passive=True), spec.Queue.DeclareOk).message_count

    # Auto-ack counts as settled once it has left for the socket; all else comes back.
    assert eventually(lambda: ready() > 500, 10)
    client.call(spec.Queue.Delete(queue="q"), spec.Queue.DeleteOk)
    client.close()


def test_connections_that_come_and_go_at_every_stage(own):
    endpoint, stop, made = own.endpoint, threading.Event(), [0] * 6
    linger = struct.pack("ii", 1, 0)

    def churn(worker: int) -> None:
        while not stop.is_set():
            made[worker] += 1
            one = Raw(endpoint.host, endpoint.port, 10)
            stage = made[worker] % 6
            try:
                if stage > 0:
                    one.start()
                if stage > 1:
                    one.log_in()
                if stage > 2:
                    one.close()
                    one = Raw(endpoint.host, endpoint.port, 10)
                    one.open()
                    one.open_channel()
                if stage > 3:
                    one.send_method(spec.Queue.Declare(queue=f"mine-{worker}", exclusive=stage == 4, nowait=True), 1)
                    one.send_method(spec.Basic.Consume(queue="", nowait=True), 1)
                    one.send(publishes("", f"mine-{worker}", [b"x" * 2000] * 20, mode=1))
                if stage == 5:
                    one.send_method(spec.Queue.Delete(queue=f"mine-{worker}", nowait=True), 1)
            except (OSError, AssertionError):
                pass
            if made[worker] % 2:
                one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            one.close()

    def run(seconds: float) -> None:
        stop.clear()
        threads = [threading.Thread(target=churn, args=(n,)) for n in range(len(made))]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        works(own)
        stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        eventually(lambda: not listed(own, "connections"), 10)

    run(1.0)
    before, files = resident(own), len(list(pathlib.Path(f"/proc/{own.process.pid}/fd").iterdir()))
    run(3.0)
    assert sum(made) > 100
    assert resident(own) - before < 40 * MIB
    after = len(list(pathlib.Path(f"/proc/{own.process.pid}/fd").iterdir()))
    assert after <= files + 5, f"{files} open files before, {after} after"


def test_all_channels_of_several_connections_at_work(own):
    count, each = 3, 2047
    client = Client(own.endpoint)
    client.call(spec.Queue.Declare(queue="q", durable=True), spec.Queue.DeclareOk)
    before = resident(own)
    crowd = [opened(own, each) for _ in range(count)]
    for one in crowd:
        one.send(b"".join(frames(spec.Basic.Qos(prefetch_count=1), n) for n in range(1, each + 1)))
        one.send(b"".join(frames(spec.Basic.Consume(queue="q"), n) for n in range(1, each + 1)))
        for _ in range(each * 2):
            assert one.read_frame() is not None
    client.call(spec.Confirm.Select(), spec.Confirm.SelectOk)
    client.publish("", "q", [b"%d" % n for n in range(count * each + 10)], mode=1)
    client.wait_confirms()
    got = []
    for one in crowd:
        channels = set()
        for _ in range(each):
            deliver = one.read_frame()
            channels.add(deliver.channel_number)
            assert isinstance(deliver.method, spec.Basic.Deliver)
            one.read_frame()
            got.append(int(one.read_frame().fragment))
        assert len(channels) == each, "one message per channel"
    assert sorted(got) == list(range(count * each))
    works(own)
    assert resident(own) - before < 60 * MIB
    # Half of them close every channel, the others just go.
    crowd[0].send(b"".join(frames(spec.Channel.Close(200, "", 0, 0), n) for n in range(1, each + 1)))
    for _ in range(each):
        crowd[0].expect(spec.Channel.CloseOk)
    for one in crowd:
        one.close()

    def ready():
        return client.call(spec.Queue.Declare(queue="q", passive=True), spec.Queue.DeclareOk).message_count

    assert eventually(lambda: ready() == count * each + 10, 10)
    client.close()


def test_a_backlog_larger_than_the_budget(own):
    client = Client(own.endpoint)
    client.call(spec.Queue.Declare(queue="durable", durable=True), spec.Queue.DeclareOk)
    client.call(spec.Queue.Declare(queue="transient"), spec.Queue.DeclareOk)
    client.call(spec.Confirm.Select(), spec.Confirm.SelectOk)
    before = resident(own)
    total, step = 60_000, 1000
    for first in range(0, total, step):
        some = [b"%08d" % n + b"x" * 1000 for n in range(first, first + step)]
        client.publish("", "durable", some, mode=2)
        client.publish("", "transient", some, mode=1)
        client.wait_confirms()
    grown = resident(own) - before
    assert grown < 80 * MIB, f"{grown >> 20} MiB more for 120 MB of backlog and a budget of 8 MiB"
    works(own)
    for queue in ["durable", "transient"]:
        reader = Client(own.endpoint)
        reader.call(spec.Basic.Consume(queue=queue, no_ack=True), spec.Basic.ConsumeOk)
        expected = 0
        while expected < total:
            for one in reader.wait_deliveries():
                assert one.body[:8] == b"%08d" % expected and len(one.body) == 1008 and not one.redelivered
                expected += 1
        reader.close()
    client.close()


def load(own, stop, ledger) -> list[threading.Thread]:
    """Publishers with confirms and consumers that acknowledge, until the connection ends."""

    def publish(who: int) -> None:
        client, number = Client(own.endpoint), 0
        client.call(spec.Confirm.Select(), spec.Confirm.SelectOk)
        while not stop.is_set():
            some = [b"%d.%08d" % (who, number + n) for n in range(50)]
            number += len(some)
            before = client.settled
            client.publish("", f"q{who % 2}", some)
            try:
                client.wait_confirms()
            finally:
                ledger["confirmed"].update(some[: client.settled - before])

    def consume(queue: str) -> None:
        client = Client(own.endpoint)
        client.call(spec.Basic.Qos(prefetch_count=100), spec.Basic.QosOk)
        client.call(spec.Basic.Consume(queue=queue), spec.Basic.ConsumeOk)
        while not stop.is_set():
            got = client.wait_deliveries()
            ledger["seen"].update(one.body for one in got)
            client.ack(got[-1].tag)

    def guard(work, argument) -> None:
        try:
            work(argument)
        except (Broken, OSError):
            pass

    jobs = [(publish, n) for n in range(4)] + [(consume, "q0"), (consume, "q1")]
    return [threading.Thread(target=guard, args=job, daemon=True) for job in jobs]


def declared(own) -> None:
    client = Client(own.endpoint)
    for queue in ["q0", "q1"]:
        client.call(spec.Queue.Declare(queue=queue, durable=True), spec.Queue.DeclareOk)
    client.close()


def test_sigterm_under_load(server):
    own = server("--server-stop-timeout", "2s")
    own.start()
    declared(own)
    ledger = {"confirmed": set(), "seen": set()}
    for _ in range(3):
        stop = threading.Event()
        threads = load(own, stop, ledger)
        for thread in threads:
            thread.start()
        deaf = opened(own)
        deaf.send_method(spec.Basic.Consume(queue="q0", nowait=True), 1)
        half = opened(own)
        half.send(struct.pack(">BHI", 1, 1, 100) + b"\x00\x3c")
        time.sleep(0.7)
        started = time.monotonic()
        assert own.stop() == 0, own.tail()
        assert time.monotonic() - started < 15
        stop.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), "a client hangs"
        for one in [deaf, half]:
            one.close()
        own.start()
    left = set()
    for queue in ["q0", "q1"]:
        client = Client(own.endpoint)
        count = client.call(spec.Queue.Declare(queue=queue, passive=True), spec.Queue.DeclareOk).message_count
        if count:
            client.call(spec.Basic.Consume(queue=queue, no_ack=True), spec.Basic.ConsumeOk)
        while count > 0:
            got = client.wait_deliveries()
            count -= len(got)
            left.update(one.body for one in got)
        client.close()
    lost = ledger["confirmed"] - ledger["seen"] - left
    assert len(ledger["confirmed"]) > 100 and not lost, sorted(lost)[:5]
    assert own.stop() == 0


def test_sigterm_while_publishers_are_held_back(server):
    """Those that are not read cannot be asked for their close-ok; they must not keep the server."""
    own = server("--memory-high-watermark", "0.000001", "--server-stop-timeout", "2s")
    own.start()
    client = Client(own.endpoint)
    client.call(spec.Queue.Declare(queue="q", durable=True), spec.Queue.DeclareOk)
    stuck = [opened(own) for _ in range(5)]
    for one in stuck:
        flood(one, publishes("", "q", [b"x" * 10_000] * 50), 4 * MIB)
    started = time.monotonic()
    assert own.stop() == 0, own.tail()
    assert time.monotonic() - started < 10
    for one in stuck:
        one.close()
    client.close()


def test_memory_alarm_holds_publishers_and_nobody_else(server):
    own = server("--memory-high-watermark", "0.000001")
    own.start()
    ch = pika.BlockingConnection(own.endpoint.params()).channel()
    ch.queue_declare("q", durable=True)
    told = []
    publishers = []
    for _ in range(5):
        one = pika.BlockingConnection(own.endpoint.params(heartbeat=1, blocked_connection_timeout=None))
        one.add_on_connection_blocked_callback(lambda _c, frame: told.append(frame.method.reason))
        channel = one.channel()
        channel.basic_publish("", "q", b"first", PERSISTENT)
        publishers.append((one, channel))

    def all_told():
        for one, _ in publishers:
            one.process_data_events(0.02)
        return told == ["low on memory"] * 5

    assert eventually(all_told, 10)
    for _, channel in publishers:
        for _ in range(20):
            channel.basic_publish("", "q", b"late", PERSISTENT)
    # Longer than the heartbeat allows: they are not read, and must not be taken for dead.
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        for one, _ in publishers:
            one.process_data_events(0.05)
    assert all(one.is_open for one, _ in publishers)
    assert bodies(ch, "q", 5) == [b"first"] * 5
    assert is_empty(ch, "q")
    assert own.stop() == 0
