"""The cart service: an unmodified pika client that says who it is when it consumes.

    cart.py ID VERSION [--slow SECONDS]

Kill it whenever you like: what it had not acknowledged goes to another instance, flagged as redelivered.
"""

import argparse
import json
import os
import time

import pika
import pika.exceptions


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("id")
    options.add_argument("version")
    options.add_argument("--slow", type=float, default=0.0, help="seconds of work per message")
    me = options.parse_args()

    while True:
        try:
            serve(me)
        except KeyboardInterrupt:
            return
        except pika.exceptions.AMQPConnectionError:
            time.sleep(0.5)


def serve(me: argparse.Namespace) -> None:
    """Serves until the connection ends; whoever calls it tries again, and is the same instance as before."""
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=10)

    def reserve(ch, method, properties, body: bytes) -> None:
        order = json.loads(body)
        time.sleep(me.slow)
        answer = {"order": order["order"], "reserved": order["items"], "by": me.id, "version": me.version}
        if properties.reply_to:
            reply = pika.BasicProperties(correlation_id=properties.correlation_id, content_type="application/json")
            ch.basic_publish("", properties.reply_to, json.dumps(answer), reply)
        # Only now: an instance that dies before this line has not done the work.
        ch.basic_ack(method.delivery_tag)

    who = {"id": me.id, "version": me.version, "tags": "python,pika", "zone": "eu-1"}
    channel.queue_declare("cart-queue", durable=True)
    channel.basic_consume("cart-queue", reserve, arguments={"x-service": who})
    print(f"{me.id} {me.version} serves", flush=True)
    channel.start_consuming()


if __name__ == "__main__":
    main()
