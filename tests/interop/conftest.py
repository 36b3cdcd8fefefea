"""Fixtures: the broker under test, connections that close themselves, names nobody else uses."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import uuid

import pika
import pytest

from admin import RabbitAdmin, WaypostAdmin
from broker import Endpoint, Waypost
from zmtp_peers import Peers

EXTERNAL = os.environ.get("INTEROP_AMQP_URL")
# Servers hold publishers back on a disk that is nearly full: every test that publishes would fail, none saying why.
DISK_NEEDED = 2 << 30


def pytest_sessionstart(session):
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < DISK_NEEDED:
        reason = f"{tempfile.gettempdir()} has {free >> 20} MiB free, the tests need {DISK_NEEDED >> 20}"
        pytest.exit(reason, returncode=1)


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="many more rounds of the crash tests")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="only with --long"))
        if EXTERNAL and (mark := item.get_closest_marker("ours")):
            item.add_marker(pytest.mark.skip(reason=f"external broker: {mark.args[0]}"))
        if EXTERNAL and (mark := item.get_closest_marker("since4")) and external_major() < 4:
            item.add_marker(pytest.mark.xfail(reason=f"before RabbitMQ 4: {mark.args[0]}", strict=False))


def external_major() -> int:
    if not hasattr(external_major, "known"):
        connection = pika.BlockingConnection(Endpoint.from_url(EXTERNAL).params())
        version = connection._impl.server_properties["version"]
        connection.close()
        external_major.known = int(str(version).split(".")[0])
    return external_major.known


class Broker:
    """What tests see of the broker that they share."""

    def __init__(self, endpoint: Endpoint, admin, waypost: Waypost | None):
        self.endpoint, self.admin, self.waypost = endpoint, admin, waypost

    def params(self, **options) -> pika.ConnectionParameters:
        return self.endpoint.params(**options)

    def url(self, vhost: str | None = None) -> str:
        return self.endpoint.url(vhost)


@pytest.fixture(scope="session")
def broker():
    """One broker per test worker: ours, or the external one."""
    if EXTERNAL:
        yield Broker(Endpoint.from_url(EXTERNAL), RabbitAdmin.from_environment(), None)
        return
    with Waypost.running() as server:
        yield Broker(server.endpoint, WaypostAdmin(server), server)


@pytest.fixture(autouse=True)
def survives(request):
    """Whatever a test sends, the server is there afterwards."""
    yield
    if "broker" in request.fixturenames:
        server = request.getfixturevalue("broker").waypost
        assert server is None or server.alive(), f"the server died:\n{server.tail()}"


@pytest.fixture
def server():
    """Makes servers of a test's own, to be restarted and killed; not started yet."""
    made = []

    def make(*flags: str, config: str | None = None) -> Waypost:
        made.append(Waypost(*flags, config=config))
        return made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture
def peers():
    """ZeroMQ sockets that are closed when the test ends."""
    made = Peers()
    yield made
    made.close()


@pytest.fixture
def connect(broker):
    """Opens connections that are closed when the test ends."""
    opened = []

    def open_one(**options) -> pika.BlockingConnection:
        connection = pika.BlockingConnection(broker.params(**options))
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        close_quietly(connection)


def close_quietly(connection) -> None:
    try:
        if connection.is_open:
            connection.close()
    except pika.exceptions.AMQPError:
        pass


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def ch(connection):
    return connection.channel()


@pytest.fixture
def name(request):
    """Names that no other test uses: name() or name("suffix")."""
    run = uuid.uuid4().hex[:8]
    count = itertools.count()
    short = request.node.name.split("[")[0].removeprefix("test_")[:40]

    def make(suffix: str | None = None) -> str:
        return f"{short}.{run}.{suffix if suffix is not None else next(count)}"

    return make


@pytest.fixture
def queue(ch, name, broker):
    """Declares queues of the test's own: queue({"x-max-length": 1}); deleted when it ends."""
    made = []

    def declare(arguments=None, *, channel=None, suffix=None, **options) -> str:
        options.setdefault("durable", True)
        queue_name = name(suffix)
        (channel or ch).queue_declare(queue_name, arguments=arguments, **options)
        made.append(queue_name)
        return queue_name

    yield declare
    clean_up(broker, lambda channel, made=made: [channel.queue_delete(one) for one in made] if made else None)


@pytest.fixture
def exchange(ch, name, broker):
    """Declares exchanges of the test's own: exchange("topic"); deleted when it ends."""
    made = []

    def declare(kind="direct", *, arguments=None, channel=None, suffix=None, **options) -> str:
        options.setdefault("durable", True)
        exchange_name = name("x" if suffix is None and not made else suffix)
        (channel or ch).exchange_declare(exchange_name, kind, arguments=arguments, **options)
        made.append(exchange_name)
        return exchange_name

    yield declare
    clean_up(broker, lambda channel, made=made: [channel.exchange_delete(one) for one in made] if made else None)


def clean_up(broker, action) -> None:
    """On our own server what tests leave behind goes with it; on an external one it would stay."""
    if not EXTERNAL:
        return
    connection = pika.BlockingConnection(broker.params())
    try:
        action(connection.channel())
    except pika.exceptions.AMQPError:
        pass
    finally:
        close_quietly(connection)
