"""Prometheus itself, where its binary is found (on PATH, or named by PROMETHEUS_BIN): it finds instances by Consul's API and
by http_sd, follows changes, and scrapes them. Where it is not, or was built without Consul: its discovery alone, built by Go."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

import pytest
import requests

from support import eventually

pytestmark = pytest.mark.ours("service discovery")

GLOBAL = "global: { scrape_interval: 1s, scrape_timeout: 1s }\n"

CONSUL_SD = """
scrape_configs:
  - job_name: consul
    consul_sd_configs:
      - {{ server: "{server}", services: ["{service}"], refresh_interval: 1s }}
    relabel_configs:
      - {{ source_labels: [__meta_consul_service_id], target_label: instance_id }}
  - job_name: all
    consul_sd_configs:
      - {{ server: "{server}", tags: ["{service}-tag"], refresh_interval: 1s }}
"""

HTTP_SD = """
scrape_configs:
  - job_name: http
    http_sd_configs:
      - {{ url: "http://{server}/api/v1/prometheus/http_sd?service={service}", refresh_interval: 1s }}
    relabel_configs:
      - {{ source_labels: [__meta_waypost_tags], regex: ".*,metrics,.*", action: keep }}
      - {{ source_labels: [__meta_waypost_instance], target_label: instance_id }}
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Prometheus:
    def __init__(self, program: str, config: str):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="prometheus-"))
        (self.dir / "prometheus.yml").write_text(GLOBAL + config)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = (self.dir / "log").open("wb")
        flags = [
            f"--config.file={self.dir / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.dir / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        self.process = subprocess.Popen([program, *flags], stdout=self.log, stderr=self.log)

    def start(self) -> None:
        eventually(lambda: self.process.poll() is not None or self.is_ready(), timeout=60)
        said = (self.dir / "log").read_text()
        if "field consul_sd_configs not found" in said:
            # Debian's leaves it out.
            pytest.skip("this build of prometheus has no consul_sd")
        assert self.process.poll() is None, said[-2000:]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        self.log.close()
        shutil.rmtree(self.dir)

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def targets(self, job: str) -> list[dict]:
        answer = requests.get(f"{self.url}/api/v1/targets?state=active", timeout=5).json()
        return [t for t in answer["data"]["activeTargets"] if t["scrapePool"] == job]

    def ids(self, job: str) -> list[str]:
        return sorted(t["labels"].get("instance_id", "") for t in self.targets(job))

    def finds(self, job: str, *ids: str) -> None:
        # It takes five seconds to follow what it has discovered.
        eventually(lambda: self.ids(job) == sorted(ids), timeout=40, interval=0.2)


@pytest.fixture
def service(name) -> str:
    return name("s").replace("_", "-").replace(".", "-").lower()[-50:].strip("-")


@pytest.fixture
def http(broker) -> str:
    return broker.waypost.http


@pytest.fixture
def prometheus(http, service):
    program = os.environ.get("PROMETHEUS_BIN") or shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (PROMETHEUS_BIN names it elsewhere)")
    started = []

    def start(config: str) -> Prometheus:
        started.append(Prometheus(program, config.format(server=http.removeprefix("http://"), service=service)))
        started[0].start()
        return started[0]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def register(http, service):
    """Registers the server itself as an instance: its metrics are there to be scraped."""
    host, port = http.removeprefix("http://").rsplit(":", 1)

    def put(number: int, *tags: str) -> None:
        body = {"ID": f"{service}-{number}", "Name": service, "Address": host, "Port": int(port), "Tags": tags}
        assert requests.put(f"{http}/v1/agent/service/register", json=body, timeout=5).status_code == 200

    return put


def forget(http: str, instance: str) -> None:
    assert requests.put(f"{http}/v1/agent/service/deregister/{instance}", timeout=5).status_code == 200


def test_http_sd_finds_scrapes_and_forgets(http, service, prometheus, register):
    register(1, "metrics")
    found = prometheus(HTTP_SD)
    found.finds("http", f"{service}-1")
    eventually(lambda: [t["health"] for t in found.targets("http")] == ["up"], timeout=20)
    labels = found.targets("http")[0]["discoveredLabels"]
    assert labels["__meta_waypost_service"] == service and labels["__meta_waypost_health"] == "passing"
    register(2)
    register(3, "metrics", "more")
    found.finds("http", f"{service}-1", f"{service}-3")
    forget(http, f"{service}-1")
    found.finds("http", f"{service}-3")


def test_consul_sd_finds_scrapes_and_forgets(http, service, prometheus, register):
    register(1, "metrics", f"{service}-tag")
    found = prometheus(CONSUL_SD)
    found.finds("consul", f"{service}-1")
    eventually(lambda: [t["health"] for t in found.targets("consul")] == ["up"], timeout=20)
    eventually(lambda: len(found.targets("all")) == 1, timeout=20)
    labels = found.targets("consul")[0]["discoveredLabels"]
    assert labels["__meta_consul_service"] == service and labels["__meta_consul_health"] == "passing"
    assert labels["__meta_consul_tags"] == f",metrics,{service}-tag,"
    register(2)
    found.finds("consul", f"{service}-1", f"{service}-2")
    forget(http, f"{service}-1")
    found.finds("consul", f"{service}-2")


@pytest.mark.timeout(700)
def test_its_discovery_by_consul_built_from_its_module(http, service, register, tmp_path):
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    binary, told = tmp_path / "discovery", tmp_path / "told"
    folder = pathlib.Path(__file__).resolve().parent / "programs" / "go-prometheus"
    build = ["go", "build", "-o", str(binary), "."]
    built = subprocess.run(build, cwd=folder, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    register(1, "metrics", "b")

    def found() -> list[dict]:
        lines = told.read_text().splitlines()
        return json.loads(lines[-1]) if lines else []

    def finds(*ids: str) -> None:
        eventually(lambda: [t["__meta_consul_service_id"] for t in found()] == list(ids), timeout=40)

    environment = os.environ | {"CONSUL_URL": http.removeprefix("http://"), "SERVICE": service}
    with told.open("wb") as out:
        process = subprocess.Popen([str(binary)], env=environment, stdin=subprocess.DEVNULL, stdout=out)
        try:
            finds(f"{service}-1")
            labels = found()[0]
            assert labels["__address__"] == http.removeprefix("http://") and labels["__meta_consul_tags"] == ",metrics,b,"
            assert labels["__meta_consul_service"] == service and labels["__meta_consul_health"] == "passing"
            register(2)
            finds(f"{service}-1", f"{service}-2")
            forget(http, f"{service}-1")
            finds(f"{service}-2")
            assert process.poll() is None
        finally:
            process.kill()
            process.wait(timeout=10)
