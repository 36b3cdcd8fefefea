"""The order service: sends work to `cart` and `product` by their names, and collects the answers.

    order.py COUNT [--version RANGE]

It knows no address, no queue and no instance of either; they need not even be there when it begins.
"""

import argparse
import json
import os
import sys
import time

import pika

ANSWERS = "amq.rabbitmq.reply-to"


class Orders:
    """One order is done when its goods are reserved and priced."""

    def __init__(self, channel, cart: str):
        self.channel, self.cart = channel, cart
        self.reserved: dict[int, dict] = {}
        self.priced: dict[int, dict] = {}

    def place(self, number: int) -> None:
        self.ask(self.cart, f"reserve/{number}", {"order": number, "items": number % 3 + 1})
        self.ask("product", f"price/{number}", {"order": number, "sku": f"sku-{number % 5}"})

    def ask(self, service: str, question: str, body: dict) -> None:
        properties = pika.BasicProperties(
            reply_to=ANSWERS, correlation_id=question, delivery_mode=2, content_type="application/json"
        )
        # Confirmed: when this returns, the question is on disk and waits for an instance, should there be none.
        self.channel.basic_publish("services", service, json.dumps(body), properties)

    def answered(self, _channel, _method, properties, body: bytes) -> None:
        kind, number = properties.correlation_id.split("/")
        answers = self.reserved if kind == "reserve" else self.priced
        answers.setdefault(int(number), json.loads(body))

    def open(self, count: int) -> int:
        return 2 * count - len(self.reserved) - len(self.priced)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("count", type=int)
    options.add_argument("--version", help="only carts of this version may take it, for example ^2")
    options.add_argument("--patience", type=float, default=60.0, help="seconds to wait for all answers")
    me = options.parse_args()

    url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    orders = Orders(channel, f"cart?version={me.version}" if me.version else "cart")
    channel.basic_consume(ANSWERS, orders.answered, auto_ack=True)
    for number in range(me.count):
        orders.place(number)
    deadline = time.monotonic() + me.patience
    while orders.open(me.count) and time.monotonic() < deadline:
        connection.process_data_events(time_limit=0.2)
    connection.close()

    by: dict[str, int] = {}
    for answer in orders.reserved.values():
        by[answer["by"]] = by.get(answer["by"], 0) + 1
    print(json.dumps({"orders": me.count, "unanswered": orders.open(me.count), "carts": by}))
    sys.exit(1 if orders.open(me.count) else 0)


if __name__ == "__main__":
    main()
