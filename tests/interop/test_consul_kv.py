"""Consul's KV, transactions and sessions, with a stock client (py-consul) and over plain HTTP."""

from __future__ import annotations

import base64
import threading
import time
import urllib.parse
import uuid

import consul
import pytest
import requests

pytestmark = pytest.mark.ours("RabbitMQ has no key-value store")


@pytest.fixture
def http(broker):
    return broker.waypost.http


@pytest.fixture
def client(http):
    at = urllib.parse.urlsplit(http)
    return consul.Consul(host=at.hostname, port=at.port)


@pytest.fixture
def key():
    return f"t{uuid.uuid4().hex}"


def index_of(answer) -> int:
    return int(answer.headers["X-Consul-Index"])


def test_put_get_delete(client, key):
    index, nothing = client.kv.get(key)
    assert nothing is None and int(index) >= 1
    assert client.kv.put(key, "bar", flags=42) is True
    index, data = client.kv.get(key)
    assert (data["Key"], data["Value"], data["Flags"], data["LockIndex"]) == (key, b"bar", 42, 0)
    assert data["CreateIndex"] == data["ModifyIndex"] == int(index)
    assert client.kv.delete(key) is True
    assert client.kv.get(key)[1] is None
    assert client.kv.delete(key) is True, "what is gone is deleted"


def test_bytes_and_nothing(client, key):
    client.kv.put(key, bytes(range(256)))
    assert client.kv.get(key)[1]["Value"] == bytes(range(256))
    client.kv.put(key, "")
    assert client.kv.get(key)[1]["Value"] is None


def test_an_equal_write_moves_no_index(client, key):
    client.kv.put(key, "x")
    before = client.kv.get(key)[1]["ModifyIndex"]
    client.kv.put(key, "x")
    assert client.kv.get(key)[1]["ModifyIndex"] == before


def test_compare_and_set(client, key):
    assert client.kv.put(key, "1", cas=0) is True
    assert client.kv.put(key, "2", cas=0) is False
    at = client.kv.get(key)[1]["ModifyIndex"]
    assert client.kv.put(key, "2", cas=at - 1) is False
    assert client.kv.put(key, "2", cas=at) is True
    assert client.kv.delete(key, cas=at) is False
    assert client.kv.delete(key, cas=client.kv.get(key)[1]["ModifyIndex"]) is True


def test_delete_with_cas_zero_deletes_nothing(http, key):
    requests.put(f"{http}/v1/kv/{key}", data="x")
    assert requests.delete(f"{http}/v1/kv/{key}?cas=0").json() is False
    assert requests.get(f"{http}/v1/kv/{key}").status_code == 200


def test_recurse_keys_and_separator(client, http, key):
    for name in ("a", "b/c", "b/d", "e/"):
        client.kv.put(f"{key}/{name}", name)
    _, found = client.kv.get(f"{key}/", recurse=True)
    assert [d["Key"] for d in found] == [f"{key}/{n}" for n in ("a", "b/c", "b/d", "e/")]
    _, names = client.kv.get(f"{key}/", keys=True, separator="/")
    assert names == [f"{key}/a", f"{key}/b/", f"{key}/e/"]
    _, names = client.kv.get(f"{key}/b", keys=True)
    assert names == [f"{key}/b/c", f"{key}/b/d"]
    assert client.kv.get(f"{key}/none", recurse=True)[1] is None
    assert requests.get(f"{http}/v1/kv/{key}/none?keys").status_code == 404
    assert client.kv.delete(f"{key}/b/", recurse=True) is True
    assert [d["Key"] for d in client.kv.get(key, recurse=True)[1]] == [f"{key}/a", f"{key}/e/"]


def test_keys_with_spaces_and_slashes_and_umlauts(client, key):
    for name in ("with space", "ünï/cödé", "a%2Fb"):
        client.kv.put(f"{key}/{name}", name)
        assert client.kv.get(f"{key}/{name}")[1]["Value"].decode() == name


def test_headers_of_reads(http, key):
    missing = requests.get(f"{http}/v1/kv/{key}")
    assert missing.status_code == 404 and missing.content == b"" and index_of(missing) >= 1
    requests.put(f"{http}/v1/kv/{key}", data="x")
    found = requests.get(f"{http}/v1/kv/{key}?consistent")
    assert found.headers["X-Consul-KnownLeader"] == "true"
    assert found.headers["X-Consul-LastContact"] == "0"
    assert found.headers["X-Consul-Effective-Consistency"] == "consistent"


