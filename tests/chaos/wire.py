"""A client that writes many frames at a time, for load; `raw.py` of the interop tests does the handshake."""

from __future__ import annotations

import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "interop"))

import pika.frame  # noqa: E402
import pika.spec as spec  # noqa: E402
from raw import Raw  # noqa: E402

ACK, NACK, DELIVER = (60, 80), (60, 120), (60, 60)


class Broken(Exception):
    """The connection is gone, as it is when the server is killed."""


class Delivery:
    __slots__ = ("tag", "redelivered", "body", "headers")

    def __init__(self, tag: int, redelivered: bool):
        self.tag, self.redelivered, self.body, self.headers = tag, redelivered, b"", b""


def publishes(exchange: str, key: str, bodies: list[bytes], mode: int = 2, channel: int = 1) -> bytes:
    """Frames that publish all these, each with this delivery mode."""
    method = pika.frame.Method(channel, spec.Basic.Publish(exchange=exchange, routing_key=key)).marshal()
    out = []
    for body in bodies:
        header = struct.pack(">HHQHB", 60, 0, len(body), 0x1000, mode)
        out.append(method + struct.pack(">BHI", 2, channel, len(header)) + header + b"\xce")
        for at in range(0, len(body), 131_000):
            part = body[at : at + 131_000]
            out.append(struct.pack(">BHI", 3, channel, len(part)) + part + b"\xce")
    return b"".join(out)


class Client:
    """One connection with one channel. Confirms and deliveries are collected while waiting for anything."""

    def __init__(self, endpoint, timeout: float = 20):
        try:
            self.raw = Raw(endpoint.host, endpoint.port, timeout)
            self.raw.open()
            self.raw.open_channel()
        except (OSError, AssertionError) as error:
            raise Broken(str(error)) from error
        self.published = self.settled = 0
        self.open_deliveries: list[Delivery] = []
        self.nacked = 0
        self.part: Delivery | None = None
        self.missing = 0

    def close(self) -> None:
        self.raw.close()

    def send(self, data: bytes) -> None:
        try:
            self.raw.send(data)
        except OSError as error:
            raise Broken(str(error)) from error

    def call(self, method, reply):
        """A synchronous method on the channel; what else arrives is collected."""
        self.send(pika.frame.Method(1, method).marshal())
        return self.until(lambda got: isinstance(got, reply))

    def until(self, done):
        """Reads until `done` holds of a decoded method, or, called with None after each frame, of anything else."""
        while True:
            kind, payload = self.frame()
            got = self.take(kind, payload)
            if done(got):
                return got

    def frame(self) -> tuple[int, bytes]:
        raw = self.raw
        try:
            while True:
                if len(raw.buffer) >= 7:
                    kind, _, size = struct.unpack_from(">BHI", raw.buffer)
                    if len(raw.buffer) >= size + 8:
                        payload = raw.buffer[7 : 7 + size]
                        raw.buffer = raw.buffer[size + 8 :]
                        return kind, payload
                data = raw.socket.recv(16384)
                if not data:
                    raise Broken("end of stream")
                raw.buffer += data
        except OSError as error:
            raise Broken(str(error)) from error

    def take(self, kind: int, payload: bytes):
        if kind == 2:
            self.part.headers = payload[12:]
            self.missing = struct.unpack_from(">Q", payload, 4)[0]
            return self.finish()
        if kind == 3:
            self.part.body += payload
            self.missing -= len(payload)
            return self.finish()
        if kind == 8:
            return None
        number = struct.unpack_from(">HH", payload)
        if number in (ACK, NACK):
            tag, bits = struct.unpack_from(">QB", payload, 4)
            if number == NACK:
                self.nacked += 1
            assert tag > self.settled or not bits & 1, "a confirm went backwards"
            # Only in order matters here: a run of single confirms counts as well as one with `multiple`.
            self.settled = tag if bits & 1 else self.single(tag)
            return None
        if number == DELIVER:
            at = 5 + payload[4]
            tag, redelivered = struct.unpack_from(">QB", payload, at)
            self.part = Delivery(tag, bool(redelivered))
            return None
        decoded = pika.frame.decode_frame(struct.pack(">BHI", 1, 1, len(payload)) + payload + b"\xce")[1].method
        if isinstance(decoded, (spec.Channel.Close, spec.Connection.Close)):
            if decoded.reply_code == 320:
                raise Broken("the server stops")
            raise AssertionError(f"closed with {decoded.reply_code} {decoded.reply_text}")
        return decoded

    def single(self, tag: int) -> int:
        early = self.__dict__.setdefault("early", set())
        early.add(tag)
        settled = self.settled
        while settled + 1 in early:
            settled += 1
            early.discard(settled)
        return settled

    def finish(self):
        if self.missing == 0:
            self.open_deliveries.append(self.part)
            self.part = None
        return None

    def publish(self, exchange: str, key: str, bodies: list[bytes], mode: int = 2) -> None:
        self.send(publishes(exchange, key, bodies, mode))
        self.published += len(bodies)

    def wait_confirms(self) -> None:
        while self.settled < self.published:
            self.until(lambda _: True)

    def wait_deliveries(self) -> list[Delivery]:
        """At least one."""
        while not self.open_deliveries:
            self.until(lambda _: True)
        got, self.open_deliveries = self.open_deliveries, []
        return got

    def ack(self, tag: int, multiple: bool = True) -> None:
        self.send(struct.pack(">BHIHHQB", 1, 1, 13, 60, 80, tag, int(multiple)) + b"\xce")

    def reject(self, tag: int) -> None:
        self.send(struct.pack(">BHIHHQB", 1, 1, 13, 60, 90, tag, 0) + b"\xce")
