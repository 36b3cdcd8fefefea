"""Our command line and HTTP faces beside a stock client."""

import json
import urllib.error
import urllib.request

import pytest

from support import bodies, get, props, publish, ready, sync

pytestmark = pytest.mark.ours("our own command line")


@pytest.fixture
def cli(broker):
    return broker.waypost.cli


def fetch(broker, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(broker.waypost.http + path, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_health_and_metrics(broker, path):
    status, text = fetch(broker, path)
    assert status == 200 and text


def test_metrics_are_in_the_text_format(broker, ch, queue):
    publish(ch, queue(), 1, 2, 3)
    sync(ch)
    _, text = fetch(broker, "/metrics")
    for line in text.splitlines():
        assert line.startswith("#") or len(line.rsplit(" ", 1)) == 2, line
        if not line.startswith("#"):
            float(line.rsplit(" ", 1)[1])


def test_a_foreign_origin_is_refused(broker):
    request = urllib.request.Request(broker.waypost.http + "/api/v1/queues", headers={"Origin": "http://elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 403


def test_queues_are_listed(cli, ch, queue):
    q = queue({"x-max-length": 7})
    publish(ch, q, 1, 2)
    sync(ch)
    listed = json.loads(cli("queues", "ls", "-o", "json").stdout)
    (one,) = [row for row in listed if row["name"] == q]
    assert one["durable"] is True


def test_publish_and_consume(cli, broker, ch, queue):
    q = queue()
    url = broker.url()
    cli("publish", "--uri", url, "", q, "from the command line")
    _, properties, body = get(ch, q)
    assert body == b"from the command line"
    ch.basic_publish("", q, b"to the command line", props(delivery_mode=2))
    done = cli("consume", "--uri", url, q, "--count", "1", "--output", "raw")
    assert "to the command line" in done.stdout
    assert ready(ch, q) == 0


def test_declare_and_bind(cli, ch, name):
    q = name()
    cli("queues", "declare", q, "-a", "x-max-length=3")
    ch.queue_declare(q, durable=True, arguments={"x-max-length": 3})
    publish(ch, q, *range(5))
    assert bodies(ch, q, 3) == [b"2", b"3", b"4"]
    # What is there is different: scripts tell that from other failures.
    assert cli("queues", "declare", q, "-a", "x-max-length=4", check=False).returncode == 6
    cli("queues", "delete", q)


def test_mistakes_end_with_an_error(cli):
    assert cli("queues", "show", "absent-one", check=False).returncode != 0
    assert cli("no-such-command", check=False).returncode == 2
