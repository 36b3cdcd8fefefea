"""News for whoever wants them: publishers and subscribers that know only Waypost, the forwarder between them.

    waypost serve --zmtp forwarder,front=bind:tcp://127.0.0.1:5559,back=bind:tcp://127.0.0.1:5560
    forwarder.py tcp://127.0.0.1:5559 tcp://127.0.0.1:5560

With `exchange=NAME` on the device an AMQP queue that is bound to that exchange hears the same news.
"""

import sys
import time

import zmq


def main(front: str, back: str) -> None:
    context = zmq.Context()
    publisher, sports, weather = context.socket(zmq.PUB), context.socket(zmq.SUB), context.socket(zmq.SUB)
    publisher.connect(front)
    for subscriber, topic in ((sports, b"sports."), (weather, b"weather.")):
        subscriber.connect(back)
        subscriber.subscribe(topic)
        subscriber.rcvtimeo = 5000
    heard = {}
    # A subscription takes its way through the device before the publisher knows of it: until then news are dropped.
    deadline = time.monotonic() + 10
    while len(heard) < 2 and time.monotonic() < deadline:
        publisher.send_multipart([b"sports.tennis", b"6:4 6:3"])
        publisher.send_multipart([b"weather.rain", b"none"])
        publisher.send_multipart([b"traffic.jam", b"nobody asked"])
        for name, subscriber in (("sports", sports), ("weather", weather)):
            if subscriber.poll(100):
                heard[name] = subscriber.recv_multipart()
    print(heard)
    for socket in (publisher, sports, weather):
        socket.close(linger=0)
    context.term()
    wanted = {"sports": [b"sports.tennis", b"6:4 6:3"], "weather": [b"weather.rain", b"none"]}
    sys.exit(0 if heard == wanted else 1)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["tcp://127.0.0.1:5559", "tcp://127.0.0.1:5560"]))