def test_raw_cannot_run_in_a_browser(http, key):
    requests.put(f"{http}/v1/kv/{key}", data="<script>", headers={"Content-Type": "text/html"})
    raw = requests.get(f"{http}/v1/kv/{key}?raw")
    assert raw.text == "<script>" and raw.headers["Content-Security-Policy"] == "sandbox"


def test_what_is_refused(http, key):
    url = f"{http}/v1/kv/{key}"
    for query, text in (("index=-2", "Invalid index"), ("wait=55", "Invalid wait time"), ("stale&consistent", "conflicting")):
        refused = requests.get(f"{url}?{query}")
        assert refused.status_code == 400 and text in refused.text
    assert requests.get(f"{url}?index=-1").status_code == 404, "Spring asks so at first"
    assert requests.put(f"{url}?flags=x", data="").status_code == 400
    assert requests.put(f"{url}?cas=1&acquire=x", data="").status_code == 400
    assert requests.post(url, data="").status_code == 405
    assert requests.put(f"{http}/v1/kv/", data="x").status_code == 400
    assert requests.put(url, data=b"x" * (1 << 20)).json() is True
    assert requests.put(url, data=b"x" * ((1 << 20) + 1)).status_code == 413


def waiting(http, path, found):
    def wait():
        began = time.monotonic()
        answer = requests.get(f"{http}{path}")
        found.append((answer, time.monotonic() - began))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    return thread


def test_a_blocking_query_wakes_for_its_key_only(client, http, key):
    client.kv.put(f"{key}/a", "1")
    at = index_of(requests.get(f"{http}/v1/kv/{key}/a"))
    found = []
    thread = waiting(http, f"/v1/kv/{key}/a?index={at}&wait=10s", found)
    client.kv.put(f"{key}/b", "other")
    time.sleep(0.2)
    assert not found
    client.kv.put(f"{key}/a", "2")
    thread.join(5)
    answer, _ = found[0]
    assert base64.b64decode(answer.json()[0]["Value"]) == b"2" and index_of(answer) > at


def test_a_prefix_wakes_by_new_keys_and_deletions(client, http, key):
    client.kv.put(f"{key}/a", "1")
    at = index_of(requests.get(f"{http}/v1/kv/{key}/?recurse"))
    for change in (lambda: client.kv.put(f"{key}/b", "1"), lambda: client.kv.delete(f"{key}/a")):
        found = []
        thread = waiting(http, f"/v1/kv/{key}/?recurse&index={at}&wait=10s", found)
        assert not found
        change()
        thread.join(5)
        assert index_of(found[0][0]) > at
        at = index_of(found[0][0])


def test_a_missing_key_blocks_until_it_comes(client, http, key):
    at = index_of(requests.get(f"{http}/v1/kv/{key}"))
    found = []
    thread = waiting(http, f"/v1/kv/{key}?index={at}&wait=10s", found)
    assert not found
    client.kv.put(key, "x")
    thread.join(5)
    assert found[0][0].status_code == 200


def test_waiting_ends_and_an_index_ahead_waits_too(client, http, key):
    client.kv.put(key, "x")
    at = index_of(requests.get(f"{http}/v1/kv/{key}"))
    for ahead in (0, 1000):
        began = time.monotonic()
        answer = requests.get(f"{http}/v1/kv/{key}?index={at + ahead}&wait=500ms")
        assert 0.5 <= time.monotonic() - began < 2 and index_of(answer) == at
    assert requests.get(f"{http}/v1/kv/{key}?index={at - 1}&wait=10s").elapsed.total_seconds() < 2


def test_who_is_ahead_is_told_of_the_next_change(client, http, key):
    client.kv.put(key, "x")
    at = index_of(requests.get(f"{http}/v1/kv/{key}"))
    found = []
    thread = waiting(http, f"/v1/kv/{key}?index={at + 1000}&wait=20s", found)
    client.kv.put(key, "y")
    thread.join(10)
    assert found and index_of(found[0][0]) > at


