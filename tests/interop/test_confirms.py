"""Publisher confirms, returns, and transactions."""

import pika
import pytest

from support import bodies, closes_channel, eventually, get, is_empty, props, publish, ready, sync


class Confirms:
    """A channel in confirm mode whose acks, nacks and returns are kept in the order of their arrival."""

    def __init__(self, channel):
        self.channel, self.events = channel, []
        impl = channel._impl
        impl.callbacks.add(impl.channel_number, pika.spec.Basic.Ack, self._ack, one_shot=False)
        impl.callbacks.add(impl.channel_number, pika.spec.Basic.Nack, self._nack, one_shot=False)
        impl.add_on_return_callback(self._return)
        impl._send_method(pika.spec.Confirm.Select())
        sync(channel)

    def _ack(self, frame):
        self.events.append(("ack", frame.method.delivery_tag, frame.method.multiple))

    def _nack(self, frame):
        self.events.append(("nack", frame.method.delivery_tag, frame.method.multiple))

    def _return(self, _channel, method, _properties, body):
        self.events.append(("return", method.reply_code, method.reply_text, method.exchange, method.routing_key, body))

    def outcome(self, count: int) -> dict[int, str]:
        """What became of each of the first `count` messages, when all are known; none may be told twice."""

        def all_known():
            self.channel.connection.process_data_events(0.02)
            known, last = {}, 0
            for event in self.events:
                if event[0] == "return":
                    continue
                kind, tag, multiple = event
                told = [n for n in range(1, tag) if n not in known] + [tag] if multiple else [tag]
                for n in told:
                    assert n not in known, f"message {n} was confirmed twice"
                    known[n] = kind
                last = max(last, tag)
            assert last <= count
            return known if len(known) == count else None

        return eventually(all_known, 10)


def test_each_message_is_confirmed_once(ch, queue):
    q = queue()
    confirms = Confirms(ch)
    publish(ch, q, *range(1000), delivery_mode=2)
    assert set(confirms.outcome(1000).values()) == {"ack"}
    assert ready(ch, q) == 1000


def test_transient_and_unroutable_are_confirmed(ch, queue):
    confirms = Confirms(ch)
    publish(ch, queue(), 1, delivery_mode=1)
    publish(ch, "nobody-has-this-name", 2)
    ch.basic_publish("amq.fanout", "", b"3")
    assert confirms.outcome(3) == {1: "ack", 2: "ack", 3: "ack"}


def test_numbers_start_after_select(ch, queue):
    q = queue()
    publish(ch, q, "before")
    confirms = Confirms(ch)
    publish(ch, q, "after")
    assert confirms.outcome(1) == {1: "ack"}


def test_select_twice_goes_on_counting(ch, queue):
    q, confirms = queue(), Confirms(ch)
    publish(ch, q, 1)
    confirms.outcome(1)
    ch._impl._send_method(pika.spec.Confirm.Select())
    publish(ch, q, 2)
    assert confirms.outcome(2) == {1: "ack", 2: "ack"}


def test_overflow_nacks(ch, queue):
    q = queue({"x-max-length": 5, "x-overflow": "reject-publish"})
    confirms = Confirms(ch)
    publish(ch, q, *range(10), delivery_mode=2)
    outcome = confirms.outcome(10)
    assert [outcome[n] for n in range(1, 11)] == ["ack"] * 5 + ["nack"] * 5
    assert bodies(ch, q, 5) == [b"0", b"1", b"2", b"3", b"4"]


def test_return_comes_before_the_ack(ch):
    confirms = Confirms(ch)
    ch.basic_publish("amq.direct", "nowhere", b"back", mandatory=True)
    confirms.outcome(1)
    assert [e[0] for e in confirms.events] == ["return", "ack"]
    assert confirms.events[0] == ("return", 312, "NO_ROUTE", "amq.direct", "nowhere", b"back")


def test_returns_keep_order_and_properties(ch, queue):
    returned = []
    ch.add_on_return_callback(lambda _c, m, p, b: returned.append((m.routing_key, p.headers, p.message_id, b)))
    q = queue()
    for n in range(20):
        ch.basic_publish("", q if n % 2 else f"nowhere-{n}", str(n).encode(), props(headers={"n": n}, message_id=str(n)), mandatory=True)
    eventually(lambda: ch.connection.process_data_events(0.02) or len(returned) == 10)
    assert returned == [(f"nowhere-{n}", {"n": n}, str(n), str(n).encode()) for n in range(0, 20, 2)]
    assert ready(ch, q) == 10


def test_mandatory_with_a_route_is_not_returned(ch, queue):
    q = queue()
    ch.confirm_delivery()
    ch.basic_publish("", q, b"x", mandatory=True)
    assert bodies(ch, q, 1) == [b"x"]


