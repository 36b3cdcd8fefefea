"""Consul's HTTP API with py-consul as it comes, and with plain requests where the wire itself matters."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

import consul
import pytest
import requests

from support import eventually

PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"

pytestmark = pytest.mark.ours("a service registry")


@pytest.fixture
def http(broker):
    return broker.waypost.http


@pytest.fixture
def client(http):
    host, port = http.removeprefix("http://").rsplit(":", 1)
    return consul.Consul(host=host, port=int(port))


@pytest.fixture
def service(name):
    """Names that may be those of services."""
    return lambda suffix="s": name(suffix).replace("_", "-").replace(".", "-").lower()[-60:].strip("-")


def ids(entries) -> list[str]:
    return sorted(entry["Service"]["ID"] for entry in entries)


def test_register_look_up_deregister(client, service):
    cart = service()
    assert client.agent.service.register(
        cart, service_id=f"{cart}-1", address="10.0.0.1", port=8080, tags=["b", "a"], meta={"version": "1.2.3"}
    )
    index, entries = client.health.service(cart, passing=True)
    assert int(index) >= 1 and len(entries) == 1
    entry = entries[0]
    assert entry["Service"]["Address"] == "10.0.0.1" and entry["Service"]["Port"] == 8080
    assert entry["Service"]["Tags"] == ["b", "a"]
    assert entry["Service"]["Meta"] == {"version": "1.2.3"}
    assert entry["Node"]["Node"] == client.agent.self()["Config"]["NodeName"]
    assert [check["CheckID"] for check in entry["Checks"]] == ["serfHealth"]
    _, services = client.catalog.services()
    assert services[cart] == ["a", "b"]
    _, nodes = client.catalog.service(cart)
    assert nodes[0]["ServiceID"] == f"{cart}-1" and nodes[0]["ServiceMeta"] == {"version": "1.2.3"}
    assert client.agent.services()[f"{cart}-1"]["Service"] == cart
    assert client.agent.service.deregister(f"{cart}-1")
    assert client.health.service(cart)[1] == []
    assert cart not in client.catalog.services()[1]


def test_ttl_check_from_birth_to_death(client, service):
    cart = service()
    check = consul.Check.ttl("1s")
    client.agent.service.register(cart, address="10.0.0.1", port=1, check=check)
    assert client.health.service(cart, passing=True)[1] == [], "critical until somebody says otherwise"
    assert client.agent.check.ttl_pass(f"service:{cart}", "fine")
    _, entries = client.health.service(cart, passing=True)
    mine = [c for c in entries[0]["Checks"] if c["CheckID"] == f"service:{cart}"][0]
    assert (mine["Status"], mine["Output"], mine["ServiceName"]) == ("passing", "fine", cart)
    client.agent.check.ttl_warn(f"service:{cart}")
    assert client.health.service(cart, passing=True)[1] == []
    assert [c["Status"] for c in client.health.checks(cart)[1]] == ["warning"]
    client.agent.check.ttl_pass(f"service:{cart}")
    eventually(lambda: client.health.service(cart, passing=True)[1] == [], timeout=5)
    assert f"service:{cart}" in [c["CheckID"] for c in client.health.state("critical")[1]]


def test_http_and_tcp_checks_are_run(client, service, http):
    well, ill = service("well"), service("ill")
    client.agent.service.register(well, port=1, check=consul.Check.http(f"{http}/livez", "100ms", timeout="1s"))
    port = int(http.rsplit(":", 1)[1])
    client.agent.service.register(ill, port=1, check=consul.Check.tcp("127.0.0.1", 1, "100ms", timeout="1s"))
    tcp = service("tcp")
    client.agent.service.register(tcp, port=1, check=consul.Check.tcp("127.0.0.1", port, "100ms"))
    eventually(lambda: len(client.health.service(well, passing=True)[1]) == 1, timeout=10)
    eventually(lambda: len(client.health.service(tcp, passing=True)[1]) == 1, timeout=10)
    eventually(lambda: client.health.checks(ill)[1][0]["Output"] != "", timeout=10)
    assert client.health.checks(ill)[1][0]["Status"] == "critical"


def test_blocking_query_wakes_for_its_own_service_only(client, service):
    watched, other = service("watched"), service("other")
    client.agent.service.register(watched, service_id=f"{watched}-1", address="10.0.0.1", port=1)
    index, _ = client.health.service(watched)
    told = []

    def watch():
        told.append((client.health.service(watched, index=index, wait="20s"), time.monotonic()))

    waiter = threading.Thread(target=watch)
    waiter.start()
    time.sleep(0.3)
    client.agent.service.register(other, address="10.0.0.9", port=1)
    client.agent.service.register(watched, service_id=f"{watched}-1", address="10.0.0.1", port=1)
    time.sleep(0.3)
    assert not told, "neither another service nor the same registration again is news"
    changed = time.monotonic()
    client.agent.service.register(watched, service_id=f"{watched}-2", address="10.0.0.2", port=1)
    waiter.join(10)
    (newer, entries), at = told[0]
    assert at - changed < 1 and int(newer) > int(index) and len(entries) == 2


def test_nobody_knows_it_yet_and_the_query_waits_for_it(client, service):
    later = service("later")
    index, entries = client.health.service(later)
    assert entries == []
    told = []
    waiter = threading.Thread(target=lambda: told.append(client.health.service(later, index=index, wait="20s")))
    waiter.start()
    time.sleep(0.3)
    client.agent.service.register(service("noise"), address="10.0.0.9", port=1)
    time.sleep(0.2)
    assert not told
    client.agent.service.register(later, address="10.0.0.1", port=1)
    waiter.join(10)
    assert len(told[0][1]) == 1


def test_wait_has_its_time(http, service):
    url = f"{http}/v1/health/service/{service()}"
    index = requests.get(url).headers["X-Consul-Index"]
    begin = time.monotonic()
    answer = requests.get(url, params={"index": index, "wait": "1s"})
    assert 0.95 < time.monotonic() - begin < 2
    assert answer.status_code == 200 and answer.headers["X-Consul-Index"] == index


def test_headers_and_refusals_of_a_read(http):
    answer = requests.get(f"{http}/v1/catalog/services")
    assert int(answer.headers["X-Consul-Index"]) >= 1
    assert answer.headers["X-Consul-KnownLeader"] == "true"
    assert answer.headers["X-Consul-LastContact"] == "0"
    assert answer.headers["X-Consul-Effective-Consistency"] == "leader"
    assert answer.headers["Vary"] == "Accept-Encoding"
    stale = requests.get(f"{http}/v1/catalog/services", params={"stale": ""})
    assert stale.headers["X-Consul-Effective-Consistency"] == "stale"
    for query, status, text in [
        ("index=x", 400, "Invalid index"),
        ("wait=55", 400, "Invalid wait time"),
        ("stale&consistent", 400, "conflicting"),
        ("dc=elsewhere", 500, "No path to datacenter"),
    ]:
        refused = requests.get(f"{http}/v1/catalog/services?{query}")
        assert (refused.status_code, text in refused.text) == (status, True), refused.text
    assert requests.post(f"{http}/v1/catalog/services").status_code == 405
    assert requests.put(f"{http}/v1/agent/service/register", data="{").status_code == 400
    missing = requests.put(f"{http}/v1/agent/service/register", json={"ID": "x"})
    assert (missing.status_code, missing.text) == (400, "Missing service name")
    assert requests.get(f"{http}/v1/nothing").status_code == 404
    assert requests.put(f"{http}/v1/agent/check/pass/service:nobody").status_code == 404
    assert requests.put(f"{http}/v1/agent/service/deregister/nobody").status_code == 404
    assert requests.get(f"{http}/v1/connect/ca/roots").status_code == 501
    assert requests.get(f"{http}/v1/acl/tokens").text.startswith("ACL support disabled")


def test_empty_credentials_are_none(http):
    assert requests.get(f"{http}/v1/agent/self", headers={"Authorization": "Basic Og=="}).status_code == 200
    assert requests.get(f"{http}/v1/agent/self", headers={"X-Consul-Token": "whatever"}).status_code == 200


def test_tags_meta_and_filters(client, service, http):
    s = service()
    for number, tags, meta in [(1, ["v1", "Blue"], {"k": "x"}), (2, ["v1"], {"k": "y", "a-b": "z"}), (3, [], {})]:
        client.agent.service.register(s, service_id=f"{s}-{number}", address=f"10.0.0.{number}", port=number, tags=tags, meta=meta)
    assert ids(client.health.service(s, tag="v1")[1]) == [f"{s}-1", f"{s}-2"]
    both = requests.get(f"{http}/v1/health/service/{s}?tag=V1&tag=blue").json()
    assert ids(both) == [f"{s}-1"]
    for expression, expected in [
        ('"v1" in Service.Tags and Service.Meta.k == "y"', [2]),
        ('Service.Meta["a-b"] == "z"', [2]),
        ("Service.Tags is empty", [3]),
        ("Service.Port != 2", [1, 3]),
        ('Service.ID matches ".*-[12]$" and not Service.Meta.k == x', [2]),
        ('Checks.Status == "passing" and Node.Datacenter == dc1', [1, 2, 3]),
        ('Checks.Status == "critical"', []),
    ]:
        found = requests.get(f"{http}/v1/health/service/{s}", params={"filter": expression})
        assert ids(found.json()) == [f"{s}-{n}" for n in expected], expression
    found = requests.get(f"{http}/v1/catalog/service/{s}", params={"filter": 'ServiceMeta.k == "x"'}).json()
    assert [entry["ServiceID"] for entry in found] == [f"{s}-1"]
    wrong = requests.get(f"{http}/v1/health/service/{s}", params={"filter": "Nonsense == 1"})
    assert wrong.status_code == 400 and "Nonsense" in wrong.text


def test_spring_registers_and_is_healed(http, service):
    """What Spring Cloud Consul sends, in its order; a 404 for its heartbeat makes it register again."""
    app = service("app")
    beat = f"{http}/v1/agent/check/pass/service:{app}-1"
    assert requests.put(beat, params={"note": ""}).status_code == 404
    body = {"ID": f"{app}-1", "Name": app, "Tags": [], "Address": "host.example", "Meta": {"secure": "false"}, "Port": 8080,
            "Check": {"TTL": "30s"}, "Checks": None, "Unknown": {"new": 1}}
    assert requests.put(f"{http}/v1/agent/service/register", json=body).status_code == 200
    assert requests.put(beat).status_code == 200
    listed = requests.get(f"{http}/v1/health/service/{app}", params={"passing": "true", "tag": "", "dc": "", "near": ""}).json()
    assert listed[0]["Service"]["Address"] == "host.example"
    assert requests.get(f"{http}/v1/status/leader").json().endswith(":8300")
    out = requests.put(f"{http}/v1/agent/service/maintenance/{app}-1", params={"enable": "true", "reason": "upgrade"})
    assert out.status_code == 200
    assert requests.get(f"{http}/v1/health/service/{app}?passing").json() == []
    checks = requests.get(f"{http}/v1/health/checks/{app}").json()
    assert [c["Notes"] for c in checks if c["CheckID"] == f"_service_maintenance:{app}-1"] == ["upgrade"]
    assert requests.get(f"{http}/v1/agent/health/service/id/{app}-1", params={"format": "text"}).text == "maintenance"
    assert requests.get(f"{http}/v1/agent/health/service/name/{app}").status_code == 503
    requests.put(f"{http}/v1/agent/service/maintenance/{app}-1", params={"enable": "false"})
    assert requests.get(f"{http}/v1/agent/health/service/name/{app}").status_code == 200
    assert requests.get(f"{http}/v1/agent/health/service/name/{app}-nobody").status_code == 404


def test_checks_of_their_own(client, service, http):
    s = service()
    client.agent.service.register(s, address="10.0.0.1", port=1)
    assert client.agent.check.register(f"{s}-extra", check=consul.Check.ttl("10s"), service_id=s, check_id=f"{s}-extra")
    assert client.health.service(s, passing=True)[1] == []
    assert client.agent.check.ttl_pass(f"{s}-extra")
    assert len(client.health.service(s, passing=True)[1]) == 1
    update = requests.put(f"{http}/v1/agent/check/update/{s}-extra", json={"Status": "critical", "Output": "disk full"})
    assert update.status_code == 200
    assert client.agent.checks()[f"{s}-extra"]["Output"] == "disk full"
    client.agent.service.register(s, address="10.0.0.1", port=1)
    assert f"{s}-extra" in client.agent.checks(), "registering again keeps checks that were added"
    assert client.agent.check.deregister(f"{s}-extra")
    assert len(client.health.service(s, passing=True)[1]) == 1
    assert not client.agent.check.ttl_pass(f"{s}-extra"), "it is gone"


def test_the_catalog_takes_other_nodes(client, service):
    node, s = service("node"), service("db")
    assert client.catalog.register(node, "10.9.0.1", service={"ID": f"{s}-1", "Service": s, "Port": 5432, "Tags": ["primary"]})
    _, nodes = client.catalog.nodes()
    assert node in [one["Node"] for one in nodes]
    _, found = client.catalog.service(s)
    assert (found[0]["Node"], found[0]["Address"], found[0]["ServiceAddress"]) == (node, "10.9.0.1", "")
    _, whole = client.catalog.node(node)
    assert whole["Services"][f"{s}-1"]["Port"] == 5432
    _, entries = client.health.service(s, passing=True)
    assert [check["CheckID"] for check in entries[0]["Checks"]] == [], "nobody checks it"
    index, _ = client.health.node(node)
    assert client.catalog.register(node, "10.9.0.1", check={"Node": node, "CheckID": "disk", "Name": "disk", "Status": "critical"})
    assert [check["Status"] for check in client.health.node(node)[1]] == ["critical"]
    assert client.health.service(s, passing=True)[1] == [], "a node that is ill makes its services ill"
    assert client.catalog.deregister(node, check_id="disk")
    assert len(client.health.service(s, passing=True)[1]) == 1
    assert client.catalog.deregister(node, service_id=f"{s}-1")
    assert client.catalog.service(s)[1] == []
    assert client.catalog.deregister(node)
    assert client.catalog.node(node)[1] is None


def test_prepared_queries(client, service, http):
    s = service()
    client.agent.service.register(s, service_id=f"{s}-1", address="10.0.0.1", port=1, tags=["good"])
    client.agent.service.register(s, service_id=f"{s}-2", address="10.0.0.2", port=1, tags=["bad"])
    made = client.query.create(s, name=f"{s}-q", onlypassing=True, tags=["!bad"])
    assert [q["ID"] for q in client.query.get(made["ID"])] == [made["ID"]]
    result = client.query.execute(f"{s}-q")
    assert (result["Service"], ids(result["Nodes"])) == (s, [f"{s}-1"])
    assert made["ID"] in [q["ID"] for q in client.query.list()]
    changed = requests.put(f"{http}/v1/query/{made['ID']}", json={"Name": f"{s}-q", "Service": {"Service": s}})
    assert changed.status_code == 200
    assert ids(client.query.execute(made["ID"])["Nodes"]) == [f"{s}-1", f"{s}-2"]
    assert len(client.query.execute(made["ID"], limit=1)["Nodes"]) == 1
    assert client.query.delete(made["ID"])
    assert requests.get(f"{http}/v1/query/{made['ID']}").status_code == 404


def test_an_event_is_listed_and_reaches_those_who_are_meant(client, service, ch, http):
    s = service()
    got = {}
    for number, tag in [(1, "gpu"), (2, "cpu")]:
        described = {"id": f"{s}-{number}", "tags": [tag]}
        ch.basic_consume(
            f"{s}-queue" if declare(ch, s) else "", lambda c, m, p, body, n=number: got.setdefault(n, (p.headers, body)),
            auto_ack=True, arguments={"x-service": described},
        )
    index = requests.get(f"{http}/v1/event/list", params={"name": s}).headers["X-Consul-Index"]
    event = client.event.fire(s, "payload", service=s, tag="gpu")
    assert event["Name"] == s and event["TagFilter"] == "gpu"
    deadline = time.monotonic() + 5
    while not got and time.monotonic() < deadline:
        ch.connection.process_data_events(0.05)
    ch.connection.process_data_events(0.2)
    assert list(got) == [1] and got[1][1] == b"payload" and got[1][0]["x-consul-event"] == s
    newer, events = client.event.list(name=s, index=index, wait="5s")
    assert int(newer) > int(index) and [e["Payload"] for e in events] == [b"payload"]


def declare(ch, service: str) -> bool:
    ch.queue_declare(f"{service}-queue", durable=True)
    return True


def test_what_tools_ask(client, http):
    assert client.status.leader() and client.status.peers() == [client.status.leader()]
    assert client.catalog.datacenters() == ["dc1"]
    assert client.agent.members()[0]["Status"] == 1
    assert client.operator.raft_config()["Servers"][0]["Leader"] is True
    assert client.coordinate.nodes()[1][0]["Coord"]["Vec"] == [0] * 8
    assert requests.get(f"{http}/v1/operator/autopilot/health").json()["Healthy"] is True
    assert "Gauges" in requests.get(f"{http}/v1/agent/metrics").json()
    assert "# TYPE" in requests.get(f"{http}/v1/agent/metrics", params={"format": "prometheus"}).text
    assert requests.get(f"{http}/v1/health/connect/any").json() == []
    assert client.agent.self()["Config"]["Datacenter"] == "dc1"
    pretty = requests.get(f"{http}/v1/catalog/datacenters?pretty").text
    assert json.loads(pretty) == ["dc1"] and "\n" in pretty


def test_registrations_survive_a_crash(server):
    waypost = server()
    waypost.start()
    body = {"ID": "kept-1", "Name": "kept", "Address": "10.0.0.1", "Port": 1, "Tags": ["b", "a"]}
    assert requests.put(f"{waypost.http}/v1/agent/service/register", json=body).status_code == 200
    query = requests.post(f"{waypost.http}/v1/query", json={"Name": "q", "Service": {"Service": "kept"}}).json()
    before = requests.get(f"{waypost.http}/v1/health/service/kept")
    waypost.kill()
    waypost.start()
    after = requests.get(f"{waypost.http}/v1/health/service/kept")
    assert [e["Service"]["Tags"] for e in after.json()] == [["b", "a"]]
    assert int(after.headers["X-Consul-Index"]) > int(before.headers["X-Consul-Index"])
    assert requests.get(f"{waypost.http}/v1/query/{query['ID']}/execute").json()["Service"] == "kept"
    # A watcher from before the crash hears of the next change, though its index is not ours.
    told = []
    url = f"{waypost.http}/v1/health/service/kept"
    ahead = int(after.headers["X-Consul-Index"]) + 10**9
    waiter = threading.Thread(target=lambda: told.append(requests.get(url, params={"index": ahead, "wait": "20s"})))
    waiter.start()
    time.sleep(0.3)
    requests.put(f"{waypost.http}/v1/agent/service/register", json=body | {"ID": "kept-2"})
    waiter.join(5)
    assert len(told[0].json()) == 2


def test_prometheus_http_sd(client, service, http):
    s = service()
    client.agent.service.register(s, service_id=f"{s}-1", address="10.0.0.1", port=9100, tags=["metrics"], meta={"team-name": "x"})
    client.agent.service.register(s, service_id=f"{s}-2", address="2001:db8::1", port=9100)
    url = f"{http}/api/v1/prometheus/http_sd"
    answer = requests.get(url, params={"service": s})
    assert answer.headers["Content-Type"] == "application/json"
    groups = answer.json()
    assert [group["targets"] for group in groups] == [["10.0.0.1:9100"], ["[2001:db8::1]:9100"]]
    labels = groups[0]["labels"]
    assert all(isinstance(value, str) for value in labels.values())
    assert labels["__meta_waypost_service"] == s and labels["__meta_waypost_tags"] == ",metrics,"
    assert labels["__meta_waypost_meta_team_name"] == "x" and labels["__meta_waypost_health"] == "passing"
    assert len(requests.get(url, params={"service": s, "tag": "metrics"}).json()) == 1
    again = requests.get(url, params={"service": s}, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_envoy_eds_over_rest(client, service, http):
    s = service()
    client.agent.service.register(s, service_id=f"{s}-1", address="10.0.0.1", port=80, meta={"version": "1.0.0", "zone": "eu-1"})
    client.agent.service.register(s, service_id=f"{s}-2", address="10.0.0.2", port=80, meta={"version": "2.1.0", "zone": "eu-2"})
    client.agent.service.maintenance(f"{s}-2", True)
    asked = {"node": {"id": "envoy", "extensions": ["x" * 80_000]}, "resource_names": [s, f"{s}?version=^2", f"{s}-none"],
             "type_url": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"}
    answer = requests.post(f"{http}/v3/discovery:endpoints", json=asked).json()
    assert answer["type_url"] == asked["type_url"] and answer["version_info"]
    whole, second, none = answer["resources"]
    assert [e["locality"] for e in whole["endpoints"]] == [{"zone": "eu-1"}, {"zone": "eu-2"}]
    states = [e["lb_endpoints"][0]["health_status"] for e in whole["endpoints"]]
    assert states == ["HEALTHY", "DRAINING"]
    assert second["cluster_name"] == f"{s}?version=^2" and len(second["endpoints"]) == 1
    assert none["endpoints"] == []


def test_compressed_when_that_is_worth_it(client, service, http):
    s = service()
    for number in range(20):
        client.agent.service.register(s, service_id=f"{s}-{number}", address="10.0.0.1", port=number)
    url = f"{http}/v1/health/service/{s}"
    plain = requests.get(url, headers={"Accept-Encoding": "identity"})
    zipped = requests.get(url, headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip" and "Content-Encoding" not in plain.headers
    assert plain.json() == zipped.json()


@pytest.mark.timeout(200)
def test_the_consul_package_of_npm(broker, name):
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = PROGRAMS / "node-consul"
    if not (folder / "node_modules").exists():
        install = ["npm", "ci", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=150)
    environment = os.environ | {"CONSUL_URL": broker.waypost.http, "PREFIX": name("npm").replace("_", "-").replace(".", "-")[-40:]}
    command = ["node", "main.js"]
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all good" in done.stdout


@pytest.mark.timeout(600)
def test_consuls_own_client_for_go(broker, name, tmp_path):
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    binary = tmp_path / "go-consul"
    build = ["go", "build", "-o", str(binary), "."]
    built = subprocess.run(build, cwd=PROGRAMS / "go-consul", capture_output=True, text=True, timeout=500)
    assert built.returncode == 0, built.stderr
    url = broker.waypost.http.removeprefix("http://")
    environment = os.environ | {"CONSUL_URL": url, "PREFIX": name("go").replace("_", "-").replace(".", "-").lower()[-40:].strip("-")}
    done = subprocess.run([str(binary)], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all good" in done.stdout


def test_the_log_as_it_is_written(http, broker):
    url = f"{http}/v1/agent/monitor"
    assert requests.get(url, params={"loglevel": "loud"}).status_code == 400
    with requests.get(url, params={"loglevel": "debug"}, stream=True, timeout=10) as text, \
            requests.get(url, params={"loglevel": "err"}, stream=True, timeout=1) as urgent, \
            requests.get(url, params={"loglevel": "debug", "logjson": ""}, stream=True, timeout=10) as objects:
        assert text.headers["Content-Type"].startswith("text/plain")
        with socket.create_connection((broker.endpoint.host, broker.endpoint.port)) as peer:
            peer.sendall(b"no protocol at all")
            peer.recv(100)
        line = next(text.iter_lines())
        assert b"INFO" in line or b"DEBUG" in line, line
        said = json.loads(next(objects.iter_lines()))
        assert said["level"] in ("INFO", "DEBUG") and said["target"].startswith("waypost")
        with pytest.raises(requests.exceptions.ConnectionError):
            next(urgent.iter_lines())


def test_the_log_is_for_administrators(server):
    waypost = server("--http-auth", "always")
    waypost.start()
    url = f"{waypost.http}/v1/agent/monitor"
    assert requests.get(url).status_code in (401, 403)
    with requests.get(url, auth=("guest", "guest"), stream=True, timeout=10) as lines:
        assert lines.status_code == 200
    assert requests.get(f"{waypost.http}/v1/snapshot", auth=("guest", "guest")).status_code == 501
