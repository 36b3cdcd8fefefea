"""The configuration center over HTTP, and its messages on amq.config."""

from __future__ import annotations

import json
import threading
import time
import uuid

import pika
import pytest
import requests

pytestmark = pytest.mark.ours("RabbitMQ has no configuration center")


class Config:
    """The API, below one namespace that nobody else uses."""

    def __init__(self, http: str, namespace: str):
        self.http, self.namespace = http, namespace

    def url(self, page: str, key: str = "") -> str:
        path = f"/{self.namespace}/{key}" if key else ""
        return f"{self.http}/api/v1/config/{page}{path}"

    def put(self, key, value, **options):
        answer = requests.put(self.url("keys", key), data=value, **options)
        answer.raise_for_status()
        return answer.json()

    def get(self, key, **options):
        return requests.get(self.url("keys", key), **options)

    def history(self, key, **params):
        return requests.get(self.url("history", key), params=params).json()["versions"]


@pytest.fixture
def config(broker):
    return Config(broker.waypost.http, f"t{uuid.uuid4().hex}")


def test_a_value_keeps_its_type_and_tells_its_revision(config):
    done = config.put("a/b", '{"x":1}', headers={"Content-Type": "application/json"}, params={"comment": "first"})
    found = config.get("a/b")
    assert found.text == '{"x":1}' and found.headers["Content-Type"] == "application/json"
    assert found.headers["ETag"] == f'"{done["revision"]}"' and done["version"] == 1
    about = config.get("a/b", params={"metadata": ""}).json()
    assert (about["namespace"], about["key"], about["comment"], about["author"]) == (config.namespace, "a/b", "first", "operator")
    assert config.get("none").status_code == 404
    assert config.get("a/b", headers={"If-None-Match": found.headers["ETag"]}).status_code == 304


def test_what_is_not_known_is_refused(config):
    url = config.url("keys", "k")
    for method, query in [("PUT", "cas=0"), ("PUT", "comments=x"), ("GET", "revision=1"), ("DELETE", "flags=1&no=1")]:
        answer = requests.request(method, f"{url}?{query}", data="1")
        assert (answer.status_code, answer.json()["reason"][:17]) == (400, "unknown parameter"), query


def test_if_match(config):
    first = config.put("k", "1", headers={"If-None-Match": "*"})
    url = config.url("keys", "k")
    assert requests.put(url, data="2", headers={"If-None-Match": "*"}).status_code == 412
    assert requests.put(url, data="2", headers={"If-Match": '"99999999"'}).status_code == 412
    assert requests.put(url, data="2", headers={"If-Match": f'"{first["revision"]}"'}).status_code == 200
    assert requests.put(config.url("keys", "new"), data="2", headers={"If-Match": "*"}).status_code == 404
    assert requests.delete(url, headers={"If-Match": f'"{first["revision"]}"'}).status_code == 412
    assert requests.delete(url).status_code == 200
    assert requests.delete(url).status_code == 404


def test_history_diff_and_rollback(config):
    for n, text in enumerate(("one\n", "one\ntwo\n", "two\n")):
        config.put("k", text, params={"comment": f"step {n}"})
    versions = config.history("k")
    assert [(v["version"], v["comment"]) for v in versions] == [(3, "step 2"), (2, "step 1"), (1, "step 0")]
    assert [v["version"] for v in config.history("k", limit=1, before=3)] == [2]
    diff = requests.get(config.url("diff", "k"), params={"from": 1, "to": 3}).text
    assert "-one\n" in diff and "+two\n" in diff
    assert config.get("k", params={"version": 2}).text == "one\ntwo\n"
    back = requests.post(config.url("rollback", "k"), params={"version": 1, "comment": "undo"})
    assert back.json()["version"] == 4 and config.get("k").text == "one\n"
    last = config.history("k")[0]
    assert (last["kind"], last["from_version"], last["comment"]) == ("rollback", 1, "undo")
    assert requests.post(config.url("rollback", "k"), params={"version": 99}).status_code == 404
    config.put("bin", b"\xff\x00")
    config.put("bin", b"\xff\x01")
    assert requests.get(config.url("diff", "bin")).text.startswith("Binary versions")


def test_lists(config):
    for key in ("a", "b/c", "b/d"):
        config.put(key, key)
    url = config.url("keys")
    listing = requests.get(url, params={"namespace": config.namespace, "values": ""}).json()
    assert [(k["key"], k["value"]) for k in listing["keys"]] == [("a", "a"), ("b/c", "b/c"), ("b/d", "b/d")]
    page = requests.get(url, params={"namespace": config.namespace, "limit": 2}).json()
    assert len(page["keys"]) == 2 and "value" not in page["keys"][0]
    rest = requests.get(url, params={"namespace": config.namespace, "after": page["after"]}).json()
    assert [k["key"] for k in rest["keys"]] == ["b/d"] and rest["after"] is None


