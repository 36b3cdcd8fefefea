"""Majordomo and HTTP through the same services: clients of one, workers of the other."""

from __future__ import annotations

import http.server
import queue
import threading

import pytest
import requests
import zmq

from test_zmtp_majordomo import C1, C2, mdp, reply, request, worker  # noqa: F401

pytestmark = pytest.mark.ours("ZeroMQ devices")


@pytest.fixture
def hook():
    """A plain web service that answers in capitals; `got` has headers and bodies."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            service.got.put((self.headers, body))
            status = service.statuses.pop(0) if service.statuses else 200
            self.send_response(status)
            answer = body.upper() if status == 200 else b""
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.daemon_threads = True
    service.got, service.statuses = queue.Queue(), []
    service.url = f"http://127.0.0.1:{service.server_port}/hook"
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield service
    service.shutdown()
    service.server_close()


def push_to(mdp, service: str, url: str) -> None:
    place = f"{mdp.http}/api/v1/services/{service}/instances/web"
    assert requests.put(place, json={"push": {"url": url}}, timeout=10).status_code == 201


def test_zeromq_clients_are_answered_by_a_web_service(peers, mdp, hook):
    push_to(mdp, "shout", hook.url)
    old, new = peers.connect(zmq.REQ, mdp.front), peers.connect(zmq.DEALER, mdp.front)
    old.send_multipart([C1, b"shout", b"hello"])
    assert old.recv_multipart() == [C1, b"shout", b"HELLO"]
    new.send_multipart([C2, b"\x01", b"shout", b"again"])
    assert new.recv_multipart() == [C2, b"\x03", b"shout", b"AGAIN"]
    seen = [hook.got.get(timeout=5) for _ in range(2)]
    assert [body for _, body in seen] == [b"hello", b"again"]
    assert {headers["waypost-service"] for headers, _ in seen} == {"shout"}


def test_a_web_service_that_fails_is_asked_again_for_a_zeromq_client(peers, mdp, hook):
    hook.statuses = [503]
    push_to(mdp, "shaky", hook.url)
    client = peers.connect(zmq.REQ, mdp.front)
    client.send_multipart([C1, b"shaky", b"try"])
    assert client.recv_multipart() == [C1, b"shaky", b"TRY"]
    first, again = hook.got.get(timeout=5)[0], hook.got.get(timeout=5)[0]
    assert first["waypost-delivery-id"] == again["waypost-delivery-id"]


def test_an_http_client_is_answered_by_a_zeromq_worker(peers, mdp):
    echo = worker(peers, mdp, b"echo")
    answers = queue.Queue()
    url = f"{mdp.http}/api/v1/services/echo/request"
    ask = lambda: answers.put(requests.post(url, params={"timeout": "10s"}, data=b"from http", timeout=20))
    threading.Thread(target=ask, daemon=True).start()
    address, body = request(echo)
    assert body == [b"from http"]
    reply(echo, address, [b"from zeromq"])
    answer = answers.get(timeout=10)
    assert (answer.status_code, answer.content) == (200, b"from zeromq")


@pytest.mark.parametrize("mdp", ["10s"], indirect=True)
def test_a_zeromq_worker_and_a_web_service_share_the_work(peers, mdp, hook):
    push_to(mdp, "mixed", hook.url)
    slow = worker(peers, mdp, b"mixed")
    clients = [peers.connect(zmq.REQ, mdp.front) for _ in range(8)]
    for n, client in enumerate(clients):
        client.send_multipart([C1, b"mixed", b"a%d" % n])
    # The worker takes one and keeps it: all others find the web service.
    address, (kept,) = request(slow)
    rest = [client for n, client in enumerate(clients) if b"a%d" % n != kept]
    for client in rest:
        assert client.recv_multipart()[-1].startswith(b"A")
    reply(slow, address, [b"done by the worker"])
    (owner,) = [client for client in clients if client not in rest]
    assert owner.recv_multipart()[-1] == b"done by the worker"
