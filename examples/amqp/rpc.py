"""A request and its answer, by direct reply-to: no queue for replies."""

import sys
import threading

import pika
import topology

QUESTIONS, REPLY_TO = "doubling", "amq.rabbitmq.reply-to"


def serve(ready: threading.Event) -> None:
    """Answers one question."""
    with topology.connect() as connection:
        channel = connection.channel()
        channel.queue_declare(QUESTIONS, auto_delete=True)
        ready.set()
        for method, properties, body in channel.consume(QUESTIONS):
            answer = str(int(body) * 2)
            reply = pika.BasicProperties(correlation_id=properties.correlation_id)
            channel.basic_publish("", properties.reply_to, answer, reply)
            channel.basic_ack(method.delivery_tag)
            break
        channel.cancel()


def ask(number: str) -> str:
    with topology.connect() as connection:
        channel, answers = connection.channel(), []
        # The consumer of replies must be there before the question is sent, on the same channel.
        channel.basic_consume(REPLY_TO, lambda _c, _m, _p, body: answers.append(body.decode()), auto_ack=True)
        channel.basic_publish("", QUESTIONS, number, pika.BasicProperties(reply_to=REPLY_TO, correlation_id="1"))
        connection.process_data_events(time_limit=10)
        return answers[0] if answers else "no answer within ten seconds"


def main() -> None:
    ready = threading.Event()
    server = threading.Thread(target=serve, args=(ready,))
    server.start()
    ready.wait(10)
    print(ask(sys.argv[1] if len(sys.argv) > 1 else "21"))
    server.join(10)


if __name__ == "__main__":
    main()
