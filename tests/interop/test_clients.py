"""Other stock clients: pika on asyncio, aio-pika, kombu, Celery, and programs in other languages."""

import asyncio
import os
import pathlib
import shutil
import subprocess
import sys
import time

import aio_pika
import kombu
import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"


def test_pika_on_asyncio(broker, name):
    q, done = name(), {}

    async def main():
        loop = asyncio.get_running_loop()
        finished = loop.create_future()

        def opened(connection):
            connection.channel(on_open_callback=on_channel)

        def on_channel(channel):
            channel.confirm_delivery(lambda frame: done.setdefault("acks", []).append(frame.method.NAME))
            channel.queue_declare(q, exclusive=True, callback=lambda _: start(channel))

        def start(channel):
            channel.basic_consume(q, lambda c, m, p, body: got(c, m, body))
            for n in range(10):
                channel.basic_publish("", q, b"%d" % n)

        def got(channel, method, body):
            channel.basic_ack(method.delivery_tag)
            done.setdefault("bodies", []).append(body)
            if len(done["bodies"]) == 10:
                channel.connection.close()

        AsyncioConnection(
            broker.params(),
            on_open_callback=opened,
            on_close_callback=lambda _c, reason: finished.set_result(reason),
            custom_ioloop=loop,
        )
        reason = await asyncio.wait_for(finished, 20)
        assert reason.reply_code == 200

    asyncio.run(main())
    assert done["bodies"] == [b"%d" % n for n in range(10)]
    assert done["acks"]


def test_aio_pika(broker, name):
    async def main():
        connection = await aio_pika.connect_robust(broker.url())
        async with connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.set_qos(prefetch_count=10)
            exchange = await channel.declare_exchange(name("x"), aio_pika.ExchangeType.TOPIC, auto_delete=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "a.#")
            for n in range(50):
                message = aio_pika.Message(b"%d" % n, headers={"n": n}, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
                await exchange.publish(message, f"a.{n}")
            got = []
            async with queue.iterator(timeout=10) as messages:
                async for message in messages:
                    async with message.process():
                        got.append((message.body, message.headers["n"]))
                    if len(got) == 50:
                        break
            assert got == [(b"%d" % n, n) for n in range(50)]
            with pytest.raises(aio_pika.exceptions.PublishError):
                await channel.default_exchange.publish(aio_pika.Message(b""), "nowhere", mandatory=True)
            with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
                await channel.declare_queue("absent-one", passive=True)

    asyncio.run(main())


def test_aio_pika_rpc(broker):
    from aio_pika.patterns import RPC

    async def main():
        async with await aio_pika.connect(broker.url()) as connection:
            rpc = await RPC.create(await connection.channel())

            async def double(*, value):
                return value * 2

            await rpc.register(f"double-{os.getpid()}", double, auto_delete=True)
            for value in range(5):
                assert await rpc.call(f"double-{os.getpid()}", {"value": value}) == value * 2
            await rpc.close()

    asyncio.run(main())


def test_aio_pika_comes_back_after_a_restart(server):
    if os.environ.get("INTEROP_AMQP_URL"):
        pytest.skip("external broker: it cannot be restarted")
    own = server()
    endpoint = own.start()

    async def main():
        connection = await aio_pika.connect_robust(endpoint.url(), reconnect_interval=0.2)
        channel = await connection.channel()
        queue = await channel.declare_queue("robust", durable=True)
        got = asyncio.Queue()

        async def received(message):
            await got.put(message.body)

        await queue.consume(received, no_ack=True)
        own.stop()
        own.start()
        await asyncio.wait_for(connection.connected.wait(), 10)
        other = await aio_pika.connect(own.endpoint.url())
        await (await other.channel()).default_exchange.publish(aio_pika.Message(b"again"), "robust")
        assert await asyncio.wait_for(got.get(), 10) == b"again"
        await other.close()
        await connection.close()

    asyncio.run(main())


def test_kombu(broker, name):
    with kombu.Connection(broker.url(), heartbeat=5) as connection:
        connection.ensure_connection(max_retries=3)
        exchange = kombu.Exchange(name("x"), "direct", durable=True, auto_delete=True)
        queue = kombu.Queue(name("q"), exchange, routing_key="k", max_priority=10, expires=60)
        got = []

        def received(body, message):
            got.append(body)
            message.ack()

        producer = connection.Producer(serializer="json")
        with connection.Consumer(queue, callbacks=[received], accept=["json"]) as consumer:
            consumer.qos(prefetch_count=4)
            for n in range(20):
                producer.publish({"n": n}, exchange=exchange, routing_key="k", declare=[queue], retry=True)
            deadline = time.monotonic() + 10
            while len(got) < 20 and time.monotonic() < deadline:
                connection.drain_events(timeout=5)
            connection.heartbeat_check()
        assert got == [{"n": n} for n in range(20)]


def test_kombu_simple_queue(broker, name):
    with kombu.Connection(broker.url()) as connection:
        simple = connection.SimpleQueue(name())
        for n in range(5):
            simple.put({"n": n})
        message = simple.get(timeout=5)
        assert message.payload == {"n": 0}
        message.ack()
        assert [simple.get(timeout=5).payload["n"] for _ in range(4)] == [1, 2, 3, 4]
        simple.close()


@pytest.fixture
def celery_worker(broker, tmp_path, name):
    """A real worker process with one queue of its own."""
    environment = os.environ | {"CELERY_URL": broker.url(), "CELERY_QUEUE": name("celery"), "PYTHONPATH": str(PROGRAMS)}
    log = (tmp_path / "worker.log").open("w")
    command = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "--pool", "solo", "--loglevel", "INFO"]
    command += ["--hostname", name("worker") + "@localhost"]
    worker = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    os.environ.update({key: environment[key] for key in ["CELERY_URL", "CELERY_QUEUE"]})
    sys.path.insert(0, str(PROGRAMS))
    try:
        import celery_tasks

        yield celery_tasks
    finally:
        sys.path.remove(str(PROGRAMS))
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


