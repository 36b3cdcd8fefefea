"""What the ZeroMQ tests share: servers with devices, sockets that close themselves, keys in files."""

from __future__ import annotations

import json
import pathlib
import re
import socket
import urllib.request

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from broker import Waypost

WAIT_MS = 10_000
LOCAL = "tcp://127.0.0.1:0"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Peers:
    """Stock sockets of one context; each waits for at most WAIT_MS, and lingers for nothing when closed."""

    def __init__(self):
        self.context = zmq.Context()
        # libzmq takes PLAIN clients only through ZAP.
        self.authenticator = ThreadAuthenticator(self.context)
        self.authenticator.start()
        self.authenticator.configure_plain(domain="*", passwords={"ann": "secret"})
        self.authenticator.configure_curve(domain="*", location=zmq.auth.CURVE_ALLOW_ANY)

    def socket(self, kind: int, **options) -> zmq.Socket:
        one = self.context.socket(kind)
        one.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        one.setsockopt(zmq.SNDTIMEO, WAIT_MS)
        one.setsockopt(zmq.LINGER, 0)
        one.setsockopt(zmq.RECONNECT_IVL, 20)
        for name, value in options.items():
            one.setsockopt(getattr(zmq, name.upper()), value)
        return one

    def connect(self, kind: int, endpoint: str, **options) -> zmq.Socket:
        one = self.socket(kind, **options)
        one.connect(endpoint)
        return one

    def bind(self, kind: int, endpoint: str, **options) -> zmq.Socket:
        one = self.socket(kind, **options)
        one.bind(endpoint)
        return one

    def close(self) -> None:
        self.authenticator.stop()
        self.context.destroy(linger=0)


def device(server, text: str) -> tuple[Waypost, list[str]]:
    """A started server with this device, and where the device listens. `server` is the fixture."""
    one = server("--zmtp", text)
    one.start()
    return one, endpoints(one)


def endpoints(server: Waypost) -> list[str]:
    """Where the server's devices listen: fronts and backs in order of declaration."""
    return json.loads((server.data / "listeners.json").read_text()).get("zmtp", [])


def figure(server: Waypost, name: str) -> int:
    """A counter of the devices. It is told at the end of a turn, behind what the turn sent: ask again if need be."""
    with urllib.request.urlopen(f"{server.http}/metrics", timeout=10) as page:
        found = re.findall(rf"^waypost_zmtp_{name}{{[^}}]*}} (\d+)$", page.read().decode(), re.M)
    return sum(map(int, found))


class Keys:
    """CURVE keys and PLAIN passwords, for the server in files."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.server_public, self.server_secret = zmq.curve_keypair()
        self.client_public, self.client_secret = zmq.curve_keypair()

    def file(self, name: str, text: str) -> pathlib.Path:
        path = self.folder / name
        path.write_text(text + "\n")
        return path

    def device(self, mechanism: str, role: str) -> str:
        """Options of a device whose peers use the mechanism; `role` is the device's."""
        if mechanism == "null":
            return ""
        if mechanism == "plain":
            path = self.file("plain", "ann:secret")
            return f",plain-users={path}" if role == "server" else f",plain-login={path}"
        if role == "server":
            secret = self.file("secret", self.server_secret.decode())
            return f",curve-secret={secret},curve-clients={self.file('clients', self.client_public.decode())}"
        secret = self.file("client-secret", self.client_secret.decode())
        return f",curve-secret={secret},curve-server={self.server_public.decode()}"

    def peer(self, mechanism: str, role: str) -> dict:
        """Options of a stock socket; `role` is the socket's."""
        if mechanism == "null":
            return {}
        if mechanism == "plain":
            return {"plain_server": 1} if role == "server" else {"plain_username": b"ann", "plain_password": b"secret"}
        if role == "server":
            return {"curve_server": 1, "curve_secretkey": self.server_secret, "curve_publickey": self.server_public}
        return {
            "curve_serverkey": self.server_public,
            "curve_secretkey": self.client_secret,
            "curve_publickey": self.client_public,
        }