def test_limits(config):
    url = config.url("keys", "big")
    assert requests.put(url, data=b"x" * (1 << 20)).status_code == 200
    assert requests.put(url, data=b"x" * ((1 << 20) + 1)).status_code == 413
    assert requests.put(config.url("keys", "x" * 1100), data="x").status_code == 400
    assert requests.put(url, data="x", params={"comment": "x" * 2000}).status_code == 400
    assert requests.post(url, data="x").status_code == 405


def test_large_values_are_compressed_for_those_who_like_it(config):
    config.put("k", "line\n" * 10_000)
    found = requests.get(config.url("keys", "k"), headers={"Accept-Encoding": "gzip"}, stream=True)
    assert found.headers["Content-Encoding"] == "gzip" and int(found.headers["Content-Length"]) < 5_000
    assert found.text == "line\n" * 10_000


def test_gray_release(config):
    config.put("k", "old")
    url = config.url("gray", "k")
    begun = requests.put(url, json={"value": "new", "rule": {"ids": ["cart-7"], "version": ">=2", "zones": ["eu"]}})
    assert begun.status_code == 200, begun.text

    def seen(**who):
        return config.get("k", params={name.replace("_", "-"): value for name, value in who.items()})

    assert seen().text == "old"
    assert seen(instance="cart-7").text == "new"
    assert seen(instance="cart-7").headers["X-Config-Candidate"] == "true"
    assert seen(instance="cart-1", instance_version="2.1.0", instance_zone="eu").text == "new"
    assert seen(instance="cart-1", instance_version="1.9.0", instance_zone="eu").text == "old"
    assert seen(instance="cart-1", instance_zone="eu").text == "old"
    assert requests.get(url).json()["rule"]["version"] == ">=2"
    assert requests.put(url, json={"rule": {"percent": 100}}).status_code == 200
    assert seen(instance="anybody").text == "new"
    assert requests.post(config.url("promote", "k")).status_code == 200
    assert seen().text == "new" and requests.get(url).status_code == 404
    assert requests.put(url, json={"value": "bad", "rule": {"percent": 10}}).status_code == 200
    assert requests.delete(url).status_code == 200
    assert seen().text == "new" and requests.delete(url).status_code == 404
    assert [v["kind"] for v in config.history("k")] == ["abandon", "gray", "promote", "gray", "gray", "put"]
    for rule in ({}, {"percent": 101}, {"version": "x y"}, {"colour": 1}):
        assert requests.put(url, json={"value": "x", "rule": rule}).status_code == 400, rule


def test_transaction(config):
    ns = config.namespace
    done = requests.post(config.url("txn"), json={"comment": "both", "operations": [
        {"op": "put", "path": f"{ns}/a", "value": "1", "if_revision": 0},
        {"op": "put", "path": f"{ns}/b", "value_base64": "/w=="},
    ]})
    assert done.status_code == 200, done.text
    assert config.get("b").content == b"\xff"
    assert config.history("a")[0]["revision"] == config.history("b")[0]["revision"] == done.json()["revision"]
    refused = requests.post(config.url("txn"), json={"operations": [
        {"op": "delete", "path": f"{ns}/a"},
        {"op": "check", "path": f"{ns}/b", "if_revision": 1},
    ]})
    assert refused.status_code == 412 and refused.json()["errors"][0]["operation"] == 1
    assert config.get("a").text == "1"


def test_long_poll(config):
    config.put("a", "1")
    url, params = config.url("watch"), {"namespace": config.namespace}
    first = requests.get(url, params=params).json()
    assert [k["value"] for k in first["keys"]] == ["1"]
    found = []
    thread = threading.Thread(target=lambda: found.append(
        requests.get(url, params=params | {"revision": first["revision"], "wait_ms": 10_000}).json()))
    thread.start()
    time.sleep(0.2)
    assert not found
    requests.delete(config.url("keys", "a"))
    thread.join(5)
    assert found[0]["keys"][0]["deleted"] is True
    quiet = requests.get(url, params=params | {"revision": found[0]["revision"], "wait_ms": 200})
    assert quiet.json()["keys"] == [] and 0.2 <= quiet.elapsed.total_seconds() < 2


