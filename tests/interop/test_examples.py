"""The programs in examples/amqp do what their README says."""

import os
import pathlib
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "amqp"


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
