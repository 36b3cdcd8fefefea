"""`waypost config`."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid

import pytest

from broker import waypost_binary

pytestmark = pytest.mark.ours("RabbitMQ has no configuration center")


@pytest.fixture
def ns():
    return f"t{uuid.uuid4().hex}"


@pytest.fixture
def cli(broker):
    return broker.waypost.cli


def test_set_get_ls_rm(cli, ns):
    key = f"{ns}/a/b"
    assert cli("config", "set", key, "one", "--type", "text/plain", "-c", "why").stdout == ""
    assert cli("config", "get", key).stdout == "one"
    about = json.loads(cli("config", "get", key, "-o", "json").stdout)
    assert (about["path"], about["content_type"], about["comment"]) == (key, "text/plain", "why")
    row = cli("config", "ls", f"{ns}/").stdout.rstrip("\n").split("\t")
    assert (row[0], row[1], row[6]) == (key, "1", "why")
    cli("config", "rm", key)
    assert cli("config", "get", key, check=False).returncode == 4
    assert cli("config", "ls", f"{ns}/").stdout == ""


def test_conditions_and_files(cli, ns, tmp_path):
    key, file = f"{ns}/k", tmp_path / "value"
    file.write_bytes(b"a\nb\n")
    done = json.loads(cli("config", "set", key, "-f", str(file), "--if-absent", "-o", "json").stdout)
    assert cli("config", "set", key, "x", "--if-absent", check=False).returncode == 6
    assert cli("config", "set", key, "x", "--if-revision", "1", check=False).returncode == 6
    cli("config", "set", key, "x", "--if-revision", str(done["revision"]))
    assert cli("config", "set", key, check=False).returncode == 2


def test_history_diff_rollback(cli, ns):
    key = f"{ns}/k"
    for value in ("1\n", "1\n2\n", "2\n"):
        cli("config", "set", key, value)
    rows = [line.split("\t") for line in cli("config", "history", key).stdout.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [("3", "put"), ("2", "put"), ("1", "put")]
    assert rows[0][1].endswith("Z") and rows[0][1].startswith(time.strftime("%Y-", time.gmtime()))
    diff = cli("config", "diff", key).stdout
    assert "-1\n" in diff and f"{key}@2" in diff
    assert "+2\n" in cli("config", "diff", key, "1", "2").stdout
    cli("config", "rollback", key, "1", "-c", "undo")
    assert cli("config", "get", key).stdout == "1\n"
    assert cli("config", "get", key, "--at-version", "2").stdout == "1\n2\n"
    assert cli("config", "rollback", key, "77", check=False).returncode == 4


def test_gray(cli, ns):
    key = f"{ns}/k"
    cli("config", "set", key, "old")
    cli("config", "gray", "set", key, "new", "--id", "cart-1", "--versions", "^2")
    assert cli("config", "get", key).stdout == "old"
    assert cli("config", "get", key, "--instance", "cart-1").stdout == "new"
    assert cli("config", "get", key, "--instance", "cart-2", "--instance-version", "2.5.0").stdout == "new"
    assert json.loads(cli("config", "gray", "show", key, "-o", "json").stdout)["rule"]["version"] == "^2"
    cli("config", "gray", "set", key, "--percent", "0")
    assert cli("config", "get", key, "--instance", "cart-1").stdout == "old"
    cli("config", "gray", "promote", key)
    assert cli("config", "get", key).stdout == "new"
    assert cli("config", "gray", "abandon", key, check=False).returncode == 4


def test_edit_refuses_to_overwrite_what_came_meanwhile(broker, cli, ns, tmp_path):
    key, editor = f"{ns}/app.txt", tmp_path / "editor"
    editor.write_text("#!/bin/sh\ncase $1 in *app.txt) ;; *) exit 9;; esac\necho more >> \"$1\"\n")
    editor.chmod(0o755)

    def edit(script):
        environment = os.environ | {"EDITOR": str(script), "VISUAL": ""}
        environment["WAYPOST_HTTP"] = broker.waypost.http
        return subprocess.run([str(waypost_binary()), "config", "edit", key], env=environment, timeout=30,
                              capture_output=True, text=True)

    assert edit(editor).returncode == 0
    assert edit(editor).returncode == 0
    assert cli("config", "get", key).stdout == "more\nmore\n"
    meanwhile = tmp_path / "meanwhile"
    command = f"{waypost_binary()} config set {key} theirs"
    meanwhile.write_text(f"#!/bin/sh\n{command}\necho mine > \"$1\"\n")
    meanwhile.chmod(0o755)
    assert edit(meanwhile).returncode == 6
    assert cli("config", "get", key).stdout == "theirs"
    assert edit("false").returncode == 1


def test_watch(broker, cli, ns):
    environment = os.environ | {"WAYPOST_HTTP": broker.waypost.http}
    cli("config", "set", f"{ns}/a", "0")
    command = [str(waypost_binary()), "config", "watch", "--prefix", f"{ns}/", "--initial", "-n", "3", "-o", "json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert json.loads(watch.stdout.readline())["value"] == "0"
            cli("config", "set", f"{ns}/a", "1")
            assert json.loads(watch.stdout.readline())["value"] == "1"
            cli("config", "rm", f"{ns}/a")
            assert json.loads(watch.stdout.readline())["deleted"] is True
            assert watch.wait(10) == 0
        finally:
            watch.kill()
