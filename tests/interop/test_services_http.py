"""Services over HTTP with requests: registering, the plain verbs, watching, sending, asking, push; beside pika."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import queue
import threading
import time

import pika
import pytest
import requests

from support import eventually

pytestmark = pytest.mark.ours("services are Waypost's own")

PASSING = {"address": "10.0.0.1", "port": 8080}


@pytest.fixture
def api(broker):
    """The API's address; a session that knows it."""
    session = requests.Session()
    session.base = broker.waypost.http
    yield session
    session.close()


@pytest.fixture
def service(name):
    """A service of the test's own: its name."""
    return name("s").replace(".", "-").replace("_", "-").lower()[-60:].strip("-")


@pytest.fixture
def hook():
    """A plain web service: `requests` it got, and what it answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            server.requests.put((dict((k.lower(), v) for k, v in self.headers.items()), body))
            status, headers, answer = server.respond(self.headers, body)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests = queue.Queue()
    server.respond = lambda headers, body: (200, {}, b"")
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def instance_url(api, service, instance):
    return f"{api.base}/api/v1/services/{service}/instances/{instance}"


def register(api, service, instance, **body):
    answer = api.put(instance_url(api, service, instance), json=body)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def test_register_show_deregister(api, service):
    assert register(api, service, "a", **PASSING, version="1.2.3", tags=["x"])["created"]
    shown = api.get(f"{api.base}/api/v1/services/{service}")
    assert shown.json()["instances"][0]["version"] == "1.2.3"
    same = api.get(shown.url, headers={"If-None-Match": shown.headers["etag"]})
    assert same.status_code == 304
    assert service in [s["service"] for s in api.get(f"{api.base}/api/v1/services").json()]
    assert api.delete(instance_url(api, service, "a")).status_code == 204
    assert api.get(shown.url).status_code == 404


def test_plain_verbs_as_json_and_form(api, service):
    place = {"service_name": service, "service_address": "10.0.0.9", "service_port": 9000}
    assert api.post(f"{api.base}/register", json=place).text == "OK"
    found = api.get(f"{api.base}/query", params={"service_name": service})
    assert (found.text, found.headers["content-type"]) == ("10.0.0.9:9000", "text/plain; charset=utf-8")
    assert api.post(f"{api.base}/register", data={**place, "service_port": 9001, "tags": "a,b"}).text == "OK"
    every = api.get(f"{api.base}/query", params={"service_name": service, "all": "true"}).json()
    assert [i["service_port"] for i in every] == [9000, 9001]
    for port in (9000, 9001):
        assert api.post(f"{api.base}/deregister", data={**place, "service_port": port}).text == "OK"
    assert api.get(f"{api.base}/query", params={"service_name": service}).status_code == 404


def test_long_poll_wakes_on_a_change_only(api, service):
    register(api, service, "a", **PASSING)
    url = f"{api.base}/api/v1/services/{service}"
    index = api.get(url).json()["index"]
    answers = queue.Queue()
    poll = lambda: answers.put(requests.get(url, params={"index": index, "wait": "10s"}).json())
    threading.Thread(target=poll, daemon=True).start()
    time.sleep(0.2)
    register(api, service, "a", **PASSING)
    with pytest.raises(queue.Empty):
        answers.get(timeout=0.3)
    register(api, service, "b", **PASSING)
    assert len(answers.get(timeout=5)["instances"]) == 2


def test_stream_tells_of_a_connection_that_comes_and_goes(api, broker, service):
    stream = requests.get(
        f"{api.base}/api/v1/services", params={"service": service}, headers={"Accept": "text/event-stream"}, stream=True
    )
    lines = stream.iter_lines(chunk_size=1, decode_unicode=True)

    def event():
        name, data = None, None
        for line in lines:
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = json.loads(line[6:])
            elif not line and name:
                return name, data

    connection = pika.BlockingConnection(broker.params())
    channel = connection.channel()
    channel.queue_declare(f"{service}-queue", durable=True)
    channel.basic_consume(
        f"{service}-queue", lambda *_: None, arguments={"x-service": {"id": "amqp-1", "version": "2.0.0"}}
    )
    name, data = event()
    assert (name, data["instance"]["id"], data["instance"]["version"]) == ("instance", "amqp-1", "2.0.0")
    connection.close()
    name, data = event()
    while name != "gone":
        name, data = event()
    assert data["id"] == "amqp-1"
    stream.close()


def test_send_to_amqp_instances_by_version(api, connect, service):
    channels = {}
    for version in ("1.0.0", "2.0.0"):
        channel = connect().channel()
        channel.queue_declare(f"{service}-queue", durable=True)
        got = []
        channel.basic_consume(
            f"{service}-queue",
            lambda ch, method, props, body, got=got: (got.append((props, body)), ch.basic_ack(method.delivery_tag)),
            arguments={"x-service": {"id": f"v{version}", "version": version}},
        )
        channels[version] = channel, got
    for n in range(4):
        answer = api.post(
            f"{api.base}/api/v1/services/{service}/send",
            params={"version": "^2"},
            data=str(n),
            headers={"Waypost-Message-Id": f"m{n}", "Waypost-Header-Color": "red", "Content-Type": "text/plain"},
        )
        assert answer.status_code == 202, answer.text
    channel, got = channels["2.0.0"]
    deadline = time.monotonic() + 10
    while len(got) < 4 and time.monotonic() < deadline:
        channel.connection.process_data_events(time_limit=0.1)
    assert [body for _, body in got] == [b"0", b"1", b"2", b"3"]
    props = got[0][0]
    assert (props.message_id, props.content_type, props.headers["color"]) == ("m0", "text/plain", "red")
    channels["1.0.0"][0].connection.process_data_events(time_limit=0.1)
    assert channels["1.0.0"][1] == []


def test_request_answered_over_amqp(api, connect, service):
    channel = connect().channel()
    channel.queue_declare(f"{service}-queue", durable=True)
    answers = queue.Queue()
    ask = lambda: answers.put(
        requests.post(f"{api.base}/api/v1/services/{service}/request", params={"timeout": "10s"}, data=b"ping")
    )
    threading.Thread(target=ask, daemon=True).start()
    for method, props, body in channel.consume(f"{service}-queue", inactivity_timeout=10):
        # What is left of it when it is delivered.
        assert body == b"ping" and 9_000 < int(props.expiration) <= 10_000
        channel.basic_publish(
            "", props.reply_to, b"pong", pika.BasicProperties(correlation_id=props.correlation_id, type="reply")
        )
        channel.basic_ack(method.delivery_tag)
        break
    channel.cancel()
    answer = answers.get(timeout=10)
    assert (answer.status_code, answer.content, answer.headers["waypost-type"]) == (200, b"pong", "reply")


def test_push_is_signed_and_its_answer_is_the_reply(api, hook, service):
    hook.respond = lambda headers, body: (200, {"Content-Type": "text/plain"}, body.upper())
    register(api, service, "web", push={"url": hook.url, "secret": "s3cret"})
    answer = api.post(
        f"{api.base}/api/v1/services/{service}/request", params={"timeout": "10s"}, data=b"hello"
    )
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, "HELLO", "text/plain")
    headers, body = hook.requests.get(timeout=5)
    parts = dict(part.split("=", 1) for part in headers["waypost-signature"].split(","))
    want = hmac.new(b"s3cret", f"{parts['t']}.".encode() + body, hashlib.sha256).hexdigest()
    assert parts["v1"] == want
    assert headers["waypost-service"] == service


def test_async_request_is_fetched_once(api, hook, service):
    hook.respond = lambda headers, body: (200, {}, b"later")
    register(api, service, "web", push={"url": hook.url})
    accepted = api.post(f"{api.base}/api/v1/services/{service}/request?async", data=b"x")
    assert accepted.status_code == 202
    place = api.base + accepted.headers["location"]
    assert api.get(place, params={"wait": "10s"}).text == "later"
    assert api.get(place).status_code == 404


def test_push_retries_and_keeps_the_delivery_id(api, hook, service):
    answers = iter([(503, {"Retry-After": "1"}, b"")])
    hook.respond = lambda headers, body: next(answers, (204, {}, b""))
    register(api, service, "web", push={"url": hook.url})
    assert api.post(f"{api.base}/api/v1/services/{service}/send", data=b"x").status_code == 202
    first, _ = hook.requests.get(timeout=5)
    again, _ = hook.requests.get(timeout=10)
    assert first["waypost-delivery-id"] == again["waypost-delivery-id"]


@pytest.mark.timeout(180)
def test_a_message_that_always_fails_dies_and_is_in_nobodys_way(api, hook, service):
    """Also when it is the only one, so that the endpoint seems to be ill and is sent one message at a time."""
    hook.respond = lambda headers, body: (500 if body == b"poison" else 204, {}, b"")
    register(api, service, "web", push={"url": hook.url})
    tries = []
    assert api.post(f"{api.base}/api/v1/services/{service}/send", data=b"poison").status_code == 202
    while len(tries) < 6:
        tries.append(hook.requests.get(timeout=30)[0])
    assert api.post(f"{api.base}/api/v1/services/{service}/send", data=b"good").status_code == 202
    while (request := hook.requests.get(timeout=90))[1] == b"poison":
        tries.append(request[0])
    assert request[1] == b"good" and len(tries) == 8
    assert [t.get("waypost-redelivered") for t in tries] == [None] + ["true"] * 7
    assert len({t["waypost-delivery-id"] for t in tries}) == 1


def test_a_killed_server_loses_no_confirmed_message(server, hook, service):
    waypost = server()
    waypost.start()
    base = waypost.http
    for n in range(20):
        assert requests.post(f"{base}/api/v1/services/{service}/send", data=str(n)).status_code == 202
    waypost.kill()
    waypost.start()
    base = waypost.http
    answer = requests.put(f"{base}/api/v1/services/{service}/instances/web", json={"push": {"url": hook.url}})
    assert answer.status_code == 201
    got = {hook.requests.get(timeout=10)[1] for _ in range(20)}
    assert got == {str(n).encode() for n in range(20)}


def test_errors_are_json(api, service):
    for method, path, status in [
        ("PUT", f"services/{service}/instances/x", 400),
        ("GET", f"services/{service}", 404),
        ("PATCH", f"services/{service}", 405),
        ("POST", f"services/{service}/send?mandatory", 404),
    ]:
        answer = api.request(method, f"{api.base}/api/v1/{path}", data="[" if method == "PUT" else None)
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"error", "reason"}


@pytest.mark.parametrize("flags", [["--disk-free-limit", "1000000GiB"], ["--memory-high-watermark", "0.000001"]])
def test_a_request_keeps_its_deadline_while_room_is_short(server, flags):
    own = server(*flags)
    own.start()
    base = f"{own.http}/api/v1/services/cart"
    assert requests.put(f"{base}/instances/a", json=PASSING).ok
    began = time.monotonic()
    answer = requests.post(f"{base}/request", params={"timeout": "1s"}, data=b"x", timeout=30)
    took = time.monotonic() - began
    assert answer.status_code in (503, 504), answer.text
    assert took < 2.5, f"answered after {took:.1f} s"


def test_who_has_less_in_hand_is_named(api, connect, service):
    """`/query` of a service whose instances take messages: what they hold decides."""
    consuming = []
    for n, prefetch in ((1, 50), (2, 50)):
        api.put(f"{api.base}/api/v1/services/{service}/instances/i{n}", json={"address": f"10.0.0.{n}", "port": 80})
        channel = connect().channel()
        channel.basic_qos(prefetch_count=prefetch)
        channel.basic_consume(f"{service}-queue", lambda *_: None, arguments={"x-service": {"id": f"i{n}"}})
        consuming.append(channel)

    def named() -> int:
        """How often the first one is, of 200 times."""
        return sum(api.get(f"{api.base}/query", params={"service_name": service}).text == "10.0.0.1:80" for _ in range(200))

    assert 60 < named() < 140, "who holds nothing is drawn by weight: here evenly"
    for _ in range(20):
        assert api.post(f"{api.base}/api/v1/services/{service}/send?instance=i1", data=b"x").status_code == 202
    # Of two that are drawn the one with less is named: only when both are the busy one is it named, a quarter of the times.
    eventually(lambda: 15 < named() < 80, timeout=10)


def test_who_consumes_is_told_when_its_drain_is_over(api, connect, service):
    base = f"{api.base}/api/v1/services/{service}"
    channel = connect().channel()
    channel.queue_declare(f"{service}-queue", durable=True)
    cancelled, taken = [], []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))

    def take(_channel, method, _properties, body):
        taken.append((method.delivery_tag, body))

    consume = lambda: channel.basic_consume(f"{service}-queue", take, arguments={"x-service": {"id": "one"}})
    tag = consume()
    assert api.post(f"{base}/send", data=b"held").status_code == 202
    turn = lambda: channel.connection.process_data_events(0.05)
    eventually(lambda: turn() or taken)
    assert api.post(f"{base}/instances/one/drain", json={"deadline": "300ms"}).ok
    eventually(lambda: turn() or cancelled)
    assert cancelled == [tag]
    # What it holds it may still settle; and it may come again.
    channel.basic_ack(taken[0][0])
    consume()
    assert api.post(f"{base}/send", data=b"again").status_code == 202
    eventually(lambda: turn() or len(taken) == 2)
    assert [body for _, body in taken] == [b"held", b"again"]


@pytest.mark.parametrize("said", [{"tags": 5}, {"max_in_flight": 0}])
def test_what_is_wrong_in_an_identity_is_refused(api, connect, service, said):
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
        channel = connect().channel()
        channel.queue_declare(f"{service}-queue", durable=True)
        channel.basic_consume(f"{service}-queue", lambda *_: None, arguments={"x-service": {"id": "one", **said}})
    assert refused.value.reply_code == 406 and list(said)[0] in refused.value.reply_text
    answer = api.put(instance_url(api, service, "one"), json=said)
    assert answer.status_code == 400, answer.text