@pytest.mark.timeout(90)
def test_celery(celery_worker):
    """A task, one with a countdown, one that is retried, a chain, and results by the rpc backend."""
    tasks = celery_worker
    assert tasks.add.delay(2, 3).get(timeout=40) == 5
    started = time.monotonic()
    later = tasks.add.apply_async((1, 1), countdown=1)
    assert tasks.flaky.delay(time.time()).get(timeout=20) == 2
    assert later.get(timeout=20) == 2
    assert time.monotonic() - started >= 1
    assert (tasks.add.s(1, 1) | tasks.add.s(10)).apply_async().get(timeout=20) == 12
    with pytest.raises(ZeroDivisionError):
        tasks.divide.delay(1, 0).get(timeout=20)
    replies = tasks.app.control.ping(timeout=2)
    assert replies and all("ok" in answer for reply in replies for answer in reply.values())


def run_program(command, broker, name, cwd, **more) -> str:
    environment = os.environ | {"AMQP_URL": broker.url(), "PREFIX": name("program")} | more
    done = subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.mark.timeout(200)
def test_node_amqplib(broker, name):
    needs("node"), needs("npm")
    folder = PROGRAMS / "node"
    if not (folder / "node_modules").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True, timeout=150)
    assert "all good" in run_program(["node", "main.js"], broker, name, folder)


@pytest.mark.timeout(300)
def test_go_amqp091(broker, name, tmp_path):
    needs("go")
    binary = tmp_path / "client"
    built = subprocess.run(
        ["go", "build", "-o", str(binary), "."], cwd=PROGRAMS / "go", capture_output=True, text=True, timeout=240
    )
    assert built.returncode == 0, built.stderr
    assert "all good" in run_program([str(binary)], broker, name, tmp_path)
