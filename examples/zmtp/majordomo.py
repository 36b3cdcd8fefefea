"""Majordomo 0.2: a worker that registers for a service, and a client that sends to it. The worker is an instance of the
service like any other: an AMQP or HTTP client can ask it too, and its heartbeats are its lease.

    waypost serve --zmtp majordomo,front=bind:tcp://127.0.0.1:5563
    majordomo.py tcp://127.0.0.1:5563
"""

import sys
import threading
import time

import zmq

CLIENT, WORKER = b"MDPC02", b"MDPW02"
READY, REQUEST, FINAL, HEARTBEAT, DISCONNECT = b"\x01", b"\x02", b"\x04", b"\x05", b"\x06"
CLIENT_REQUEST, CLIENT_FINAL = b"\x01", b"\x03"
HEARTBEAT_SECONDS = 1.0


def serve(context: zmq.Context, address: str, service: bytes, stop: threading.Event) -> None:
    """Shouts back whatever it is asked."""
    with context.socket(zmq.DEALER) as socket:
        socket.linger = 500
        socket.connect(address)
        socket.send_multipart([WORKER, READY, service])
        beat = time.monotonic()
        while not stop.is_set():
            if socket.poll(100):
                _, command, *rest = socket.recv_multipart()
                if command == REQUEST:
                    client, empty, *body = rest
                    socket.send_multipart([WORKER, FINAL, client, empty, *(part.upper() for part in body)])
            if time.monotonic() - beat > HEARTBEAT_SECONDS:
                socket.send_multipart([WORKER, HEARTBEAT])
                beat = time.monotonic()
        socket.send_multipart([WORKER, DISCONNECT])


def ask(context: zmq.Context, address: str, service: bytes, question: bytes) -> bytes:
    with context.socket(zmq.DEALER) as socket:
        socket.rcvtimeo, socket.linger = 10_000, 0
        socket.connect(address)
        socket.send_multipart([CLIENT, CLIENT_REQUEST, service, question])
        protocol, command, answered, answer = socket.recv_multipart()
        assert (protocol, command, answered) == (CLIENT, CLIENT_FINAL, service)
        return answer


def main(address: str) -> None:
    context, stop = zmq.Context(), threading.Event()
    worker = threading.Thread(target=serve, args=(context, address, b"echo", stop))
    worker.start()
    answer = ask(context, address, b"echo", b"is anybody there?")
    stop.set()
    worker.join()
    context.term()
    print(answer.decode())
    sys.exit(0 if answer == b"IS ANYBODY THERE?" else 1)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["tcp://127.0.0.1:5563"]))
