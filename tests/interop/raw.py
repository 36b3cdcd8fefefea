"""A connection whose frames the test writes and reads itself, for what client libraries hide or prevent."""

from __future__ import annotations

import socket
import struct
import time

import pika.frame
import pika.spec

HEADER = b"AMQP\x00\x00\x09\x01"
FRAME_END = b"\xce"


class Raw:
    def __init__(self, host: str, port: int, timeout: float = 5):
        self.socket = socket.create_connection((host, port), timeout)
        self.buffer = b""

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_method(self, method, channel: int = 0) -> None:
        self.send(pika.frame.Method(channel, method).marshal())

    def send_frame(self, kind: int, channel: int, payload: bytes, end: bytes = FRAME_END) -> None:
        self.send(struct.pack(">BHI", kind, channel, len(payload)) + payload + end)

    def publish(self, channel: int, exchange: str, key: str, body: bytes, properties=None, size: int | None = None) -> None:
        """Method, header and body frames; `size` claims another size than the body has."""
        self.send_method(pika.spec.Basic.Publish(exchange=exchange, routing_key=key), channel)
        size = len(body) if size is None else size
        self.send(pika.frame.Header(channel, size, properties or pika.spec.BasicProperties()).marshal())
        if body:
            self.send_frame(3, channel, body)

    def read_frame(self):
        """The next frame; None when the peer has closed."""
        while True:
            consumed, frame = pika.frame.decode_frame(self.buffer)
            if frame is not None:
                self.buffer = self.buffer[consumed:]
                return frame
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.buffer += data

    def expect(self, kind):
        """The next method, which must be of this kind; heartbeats are passed over."""
        frame = self.read_frame()
        while isinstance(frame, pika.frame.Heartbeat):
            frame = self.read_frame()
        assert frame is not None, f"closed instead of {kind.NAME}"
        assert isinstance(getattr(frame, "method", None), kind), f"{frame} instead of {kind.NAME}"
        return frame.method

    def read_all(self, seconds: float = 5) -> bytes:
        """What comes until the peer closes."""
        deadline, data = time.monotonic() + seconds, self.buffer
        while time.monotonic() < deadline:
            try:
                part = self.socket.recv(65536)
            except ConnectionResetError:
                return data
            if not part:
                return data
            data += part
        raise AssertionError(f"not closed within {seconds} s; it sent {data!r}")

    def start(self):
        """Protocol header sent, start received."""
        self.send(HEADER)
        return self.expect(pika.spec.Connection.Start)

    def log_in(self, user="guest", password="guest", mechanism="PLAIN", response=None, properties=None) -> None:
        if response is None:
            response = f"\0{user}\0{password}"
        self.send_method(
            pika.spec.Connection.StartOk(properties or {}, mechanism=mechanism, response=response, locale="en_US")
        )

    def open(self, vhost="/", channel_max=2047, frame_max=131072, heartbeat=0, properties=None):
        """A whole handshake; the server's tune."""
        self.start()
        self.log_in(properties=properties)
        tune = self.expect(pika.spec.Connection.Tune)
        self.send_method(pika.spec.Connection.TuneOk(channel_max, frame_max, heartbeat))
        self.send_method(pika.spec.Connection.Open(vhost))
        self.expect(pika.spec.Connection.OpenOk)
        return tune

    def open_channel(self, number: int = 1) -> None:
        self.send_method(pika.spec.Channel.Open(), number)
        self.expect(pika.spec.Channel.OpenOk)

    def refused_with(self, code: int) -> None:
        """As `closed_with`, or closed without a word: before connection.open-ok both are common."""
        frame = self.read_frame()
        if frame is not None:
            assert isinstance(frame.method, pika.spec.Connection.Close), frame
            assert frame.method.reply_code == code, (frame.method.reply_code, frame.method.reply_text)

    def closed_with(self, code: int, text: str = "") -> None:
        """connection.close with this code, a text that contains this; answered, then the end of the stream."""
        close = self.expect(pika.spec.Connection.Close)
        assert close.reply_code == code and text in close.reply_text, (close.reply_code, close.reply_text)
        self.send_method(pika.spec.Connection.CloseOk())
        assert self.read_frame() is None