def test_the_first_write_of_all_is_told(server):
    waypost = server()
    waypost.start()
    url = f"{waypost.http}/v1/kv/first"
    at, found = index_of(requests.get(url)), []
    thread = waiting(waypost.http, f"/v1/kv/first?index={at}&wait=20s", found)
    assert requests.put(url, data="1").text == "true"
    thread.join(10)
    assert found and found[0][0].status_code == 200


def test_another_data_center_is_not_this_one(http, key):
    for method, path in [("GET", f"kv/{key}"), ("PUT", f"kv/{key}"), ("PUT", "session/create"), ("PUT", "txn")]:
        answer = requests.request(method, f"{http}/v1/{path}?dc=elsewhere", json=[] if path == "txn" else {})
        assert (answer.status_code, answer.text) == (500, "No path to datacenter"), path
    assert requests.get(f"{http}/v1/kv/{key}?dc=DC1").status_code == 404
    for page in ("register", "deregister"):
        node = {"Datacenter": "elsewhere", "Node": "n", "Address": "10.0.0.1"}
        assert requests.put(f"{http}/v1/catalog/{page}", json=node).status_code == 500
    assert requests.get(f"{http}/v1/catalog/node/n").json() is None


def test_locks(client, key):
    a, b = client.session.create(name="a", ttl=10), client.session.create(name="b")
    assert client.kv.put(key, "a", acquire=a) is True
    assert client.kv.put(key, "b", acquire=b) is False
    assert client.kv.put(key, "again", acquire=a) is True
    data = client.kv.get(key)[1]
    assert (data["Session"], data["LockIndex"]) == (a, 1)
    assert client.kv.put(key, "b", release=b) is False
    assert client.kv.put(key, "free", release=a) is True
    data = client.kv.get(key)[1]
    assert "Session" not in data and data["LockIndex"] == 1
    assert client.kv.put(key, "b", acquire=b) is True
    assert client.kv.get(key)[1]["LockIndex"] == 2
    client.session.destroy(a)
    client.session.destroy(b)


def test_a_destroyed_session_releases_or_deletes_and_its_key_rests(client, key):
    release = client.session.create(behavior="release", lock_delay=1)
    delete = client.session.create(behavior="delete", lock_delay=0)
    client.kv.put(f"{key}/r", "x", acquire=release)
    client.kv.put(f"{key}/d", "x", acquire=delete)
    client.session.destroy(release)
    client.session.destroy(delete)
    assert "Session" not in client.kv.get(f"{key}/r")[1]
    assert client.kv.get(f"{key}/d")[1] is None
    other = client.session.create()
    assert client.kv.put(f"{key}/r", "y", acquire=other) is False
    time.sleep(1.1)
    assert client.kv.put(f"{key}/r", "y", acquire=other) is True
    client.session.destroy(other)


def test_sessions_are_shown(client, http):
    sid = client.session.create(name="shown", ttl=20, behavior="delete", lock_delay=5)
    _, info = client.session.info(sid)
    assert (info["ID"], info["Name"], info["TTL"], info["Behavior"]) == (sid, "shown", "20s", "delete")
    assert info["LockDelay"] == 5_000_000_000 and info["CreateIndex"] >= 1
    assert sid in [s["ID"] for s in client.session.list()[1]]
    assert sid in [s["ID"] for s in client.session.node(info["Node"])[1]]
    assert client.session.renew(sid)["ID"] == sid
    client.session.destroy(sid)
    assert requests.get(f"{http}/v1/session/info/{sid}").json() == []
    assert requests.put(f"{http}/v1/session/renew/{sid}").status_code == 404
    refused = requests.put(f"{http}/v1/session/create", json={"TTL": "1s"})
    assert refused.status_code == 400 and "Invalid Session TTL" in refused.text


def test_an_unknown_session_cannot_lock(http, key):
    refused = requests.put(f"{http}/v1/kv/{key}?acquire=11111111-1111-1111-1111-111111111111", data="")
    assert refused.status_code == 500 and "invalid session" in refused.text


