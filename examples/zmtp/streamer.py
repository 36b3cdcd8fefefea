"""Work for whoever is free: PUSH at one end, PULL at the other, and Waypost as the streamer between them.

    waypost serve --zmtp streamer,front=bind:tcp://127.0.0.1:5557,back=bind:tcp://127.0.0.1:5558
    streamer.py tcp://127.0.0.1:5557 tcp://127.0.0.1:5558

With `queue=NAME` on the device nothing that it has read is lost, not even by `kill -9`.
"""

import sys
import threading

import zmq

COUNT, WORKERS = 1000, 3


def work(context: zmq.Context, address: str, done: list[int], all_done: threading.Event) -> None:
    with context.socket(zmq.PULL) as socket:
        socket.connect(address)
        while not all_done.is_set():
            if socket.poll(100):
                done.append(int(socket.recv()))
                if len(done) == COUNT:
                    all_done.set()


def main(front: str, back: str) -> None:
    context, done, all_done = zmq.Context(), [], threading.Event()
    workers = [threading.Thread(target=work, args=(context, back, done, all_done)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    with context.socket(zmq.PUSH) as socket:
        socket.connect(front)
        for number in range(COUNT):
            socket.send(str(number).encode())
        all_done.wait(20)
        all_done.set()
    for worker in workers:
        worker.join()
    context.term()
    print(f"{len(done)} done by {WORKERS} workers")
    sys.exit(0 if sorted(done) == list(range(COUNT)) else 1)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["tcp://127.0.0.1:5557", "tcp://127.0.0.1:5558"]))
