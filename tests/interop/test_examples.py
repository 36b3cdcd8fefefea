"""The programs in examples/ do what their READMEs say."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from broker import waypost_binary

ALL = pathlib.Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = ALL / "amqp"


def run(broker, program: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / program), *arguments]
    environment = os.environ | {"AMQP_URL": broker.url()}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_producer_and_consumer(broker):
    assert run(broker, "producer.py", "3").count("is confirmed") == 3
    assert run(broker, "consumer.py", "3").splitlines()[0].startswith("order 1: 2 items")


def test_rpc(broker):
    assert run(broker, "rpc.py", "21").strip() == "42"


@pytest.mark.ours("services are Waypost's own")
def test_the_shop():
    command = [sys.executable, str(ALL / "shop" / "shop.py"), str(waypost_binary())]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all is as promised"


@pytest.mark.ours("devices are Waypost's own")
@pytest.mark.parametrize("kind", ["streamer", "forwarder", "router", "majordomo"])
def test_devices(server, kind):
    back = "" if kind == "majordomo" else ",back=bind:tcp://127.0.0.1:0"
    node = server("--zmtp", f"{kind},front=bind:tcp://127.0.0.1:0{back}")
    node.start()
    endpoints = json.loads((node.data / "listeners.json").read_text())["zmtp"]
    command = [sys.executable, str(ALL / "zmtp" / f"{kind}.py"), *endpoints]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{node.tail()}"