def test_a_transaction(client, http, key):
    def b64(text):
        return base64.b64encode(text.encode()).decode()

    done = client.txn.put([
        {"KV": {"Verb": "set", "Key": f"{key}/a", "Value": b64("1"), "Flags": 3}},
        {"KV": {"Verb": "cas", "Key": f"{key}/b", "Value": b64("2"), "Index": 0}},
        {"KV": {"Verb": "get-tree", "Key": f"{key}/"}},
        {"KV": {"Verb": "check-not-exists", "Key": f"{key}/c"}},
        {"KV": {"Verb": "delete", "Key": f"{key}/a"}},
    ])
    results = [r["KV"] for r in done["Results"]]
    assert done["Errors"] is None and [r["Key"] for r in results] == [f"{key}/{n}" for n in "abab"]
    assert [r["Value"] for r in results] == [None, None, b64("1"), b64("2")]
    assert len({r["ModifyIndex"] for r in results}) == 1
    assert client.kv.get(f"{key}/a")[1] is None

    refused = requests.put(f"{http}/v1/txn", json=[
        {"KV": {"Verb": "set", "Key": f"{key}/x", "Value": b64("1")}},
        {"KV": {"Verb": "get", "Key": f"{key}/none"}},
        {"KV": {"Verb": "check-index", "Key": f"{key}/b", "Index": results[1]["ModifyIndex"] + 1}},
    ])
    assert refused.status_code == 409
    assert refused.json()["Results"] is None
    assert [e["OpIndex"] for e in refused.json()["Errors"]] == [1, 2]
    assert "doesn't exist" in refused.json()["Errors"][0]["What"]
    assert client.kv.get(f"{key}/x")[1] is None
    many = [{"KV": {"Verb": "get", "Key": key}}] * 129
    assert requests.put(f"{http}/v1/txn", json=many).status_code == 413


def test_values_locks_and_history_survive_a_kill(server, key):
    server = server()
    server.start()
    at = urllib.parse.urlsplit(server.http)
    client = consul.Consul(host=at.hostname, port=at.port)
    session = client.session.create(ttl=60)
    client.kv.put(key, "locked", acquire=session)
    for n in range(5):
        client.kv.put(f"{key}/n", str(n))
    before = [client.kv.get(k)[1] for k in (key, f"{key}/n")]
    server.kill()
    server.start()
    at = urllib.parse.urlsplit(server.http)
    client = consul.Consul(host=at.hostname, port=at.port)
    assert [client.kv.get(k)[1] for k in (key, f"{key}/n")] == before
    assert [s["ID"] for s in client.session.list()[1]] == [session]
    history = requests.get(f"{server.http}/api/v1/config/history/{key}/n").json()["versions"]
    assert [v["version"] for v in history] == [5, 4, 3, 2, 1]


def b64(text):
    return base64.b64encode(text.encode()).decode()


