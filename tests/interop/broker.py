"""The broker under test: our own binary, or an external one named by INTEROP_AMQP_URL."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse

import pika

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_SECONDS = 20
STOP_SECONDS = 20
ANY_PORT = "127.0.0.1:0"


class Endpoint:
    """Where a broker listens, and how to make connection parameters for it."""

    def __init__(self, host: str, port: int, user: str = "guest", password: str = "guest", vhost: str = "/"):
        self.host, self.port, self.user, self.password, self.vhost = host, port, user, password, vhost

    @classmethod
    def from_url(cls, url: str) -> "Endpoint":
        parts = urllib.parse.urlsplit(url)
        vhost = urllib.parse.unquote(parts.path[1:]) or "/"
        return cls(parts.hostname, parts.port or 5672, parts.username or "guest", parts.password or "guest", vhost)

    def params(self, **options) -> pika.ConnectionParameters:
        user = options.pop("user", self.user)
        password = options.pop("password", self.password)
        options.setdefault("virtual_host", self.vhost)
        options.setdefault("socket_timeout", 10)
        options.setdefault("blocked_connection_timeout", 30)
        return pika.ConnectionParameters(
            self.host, self.port, credentials=pika.PlainCredentials(user, password), **options
        )

    def url(self, vhost: str | None = None) -> str:
        vhost = urllib.parse.quote(self.vhost if vhost is None else vhost, safe="")
        return f"amqp://{self.user}:{self.password}@{self.host}:{self.port}/{vhost}"


def waypost_binary() -> pathlib.Path:
    """The binary of WAYPOST_BIN, or the newest one that cargo has built."""
    if named := os.environ.get("WAYPOST_BIN"):
        return pathlib.Path(named)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [p for p in (target / kind / "waypost" for kind in ("release", "debug")) if p.is_file()]
    if not built:
        raise RuntimeError(f"no waypost binary under {target}: run `cargo build -p waypost`, or set WAYPOST_BIN")
    return max(built, key=lambda p: p.stat().st_mtime)


class Waypost:
    """A server process of ours, in a data directory of its own."""

    def __init__(self, *flags: str, config: str | None = None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="waypost-interop-"))
        self.data = self.dir / "data"
        self.log = self.dir / "log"
        self.flags = list(flags)
        if config is not None:
            path = self.dir / "waypost.toml"
            path.write_text(config)
            self.flags += ["--config", str(path)]
        self.process: subprocess.Popen | None = None
        self.endpoint: Endpoint | None = None
        self.http: str | None = None
        self.dns: str | None = None
        self.kafka: str | None = None

    @classmethod
    @contextlib.contextmanager
    def running(cls, *flags: str, config: str | None = None):
        """A server that many tests share: started, and expected to be well until the end, and to end in order."""
        server = cls(*flags, config=config)
        try:
            server.start()
            yield server
            assert server.alive(), f"the server died during the tests:\n{server.tail()}"
            assert "panicked" not in server.said(), server.tail()
            assert server.stop() == 0, server.tail()
        finally:
            server.remove()

    def start(self) -> Endpoint:
        listeners = self.data / "listeners.json"
        listeners.unlink(missing_ok=True)
        # The same ports again after a restart, as clients that reconnect expect.
        port = self.endpoint.port if self.endpoint else 0
        command = [str(waypost_binary()), "serve", "--data-dir", str(self.data)]
        command += ["--amqp", f"127.0.0.1:{port}", "--http", ANY_PORT, "--dns", ANY_PORT]
        flags = [self.kafka if flag == ANY_PORT and self.kafka else flag for flag in self.flags]
        command += [*(() if "--kafka" in flags else ("--kafka", "off")), *flags]
        # Many servers run at once: none needs the room that a real one sets aside.
        environment = {"WAYPOST__DISK__SEGMENT_BYTES": "16MiB", **os.environ}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.tail()}")
            try:
                addresses = json.loads(listeners.read_text())
                break
            except (FileNotFoundError, json.JSONDecodeError):
                pass
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server was not ready in {START_SECONDS} s:\n{self.tail()}")
            time.sleep(0.005)
        host, port = addresses["amqp"][0].rsplit(":", 1)
        self.endpoint = Endpoint(host, int(port))
        self.http = "http://" + addresses["http"][0]
        self.dns = addresses.get("dns", [None])[0]
        self.kafka = addresses.get("kafka", [None])[0]
        return self.endpoint

    def stop(self) -> int:
        """Ends the server as an operator would, by SIGTERM; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the server did not end within {STOP_SECONDS} s of SIGTERM:\n{self.tail()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self) -> str:
        return self.said()[-4000:]

    def cli(self, *arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
        """Runs one of our own subcommands against this server."""
        command = [str(waypost_binary()), *arguments]
        environment = os.environ | {"WAYPOST_HTTP": self.http}
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, **options)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done

    def remove(self) -> None:
        if self.alive():
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