def events(url, params, headers=None):
    with requests.get(url, params=params, headers={"Accept": "text/event-stream"} | (headers or {}), stream=True) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        event = {}
        for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
            if line.startswith(":"):
                continue
            if not line:
                if event:
                    yield event
                event = {}
                continue
            name, _, value = line.partition(": ")
            event[name] = value


def test_event_stream_goes_on_where_it_broke_off(config):
    config.put("a", "1")
    url, params = config.url("watch"), {"namespace": config.namespace}
    stream = events(url, params)
    first = next(stream)
    assert json.loads(first["data"])["value"] == "1"
    config.put("b", "2")
    second = next(stream)
    assert json.loads(second["data"])["key"] == "b" and int(second["id"]) > int(first["id"])
    stream.close()
    config.put("c", "3")
    again = events(url, params, {"Last-Event-ID": second["id"]})
    assert json.loads(next(again)["data"])["key"] == "c"
    again.close()


def test_changes_are_messages(broker, config):
    with pika.BlockingConnection(broker.params()) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "config", f"{config.namespace}.#")
        channel.queue_bind(queue, "amq.config", f"gray:{config.namespace}.#")
        config.put("db/url", "x", headers={"Content-Type": "text/plain"}, params={"comment": "why"})
        requests.put(config.url("gray", "db/url"), json={"value": "y", "rule": {"percent": 5}})
        requests.delete(config.url("keys", "db/url"))
        got = []
        for method, props, body in channel.consume(queue, auto_ack=True, inactivity_timeout=5):
            assert method is not None, f"only {got}"
            got.append((method.routing_key, props.type, body))
            if props.type == "config.put":
                assert props.content_type == "text/plain" and props.delivery_mode == 2
                assert props.headers["x-config-path"] == f"{config.namespace}/db/url"
                assert props.headers["x-config-comment"] == "why"
            if (props.type, body) == ("config.delete", b"") and len(got) >= 2:
                break
        channel.cancel()
    kinds = [kind for _, kind, _ in got]
    assert (f"{config.namespace}.db.url", "config.put", b"x") in got or "config.gray" in kinds
    assert got[-1][0] == f"{config.namespace}.db.url"


def test_every_change_is_told_when_there_is_time(broker, config):
    with pika.BlockingConnection(broker.params()) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "amq.config", f"{config.namespace}.k")
        for n in range(5):
            config.put("k", str(n))
            deadline = time.monotonic() + 5
            while (found := channel.basic_get(queue, auto_ack=True))[0] is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert found[2] == str(n).encode()


def test_permissions(broker, config):
    admin, user = broker.waypost, f"u{uuid.uuid4().hex}"
    http = admin.http
    requests.put(f"{http}/api/v1/users/{user}", json={"password": "p", "tags": []}).raise_for_status()
    permission = {"configure": "", "write": f"^config:{config.namespace}/mine/", "read": f"^config:{config.namespace}/"}
    requests.put(f"{http}/api/v1/permissions/%2F/{user}", json=permission).raise_for_status()
    config.put("theirs", "x")
    auth = (user, "p")
    assert requests.put(config.url("keys", "mine/a"), data="1", auth=auth).status_code == 200
    assert config.history("mine/a")[0]["author"] == user
    assert requests.put(config.url("keys", "theirs"), data="1", auth=auth).status_code == 403
    assert requests.get(config.url("keys", "theirs"), auth=auth).status_code == 200
    other = Config(http, f"t{uuid.uuid4().hex}")
    other.put("hidden", "x")
    assert requests.get(other.url("keys", "hidden"), auth=auth).status_code == 403
    seen = requests.get(config.url("keys"), auth=auth).json()["keys"]
    assert {k["namespace"] for k in seen} == {config.namespace}
    kv = f"{http}/v1/kv/{config.namespace}"
    assert requests.put(f"{kv}/theirs", data="1", auth=auth).status_code == 403
    assert requests.delete(f"{kv}/?recurse", auth=auth).status_code == 403
    assert requests.delete(f"{kv}/mine/?recurse", auth=auth).status_code == 200
    assert config.get("theirs").text == "x"


def test_vhosts_have_their_own(config):
    vhost = f"v{uuid.uuid4().hex}"
    at = f"{config.http}/api/v1/vhosts/{vhost}"
    requests.put(at, json={}).raise_for_status()
    config.put("k", "theirs", params={"vhost": vhost})
    assert config.get("k").status_code == 404
    assert config.get("k", params={"vhost": vhost}).text == "theirs"
    requests.delete(at).raise_for_status()
    requests.put(at, json={}).raise_for_status()
    assert config.get("k", params={"vhost": vhost}).status_code == 404
    assert config.get("k", params={"vhost": "none"}).status_code == 404
    requests.delete(at).raise_for_status()