def test_a_transaction_over_keys_nodes_services_and_checks(client, http, key):
    node, service = f"n-{key[:12]}", f"s-{key[:12]}"
    done = client.txn.put([
        {"KV": {"Verb": "set", "Key": key, "Value": b64("1")}},
        {"Node": {"Verb": "cas", "Node": {"Node": node, "Address": "10.3.3.3", "Meta": {"external-node": "true"}, "ModifyIndex": 0}}},
        {"Service": {"Verb": "set", "Node": node, "Service": {"ID": f"{service}-1", "Service": service, "Port": 81, "Tags": ["b", "a"]}}},
        {"Check": {"Verb": "set", "Check": {
            "Node": node, "ServiceID": f"{service}-1", "CheckID": "up", "Name": "is it up", "Status": "passing", "Output": "fine"}}},
        {"Service": {"Verb": "get", "Node": node, "Service": {"ID": f"{service}-1"}}},
    ])
    assert done["Errors"] is None
    assert [next(iter(result)) for result in done["Results"]] == ["KV", "Node", "Service", "Check", "Service"]
    _, set_node, set_service, set_check, _ = [next(iter(result.values())) for result in done["Results"]]
    assert (set_node["Node"], set_node["Address"], set_node["Meta"]) == (node, "10.3.3.3", {"external-node": "true"})
    assert (set_service["Service"], set_service["Tags"], set_service["Port"]) == (service, ["b", "a"], 81)
    assert (set_check["Status"], set_check["Output"], set_check["ServiceName"]) == ("passing", "fine", service)

    _, entries = client.health.service(service, passing=True)
    assert [(e["Node"]["Node"], e["Service"]["ID"]) for e in entries] == [(node, f"{service}-1")]
    assert entries[0]["Service"]["ModifyIndex"] == set_service["ModifyIndex"]
    assert [c["ModifyIndex"] for c in entries[0]["Checks"] if c["CheckID"] == "up"] == [set_check["ModifyIndex"]]

    # One condition that does not hold, and nothing is done: not the key, not the check.
    refused = requests.put(f"{http}/v1/txn", json=[
        {"KV": {"Verb": "set", "Key": key, "Value": b64("2")}},
        {"Check": {"Verb": "set", "Check": {"Node": node, "ServiceID": f"{service}-1", "CheckID": "up", "Status": "critical"}}},
        {"Node": {"Verb": "delete-cas", "Node": {"Node": node, "ModifyIndex": set_node["ModifyIndex"] + 1}}},
        {"KV": {"Verb": "get", "Key": f"{key}/none"}},
    ])
    assert refused.status_code == 409 and refused.json()["Results"] is None
    assert [e["OpIndex"] for e in refused.json()["Errors"]] == [2, 3]
    assert "index is stale" in refused.json()["Errors"][0]["What"]
    # And the other way round: the catalog's are possible, the key's is not.
    refused = requests.put(f"{http}/v1/txn", json=[
        {"Node": {"Verb": "delete", "Node": {"Node": node}}},
        {"KV": {"Verb": "cas", "Key": key, "Value": b64("2"), "Index": 1}},
    ])
    assert refused.status_code == 409 and [e["OpIndex"] for e in refused.json()["Errors"]] == [1]
    assert client.kv.get(key)[1]["Value"] == b"1"
    assert client.health.service(service, passing=True)[1] == entries

    index = client.health.service(service)[0]
    done = requests.put(f"{http}/v1/txn", json=[
        {"KV": {"Verb": "delete", "Key": key}},
        {"Node": {"Verb": "delete-cas", "Node": {"Node": node, "ModifyIndex": set_node["ModifyIndex"]}}},
    ])
    # Services and checks that came to it are changes of what is on the node, not of the node.
    assert done.status_code == 200 and done.json() == {"Results": [], "Errors": None}
    changed, entries = client.health.service(service, index=index, wait="5s")
    assert entries == [] and int(changed) > int(index)
    assert client.catalog.node(node)[1] is None


def test_a_transaction_is_there_as_a_whole_after_a_kill(server, key):
    server = server()
    server.start()
    node, service = f"n-{key[:12]}", f"s-{key[:12]}"
    done = requests.put(f"{server.http}/v1/txn", json=[
        {"Node": {"Verb": "set", "Node": {"Node": node, "Address": "10.3.3.3"}}},
        {"KV": {"Verb": "set", "Key": key, "Value": b64("1")}},
        *({"Service": {"Verb": "set", "Node": node, "Service": {"ID": f"{service}-{n}", "Service": service}}} for n in range(100)),
        {"Check": {"Verb": "set", "Check": {"Node": node, "CheckID": "up", "Status": "warning"}}},
    ])
    assert done.status_code == 200 and len(done.json()["Results"]) == 103
    server.kill()
    server.start()
    entries = requests.get(f"{server.http}/v1/health/service/{service}").json()
    assert len(entries) == 100 and {check["Status"] for e in entries for check in e["Checks"]} == {"warning"}
    assert requests.get(f"{server.http}/v1/kv/{key}?raw").text == "1"


@pytest.mark.parametrize("operation, why", [
    ({}, "none of KV, Node, Service and Check"),
    ({"Node": {"Verb": "set"}}, "Node is missing"),
    ({"Node": {"Verb": "lock", "Node": {"Node": "n"}}}, "unknown verb"),
    ({"Service": {"Verb": "set", "Node": "n", "Service": {"Service": "a_b"}}}, "Invalid service name"),
    ({"Service": {"Verb": "delete", "Service": {"ID": "a"}}}, "Must provide node"),
    ({"Check": {"Verb": "set", "Check": {"Node": "n", "CheckID": "c", "Status": "well"}}}, "Bad check status"),
])
def test_operations_that_cannot_be(http, operation, why):
    refused = requests.put(f"{http}/v1/txn", json=[operation])
    assert refused.status_code == 400 and why in refused.text
