"""`waypost services`, `request`, `reply` and `route explain`."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid

import pytest

from broker import waypost_binary

pytestmark = pytest.mark.ours("RabbitMQ has no services")


@pytest.fixture
def name():
    return f"s{uuid.uuid4().hex[:12]}"


@pytest.fixture
def cli(broker):
    return broker.waypost.cli


def shown(cli, name):
    return json.loads(cli("services", "show", name, "-o", "json").stdout)["instances"]


def test_an_instance_from_register_to_deregister(cli, name):
    cli("services", "register", name, "--id", "a", "--address", "10.0.0.7", "--port", "80", "--at-version", "2.1.0",
        "--zone", "eu", "--tag", "gpu", "--meta", "team=x", "--weight", "3")
    instance = shown(cli, name)[0]
    assert (instance["id"], instance["port"], instance["version"], instance["weight"]) == ("a", 80, "2.1.0", 3)
    assert (instance["tags"], instance["meta"]) == (["gpu"], {"team": "x"})
    row = next(line for line in cli("services", "ls").stdout.splitlines() if line.startswith(name))
    assert row.split("\t")[1] == "1"
    cli("services", "drain", name, "a", "--deadline", "1m")
    assert shown(cli, name)[0]["draining"] is True
    cli("services", "drain", name, "a", "--undo")
    assert shown(cli, name)[0]["draining"] is False
    cli("services", "deregister", name, "a")
    assert cli("services", "deregister", name, "a", check=False).returncode == 4
    assert cli("services", "register", name, "--id", "a", "--at-version", "two", check=False).returncode == 1


def test_watch(broker, cli, name):
    cli("services", "register", name, "--id", "a", "--port", "1")
    command = [str(waypost_binary()), "services", "watch", name, "-n", "2", "-o", "json"]
    environment = os.environ | {"WAYPOST_HTTP": broker.waypost.http}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert [i["id"] for i in json.loads(watch.stdout.readline())["instances"]] == ["a"]
            cli("services", "register", name, "--id", "b", "--port", "2")
            assert sorted(i["id"] for i in json.loads(watch.stdout.readline())["instances"]) == ["a", "b"]
            assert watch.wait(10) == 0
        finally:
            watch.kill()


def test_request_is_answered_by_a_program(broker, cli, name):
    command = [str(waypost_binary()), "reply", name, "--uri", broker.url(), "--id", "r1", "--at-version", "2.0.0",
               "-n", "2", "--exec", "sh", "-c", "printf '%s: ' $WAYPOST_SERVICE; tr a-z A-Z"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as reply:
        try:
            deadline = time.monotonic() + 10
            while cli("services", "show", name, check=False).stdout.split("\t")[0] != "r1":
                assert time.monotonic() < deadline and reply.poll() is None, reply.stderr.read()
                time.sleep(0.05)
            explained = cli("route", "explain", name, "--versions", "^2").stdout.rstrip("\n").split("\t")
            assert explained[:2] == ["r1", "chosen"]
            refused = cli("route", "explain", name, "--versions", "^3").stdout.rstrip("\n").split("\t")
            assert refused[:2] == ["r1", "rejected"] and "version" in refused[3]
            assert cli("request", name, "hello").stdout == f"{name}: HELLO"
            assert cli("request", name, "-", input="again", stdin=None).stdout == f"{name}: AGAIN"
            assert reply.wait(10) == 0
        finally:
            reply.kill()


def test_a_request_that_nobody_answers_is_late(cli, name):
    cli("services", "register", name, "--id", "a")
    late = cli("request", name, "x", "--timeout", "300ms", check=False)
    assert late.returncode == 8, late.stderr


def test_a_failing_program_rejects(broker, cli, name):
    command = [str(waypost_binary()), "reply", name, "--uri", broker.url(), "-n", "1", "--exec", "false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as reply:
        try:
            late = cli("request", name, "x", "--timeout", "3", check=False)
            assert late.returncode == 8
            assert reply.wait(10) == 0 and "rejected" in reply.stderr.read()
        finally:
            reply.kill()


def test_route_of_an_exchange(cli, name):
    cli("exchanges", "declare", name, "topic")
    cli("queues", "declare", f"{name}-q")
    cli("bindings", "add", name, f"{name}-q", "app.*")
    hit = cli("route", "explain", name, "--exchange", "--routing-key", "app.error").stdout.rstrip("\n").split("\t")
    assert hit[:4] == [name, "queue", f"{name}-q", "chosen"]
    miss = cli("route", "explain", name, "-x", "--routing-key", "x").stdout.rstrip("\n").split("\t")
    assert miss[3] == "rejected" and miss[4] == "app.*" and miss[5]
    assert cli("route", "explain", f"{name}-none", "--exchange", check=False).returncode == 4


def test_route_of_the_exchange_of_services(cli, name):
    key = f"{name}?version=^2"
    lone = cli("route", "explain", "-x", "amq.services", "--routing-key", key).stdout.rstrip("\n").split("\t")
    assert lone[:4] == ["amq.services", "service", name, "chosen"]
    cli("services", "register", name, "--id", "a", "--at-version", "1.0.0")
    mailbox, instance = cli("route", "explain", "-x", "amq.services", "--routing-key", key).stdout.splitlines()
    assert mailbox.split("\t")[:4] == ["amq.services", "queue", f"{name}-queue", "chosen"]
    assert instance.split("\t")[:4] == [name, "instance", "a", "rejected"] and "version" in instance
    assert cli("route", "explain", "-x", "amq.services", "--routing-key", "NONE", check=False).returncode != 0
