"""Runs the whole shop and looks whether it keeps its promises:

1. Orders are placed while no cart and no product service is there. They wait.
2. Two versions of the cart come, and the product service. Every order is answered, by both carts.
3. Orders for carts of version 2 go to version 2 only.
4. A cart is killed (SIGKILL) in the middle of its work. Every order is answered all the same.
5. The server is killed and started again. Nothing that it had taken is lost.

    shop.py [path of the waypost binary]

Needs pika and requests. Takes about twenty seconds, listens on free ports of 127.0.0.1, and leaves nothing behind.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import requests

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PATIENCE_SECONDS = 60


def binary() -> str:
    built = [ROOT / "target" / kind / "waypost" for kind in ("release", "debug")]
    named = [sys.argv[1]] if len(sys.argv) > 1 else [os.environ.get("WAYPOST_BIN")]
    found = [p for p in (*named, shutil.which("waypost"), *map(str, built)) if p and os.path.exists(p)]
    return found[0] if found else sys.exit("no waypost binary: cargo build --release -p waypost")


class Shop:
    """The server and everything that was started."""

    def __init__(self, directory: str):
        self.data = pathlib.Path(directory) / "data"
        self.processes: list[subprocess.Popen] = []
        self.environment = dict(os.environ)
        self.amqp = self.http = "127.0.0.1:0"

    def start_server(self) -> subprocess.Popen:
        listeners = self.data / "listeners.json"
        listeners.unlink(missing_ok=True)
        flags = ["--amqp", self.amqp, "--http", self.http, "--dns", "off", "--kafka", "off"]
        server = self.start(binary(), "serve", "--data-dir", str(self.data), *flags)
        addresses = until(lambda: read_json(listeners), "the server to be ready", server)
        # The same ports again after a restart.
        self.amqp, self.http = addresses["amqp"][0], addresses["http"][0]
        self.environment["AMQP_URL"] = f"amqp://guest:guest@{self.amqp}/%2F"
        self.environment["WAYPOST_HTTP"] = f"http://{self.http}"
        return server

    def start(self, *command: str, **options) -> subprocess.Popen:
        options.setdefault("stderr", subprocess.DEVNULL)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=self.environment, **options)
        self.processes.append(process)
        return process

    def python(self, program: str, *arguments: str, **options) -> subprocess.Popen:
        return self.start(sys.executable, str(HERE / program), *arguments, stderr=None, **options)

    def order(self, count: int, *more: str) -> subprocess.Popen:
        return self.python("order.py", str(count), *more, stdout=subprocess.PIPE, text=True)

    def service(self, name: str) -> dict:
        answer = requests.get(f"http://{self.http}/api/v1/services/{name}", timeout=10)
        return answer.json() if answer.ok else {}

    def instances(self, name: str) -> list[str]:
        return sorted(i["id"] for i in self.service(name).get("instances", []) if i["health"] == "passing")

    def waiting(self, name: str) -> int:
        answer = requests.get(f"http://{self.http}/api/v1/queues/%2F/{name}-queue", timeout=10)
        return answer.json().get("messages", 0) if answer.ok else 0

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
            process.wait()


def read_json(path: pathlib.Path):
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def until(condition, what: str, process: subprocess.Popen | None = None):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        if process is not None and process.poll() is not None:
            sys.exit(f"waiting for {what}: the process ended with {process.returncode}")
        if time.monotonic() > deadline:
            sys.exit(f"waiting for {what}: not within {PATIENCE_SECONDS} s")
        time.sleep(0.05)
    return value


def outcome(order: subprocess.Popen) -> dict:
    printed, _ = order.communicate(timeout=PATIENCE_SECONDS + 30)
    result = json.loads(printed)
    print("   ", result, flush=True)
    assert result["unanswered"] == 0, "an order was not answered"
    return result


def run(shop: Shop) -> None:
    server = shop.start_server()
    print("1. twenty orders, and nobody to take them")
    early = shop.order(20)
    until(lambda: shop.waiting("cart") == 20 and shop.waiting("product") == 20, "the orders to wait")

    print("2. two versions of the cart come, and the product service")
    shop.python("product.py")
    old = shop.python("cart.py", "cart-1", "1.9.0", "--slow", "0.02")
    shop.python("cart.py", "cart-2", "2.1.0", "--slow", "0.02")
    until(lambda: shop.instances("cart") == ["cart-1", "cart-2"], "the carts to be registered")
    outcome(early)
    assert set(outcome(shop.order(200))["carts"]) == {"cart-1", "cart-2"}, "both carts work"

    print("3. only carts of version 2 may take these")
    assert set(outcome(shop.order(50, "--version", "^2"))["carts"]) == {"cart-2"}

    print("4. a cart is killed while it works")
    during = shop.order(200)
    time.sleep(1.0)
    old.kill()
    outcome(during)
    until(lambda: shop.instances("cart") == ["cart-2"], "the dead cart to be gone")

    print("5. the server is killed while orders wait for version 3")
    waits = shop.order(30, "--version", "^3", "--patience", "1")
    until(lambda: shop.waiting("cart") == 30, "the orders to wait")
    waits.communicate()
    server.kill()
    server.wait()
    shop.start_server()
    assert shop.waiting("cart") == 30, "what was taken is there"
    shop.python("cart.py", "cart-3", "3.0.0")
    until(lambda: shop.waiting("cart") == 0, "the orders to be taken")
    print("all is as promised")


def main() -> None:
    directory = tempfile.mkdtemp(prefix="waypost-shop-")
    shop = Shop(directory)
    try:
        run(shop)
    finally:
        shop.close()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
