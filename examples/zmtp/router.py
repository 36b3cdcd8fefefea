"""Questions to whoever is there: REQ at one end, REP at the other, and Waypost as the router between them.

    waypost serve --zmtp router,front=bind:tcp://127.0.0.1:5561,back=bind:tcp://127.0.0.1:5562
    router.py tcp://127.0.0.1:5561 tcp://127.0.0.1:5562
"""

import sys
import threading

import zmq

QUESTIONS = 100


def serve(context: zmq.Context, address: str, stop: threading.Event) -> None:
    with context.socket(zmq.REP) as socket:
        socket.connect(address)
        while not stop.is_set():
            if socket.poll(100):
                socket.send(str(int(socket.recv()) * 2).encode())


def main(front: str, back: str) -> None:
    context, stop = zmq.Context(), threading.Event()
    servers = [threading.Thread(target=serve, args=(context, back, stop)) for _ in range(2)]
    for server in servers:
        server.start()
    answers = []
    with context.socket(zmq.REQ) as socket:
        socket.rcvtimeo, socket.linger = 5000, 0
        socket.connect(front)
        for number in range(QUESTIONS):
            socket.send(str(number).encode())
            answers.append(int(socket.recv()))
    stop.set()
    for server in servers:
        server.join()
    context.term()
    print(f"{len(answers)} answers, the last one {answers[-1]}")
    sys.exit(0 if answers == [number * 2 for number in range(QUESTIONS)] else 1)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["tcp://127.0.0.1:5561", "tcp://127.0.0.1:5562"]))
