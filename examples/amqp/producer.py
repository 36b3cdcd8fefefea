"""Publishes orders; each is on disk when it is reported."""

import json
import sys

import pika
import topology


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with topology.connect() as connection:
        channel = connection.channel()
        topology.declare(channel)
        channel.confirm_delivery()
        properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        for number in range(1, count + 1):
            body = json.dumps({"order": number, "items": number % 3 + 1})
            channel.basic_publish("", topology.QUEUE, body, properties, mandatory=True)
            print(f"order {number} is confirmed")


if __name__ == "__main__":
    main()
