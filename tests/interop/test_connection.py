"""The handshake, its failures, tuning, heartbeats, channels, and errors that end the connection."""

import socket
import struct
import time

import pika
import pika.spec
import pytest

from raw import HEADER, Raw
from support import eventually, publish, sync

spec = pika.spec


@pytest.fixture
def raw(broker):
    """Makes raw connections that are closed at the end."""
    opened = []

    def make() -> Raw:
        opened.append(Raw(broker.endpoint.host, broker.endpoint.port))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def test_server_properties(raw):
    start = raw().start()
    assert (start.version_major, start.version_minor) == (0, 9)
    assert {b"PLAIN", b"AMQPLAIN"} <= set(start.mechanisms.split())
    assert b"en_US" in start.locales.split()
    properties = start.server_properties
    for key in ["product", "version", "platform", "copyright", "information", "cluster_name"]:
        assert isinstance(properties[key], str) and properties[key], key
    expected = {
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    }
    assert expected <= {key for key, value in properties["capabilities"].items() if value is True}


def test_tune(raw):
    tune = raw().open()
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (2047, 131072, 60)


@pytest.mark.parametrize("header", [b"AMQP\x00\x01\x00\x00", b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x00\x00\x08\x00"])
def test_wrong_protocol_header(raw, header):
    one = raw()
    one.send(header)
    assert one.read_all() == HEADER


@pytest.mark.parametrize("mechanism", ["PLAIN", "AMQPLAIN"])
def test_mechanisms(raw, mechanism):
    one = raw()
    one.start()
    table = b"\x05LOGINS\x00\x00\x00\x05guest\x08PASSWORDS\x00\x00\x00\x05guest"
    one.log_in(mechanism=mechanism, response=table.decode() if mechanism == "AMQPLAIN" else None)
    one.expect(spec.Connection.Tune)


def test_bad_password_without_the_capability_closes_the_socket(raw):
    one = raw()
    one.start()
    one.log_in(password="wrong")
    assert one.read_all() == b""


def test_bad_password_with_the_capability(raw):
    one = raw()
    one.start()
    one.log_in(password="wrong", properties={"capabilities": {"authentication_failure_close": True}})
    close = one.expect(spec.Connection.Close)
    assert close.reply_code == 403
    assert close.reply_text.startswith("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.")


@pytest.mark.parametrize("credentials", [{"password": "wrong"}, {"user": "nobody"}, {"password": ""}])
def test_pika_sees_an_authentication_error(connect, credentials):
    with pytest.raises(pika.exceptions.ProbableAuthenticationError) as caught:
        connect(**credentials)
    assert "ACCESS_REFUSED" in str(caught.value)


def test_unknown_mechanism(raw):
    one = raw()
    one.start()
    one.log_in(mechanism="NONSENSE", properties={"capabilities": {"authentication_failure_close": True}})
    one.refused_with(503)


def test_absent_vhost(connect):
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError, match="\\(530\\) 'NOT_ALLOWED - vhost nowhere not found'"):
        connect(virtual_host="nowhere")


def test_vhost_without_permission(broker, connect, name):
    user = name("user")
    broker.admin.add_user(user, "secret")
    try:
        text = f"NOT_ALLOWED - access to vhost '/' refused for user '{user}'"
        with pytest.raises(pika.exceptions.ProbableAccessDeniedError, match=text):
            connect(user=user, password="secret")
    finally:
        broker.admin.delete_user(user)


def test_another_vhost_is_another_world(broker, connect, ch, queue, name):
    q, vhost = queue(), name("vhost")
    broker.admin.add_vhost(vhost)
    try:
        channel = connect(virtual_host=vhost).channel()
        channel.exchange_declare("amq.topic", passive=True)
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
            channel.queue_declare(q, passive=True)
        assert caught.value.args == (404, f"NOT_FOUND - no queue '{q}' in vhost '{vhost}'")
    finally:
        broker.admin.delete_vhost(vhost)


def test_deleting_a_vhost_closes_its_connections(broker, connect, name):
    vhost = name("vhost")
    broker.admin.add_vhost(vhost)
    connection = connect(virtual_host=vhost)
    broker.admin.delete_vhost(vhost)

    def closed():
        try:
            connection.process_data_events(0.05)
        except pika.exceptions.ConnectionClosedByBroker as error:
            assert error.reply_code == 320, error
            return True

    eventually(closed)


@pytest.mark.parametrize("frame_max", [8192, 16384, 131072])
def test_small_frames(connect, queue, frame_max):
    channel, q = connect(frame_max=frame_max).channel(), queue()
    for size in [0, 1, frame_max - 8, frame_max - 7, 10 * frame_max + 1]:
        body = bytes(n % 251 for n in range(size))
        channel.basic_publish("", q, body)
        got = None
        while got is None:
            got = channel.basic_get(q, auto_ack=True)[2]
        assert got == body


def test_frames_are_cut_as_agreed(raw, queue, ch):
    """No frame of the server is larger than the frame_max that the client named."""
    q = queue()
    publish(ch, q, b"x" * 50_000)
    sync(ch)
    one = raw()
    one.open(frame_max=8192)
    one.open_channel()
    one.send_method(spec.Basic.Get(queue=q, no_ack=True), 1)
    one.expect(spec.Basic.GetOk)
    header, got = one.read_frame(), b""
    assert header.body_size == 50_000
    while len(got) < 50_000:
        fragment = one.read_frame().fragment
        assert len(fragment) <= 8192 - 8
        got += fragment


def test_frame_larger_than_agreed(raw):
    one = raw()
    one.open(frame_max=8192)
    one.open_channel()
    one.send_method(spec.Basic.Publish(exchange="", routing_key="x"), 1)
    one.send(pika.frame.Header(1, 20_000, spec.BasicProperties()).marshal())
    one.send_frame(3, 1, b"x" * 20_000)
    one.closed_with(501, "FRAME_ERROR")


def test_frame_max_below_the_minimum(raw):
    """AMQP 0-9-1 has a frame-min-size of 4096."""
    one = raw()
    one.start()
    one.log_in()
    one.expect(spec.Connection.Tune)
    one.send_method(spec.Connection.TuneOk(2047, 1024, 0))
    one.send_method(spec.Connection.Open("/"))
    one.refused_with(530)


@pytest.mark.parametrize(("field", "value"), [("channel_max", 2048), ("frame_max", 131073)])
def test_tune_above_what_was_offered(raw, field, value):
    one = raw()
    one.start()
    one.log_in()
    one.expect(spec.Connection.Tune)
    agreed = {"channel_max": 2047, "frame_max": 131072} | {field: value}
    one.send_method(spec.Connection.TuneOk(agreed["channel_max"], agreed["frame_max"], 0))
    one.send_method(spec.Connection.Open("/"))
    one.refused_with(530)


def test_channel_max(raw):
    one = raw()
    one.open(channel_max=3)
    for number in [1, 2, 3]:
        one.open_channel(number)
    one.send_method(spec.Channel.Open(), 4)
    close = one.expect(spec.Connection.Close)
    assert close.reply_code in (504, 530), close.reply_text


def test_many_channels(connection, queue):
    q = queue()
    channels = [connection.channel() for _ in range(200)]
    for number, channel in enumerate(channels):
        publish(channel, q, number)
    sync(channels[-1])
    for channel in channels:
        channel.close()
    assert connection.channel().queue_declare(q, passive=True).method.message_count == 200


def test_channel_numbers_are_free_again(connection):
    for _ in range(3000):
        connection.channel().close()


def test_channel_opened_twice(raw):
    one = raw()
    one.open()
    one.open_channel()
    one.send_method(spec.Channel.Open(), 1)
    one.closed_with(504, "CHANNEL_ERROR - second 'channel.open' seen")


def test_method_on_a_channel_that_is_not_open(raw):
    one = raw()
    one.open()
    one.send_method(spec.Queue.Declare(queue="x"), 7)
    one.closed_with(504, "CHANNEL_ERROR - expected 'channel.open'")


def test_channel_close_is_answered_and_then_silent(raw, queue):
    """After its channel.close the server passes over everything until the close-ok, and then the number is free."""
    one = raw()
    one.open()
    one.open_channel()
    one.send_method(spec.Queue.Declare(queue="absent-one", passive=True), 1)
    assert one.expect(spec.Channel.Close).reply_code == 404
    one.send_method(spec.Queue.Declare(queue="also-absent", passive=True), 1)
    one.publish(1, "absent-exchange", "x", b"passed over")
    one.send_method(spec.Channel.CloseOk(), 1)
    one.open_channel()
    one.send_method(spec.Basic.Qos(prefetch_count=1), 1)
    one.expect(spec.Basic.QosOk)


def test_close_right_behind_what_is_refused(raw):
    one = raw()
    one.open()
    one.open_channel()
    data = pika.frame.Method(1, pika.spec.Basic.Publish(exchange="absent-one", routing_key="k")).marshal()
    data += pika.frame.Header(1, 1, pika.spec.BasicProperties()).marshal() + struct.pack(">BHI", 3, 1, 1) + b"x\xce"
    data += pika.frame.Method(1, pika.spec.Basic.Qos(prefetch_count=1)).marshal()
    one.send(data + pika.frame.Method(1, pika.spec.Channel.Close(200, "done", 0, 0)).marshal())
    close = one.expect(pika.spec.Channel.Close)
    assert (close.reply_code, close.class_id, close.method_id) == (404, 60, 40)
    one.expect(pika.spec.Channel.CloseOk)
    one.send_method(pika.spec.Channel.CloseOk(), 1)
    # The number is free again.
    one.open_channel()


def test_close_names_the_method(raw):
    one = raw()
    one.open()
    one.open_channel()
    one.send_method(spec.Queue.Declare(queue="absent-one", passive=True), 1)
    close = one.expect(spec.Channel.Close)
    assert (close.class_id, close.method_id) == (50, 10)


@pytest.mark.ours("RabbitMQ drops the connection without a word")
def test_unknown_method(raw):
    one = raw()
    one.open()
    one.open_channel()
    one.send_frame(1, 1, struct.pack(">HH", 60, 999))
    close = one.expect(spec.Connection.Close)
    assert close.reply_code in (503, 540), close.reply_text


def test_unknown_frame_type(raw):
    one = raw()
    one.open()
    one.send_frame(7, 0, b"")
    close = one.expect(spec.Connection.Close)
    assert close.reply_code in (501, 505), close.reply_text


def test_wrong_frame_end(raw):
    one = raw()
    one.open()
    one.open_channel()
    one.send_frame(1, 1, struct.pack(">HHB", 60, 110, 1), end=b"\x00")
    close = one.expect(spec.Connection.Close)
    assert close.reply_code == 501, close.reply_text


def test_truncated_arguments(raw):
    one = raw()
    one.open()
    one.open_channel()
    one.send_frame(1, 1, struct.pack(">HHH", 50, 10, 0) + b"\xffshort")
    close = one.expect(spec.Connection.Close)
    assert close.reply_code in (501, 502, 541), close.reply_text


@pytest.mark.parametrize("content", ["header", "body"])
def test_content_without_a_method(raw, content):
    one = raw()
    one.open()
    one.open_channel()
    if content == "header":
        one.send(pika.frame.Header(1, 1, spec.BasicProperties()).marshal())
    else:
        one.send_frame(3, 1, b"x")
    one.closed_with(505, "UNEXPECTED_FRAME")


def test_method_instead_of_content(raw):
    one = raw()
    one.open()
    one.open_channel()
    one.send_method(spec.Basic.Publish(exchange="", routing_key="x"), 1)
    one.send_method(spec.Basic.Qos(prefetch_count=1), 1)
    one.closed_with(505, "UNEXPECTED_FRAME")


@pytest.mark.ours("RabbitMQ waits for ever")
def test_more_body_than_announced(raw):
    one = raw()
    one.open()
    one.open_channel()
    one.publish(1, "", "x", b"12345", size=3)
    close = one.expect(spec.Connection.Close)
    assert close.reply_code in (501, 505), close.reply_text


def test_connection_error_closes_with_the_class_of_the_method(raw):
    one = raw()
    one.open()
    one.open_channel()
    one.send_method(spec.Basic.Qos(prefetch_size=1), 1)
    close = one.expect(spec.Connection.Close)
    assert (close.reply_code, close.class_id, close.method_id) == (540, 60, 10)


def test_body_interleaved_with_another_channel(raw, ch, queue):
    """Frames of one content may be mixed with those of other channels."""
    q, one = queue(), raw()
    one.open()
    one.open_channel(1), one.open_channel(2)
    for number in [1, 2]:
        one.send_method(spec.Basic.Publish(exchange="", routing_key=q), number)
    for number in [2, 1]:
        one.send(pika.frame.Header(number, 4, spec.BasicProperties()).marshal())
    for part in [b"a", b"b", b"c", b"d"]:
        for number in [1, 2]:
            one.send_frame(3, number, part if number == 1 else part.upper())
    eventually(lambda: ch.queue_declare(q, passive=True).method.message_count == 2)
    assert sorted(ch.basic_get(q, auto_ack=True)[2] for _ in range(2)) == [b"ABCD", b"abcd"]


def test_one_byte_at_a_time(raw):
    one = raw()
    for at in range(len(HEADER)):
        one.send(HEADER[at : at + 1])
    one.expect(spec.Connection.Start)
    for byte in pika.frame.Method(0, spec.Connection.StartOk({}, response="\0guest\0guest")).marshal():
        one.send(bytes([byte]))
    one.expect(spec.Connection.Tune)


def test_everything_at_once(raw):
    """A client need not wait for the answers of what it knows."""
    one = raw()
    methods = [
        (0, spec.Connection.StartOk({}, response="\0guest\0guest")),
        (0, spec.Connection.TuneOk(2047, 131072, 0)),
        (0, spec.Connection.Open("/")),
        (1, spec.Channel.Open()),
        (1, spec.Basic.Qos(prefetch_count=1)),
    ]
    one.send(HEADER + b"".join(pika.frame.Method(channel, method).marshal() for channel, method in methods))
    for kind in [spec.Connection.Start, spec.Connection.Tune, spec.Connection.OpenOk, spec.Channel.OpenOk]:
        one.expect(kind)
    one.expect(spec.Basic.QosOk)


def test_heartbeats_are_sent(raw):
    one = raw()
    one.open(heartbeat=1)
    started, beats = time.monotonic(), 0
    while time.monotonic() - started < 2.2:
        one.send_frame(8, 0, b"")
        beats += isinstance(one.read_frame(), pika.frame.Heartbeat)
    assert beats >= 2


def test_silence_ends_the_connection(raw):
    one = raw()
    one.open(heartbeat=1)
    started = time.monotonic()
    while one.read_frame() is not None:
        assert time.monotonic() - started < 8, "still open after eight heartbeat intervals of silence"
    assert time.monotonic() - started > 1.5


def test_no_heartbeats_when_switched_off(raw):
    one = raw()
    one.open(heartbeat=0)
    one.socket.settimeout(1.5)
    with pytest.raises(TimeoutError):
        one.read_frame()


def test_traffic_counts_as_a_heartbeat(raw, queue):
    q, one = queue(), raw()
    one.open(heartbeat=1)
    one.open_channel()
    for _ in range(16):
        one.publish(1, "", q, b"x")
        time.sleep(0.25)
    one.send_method(spec.Basic.Qos(prefetch_count=1), 1)
    one.expect(spec.Basic.QosOk)


def test_heartbeat_on_a_channel(raw):
    one = raw()
    one.open()
    one.open_channel()
    one.send_frame(8, 1, b"")
    close = one.expect(spec.Connection.Close)
    assert close.reply_code in (501, 503, 505), close.reply_text


def test_close_is_answered(raw):
    one = raw()
    one.open()
    one.send_method(spec.Connection.Close(200, "bye", 0, 0))
    one.expect(spec.Connection.CloseOk)


def test_update_secret(connection):
    """As a client with OAuth tokens does; for a password user it is accepted."""
    connection.update_secret("new", "test")


def test_half_closed_socket(raw):
    one = raw()
    one.open()
    one.socket.shutdown(socket.SHUT_WR)
    assert one.read_frame() is None


def test_nobody_speaks(raw):
    """A peer that connects and says nothing holds nobody else up."""
    silent = [raw() for _ in range(50)]
    one = raw()
    one.open()
    assert len(silent) == 50
