"""Takes orders until it is interrupted, or as many as its argument says."""

import json
import sys

import topology


def main() -> None:
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else None
    with topology.connect() as connection:
        channel = connection.channel()
        topology.declare(channel)
        channel.basic_qos(prefetch_count=10)
        done = 0
        for method, _, body in channel.consume(topology.QUEUE):
            try:
                order = json.loads(body)
                print(f"order {order['order']}: {order['items']} items", "(again)" if method.redelivered else "", flush=True)
                channel.basic_ack(method.delivery_tag)
            except (ValueError, KeyError, TypeError):
                channel.basic_reject(method.delivery_tag, requeue=False)
            done += 1
            if done == limit:
                break
        channel.cancel()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