def test_mandatory_by_an_alternate_exchange_is_not_returned(ch, exchange, queue):
    alternate, q = exchange("fanout", suffix="alt"), queue()
    x = exchange("direct", arguments={"alternate-exchange": alternate}, suffix="x")
    ch.queue_bind(q, alternate)
    ch.confirm_delivery()
    ch.basic_publish(x, "nowhere", b"x", mandatory=True)
    assert bodies(ch, q, 1) == [b"x"]


def test_blocking_confirms_raise_unroutable(ch):
    ch.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError) as caught:
        ch.basic_publish("", "nowhere", b"x" * 200_000, mandatory=True)
    (message,) = caught.value.messages
    assert message.body == b"x" * 200_000


def test_confirms_of_several_channels_are_separate(connection, queue):
    q = queue()
    one, two = Confirms(connection.channel()), Confirms(connection.channel())
    publish(one.channel, q, 1, 2, delivery_mode=2)
    publish(two.channel, q, 3, delivery_mode=2)
    assert one.outcome(2) == {1: "ack", 2: "ack"}
    assert two.outcome(1) == {1: "ack"}


def test_confirm_and_tx_exclude_each_other(connection):
    one = connection.channel()
    one.confirm_delivery()
    with closes_channel(406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode"):
        one.tx_select()
    two = connection.channel()
    two.tx_select()
    with closes_channel(406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode"):
        two.confirm_delivery()


@pytest.mark.parametrize("act", ["tx_commit", "tx_rollback"])
def test_tx_needs_select(ch, act):
    with closes_channel(406, "PRECONDITION_FAILED - channel is not transactional"):
        getattr(ch, act)()


def test_tx_publishes_on_commit(ch, connection, queue):
    q, other = queue(), connection.channel()
    ch.tx_select()
    publish(ch, q, *range(3), delivery_mode=2)
    sync(ch)
    assert ready(other, q) == 0
    ch.tx_commit()
    assert bodies(other, q, 3) == [b"0", b"1", b"2"]


def test_tx_rollback_forgets(ch, connection, queue):
    q, other = queue(), connection.channel()
    ch.tx_select()
    publish(ch, q, 1)
    ch.tx_rollback()
    ch.tx_commit()
    assert is_empty(other, q)


def test_tx_acks_on_commit(ch, connect, queue):
    q = queue()
    publish(ch, q, 1, 2)
    other = connect()
    channel = other.channel()
    channel.tx_select()
    tags = [get(channel, q, auto_ack=False)[0].delivery_tag for _ in range(2)]
    channel.basic_ack(tags[0])
    channel.tx_commit()
    channel.basic_ack(tags[1])
    other.close()
    eventually(lambda: ready(ch, q) == 1)
    assert bodies(ch, q, 1) == [b"2"]


def test_tx_rollback_of_an_ack_leaves_it_unsettled(ch, queue):
    q = queue()
    publish(ch, q, 1)
    ch.tx_select()
    tag = get(ch, q, auto_ack=False)[0].delivery_tag
    ch.basic_ack(tag)
    ch.tx_rollback()
    ch.basic_ack(tag)
    ch.tx_commit()
    assert is_empty(ch, q)


def test_tx_nack_requeues_on_commit(ch, connection, queue):
    q, other = queue(), connection.channel()
    publish(ch, q, 1)
    ch.tx_select()
    tag = get(ch, q, auto_ack=False)[0].delivery_tag
    ch.basic_nack(tag, requeue=True)
    sync(ch)
    assert ready(other, q) == 0
    ch.tx_commit()
    assert bodies(other, q, 1) == [b"1"]


def test_tx_over_several_queues(ch, connection, exchange, queue):
    x, queues, other = exchange("fanout"), [queue() for _ in range(5)], connection.channel()
    for q in queues:
        ch.queue_bind(q, x)
    ch.tx_select()
    for n in range(10):
        ch.basic_publish(x, "", str(n).encode(), props(delivery_mode=2))
    ch.tx_commit()
    for q in queues:
        assert bodies(other, q, 10) == [str(n).encode() for n in range(10)]


def test_tx_returns_come_before_commit_ok(ch):
    returned = []
    ch.add_on_return_callback(lambda _c, m, _p, b: returned.append((m.reply_code, b)))
    ch.tx_select()
    ch.basic_publish("", "nowhere", b"x", mandatory=True)
    ch.tx_commit()
    ch.connection.process_data_events(0)
    assert returned == [(312, b"x")]


def test_tx_publish_to_absent_exchange_closes_at_once(ch):
    ch.tx_select()
    with closes_channel(404, "NOT_FOUND - no exchange 'absent-one'"):
        ch.basic_publish("absent-one", "", b"x")
        ch.tx_commit()
