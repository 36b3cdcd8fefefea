"""zeromq.js against our devices, where node is there."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess

import pytest
import zmq

from zmtp_peers import endpoints, free_port

pytestmark = pytest.mark.ours("ZeroMQ devices")

FOLDER = pathlib.Path(__file__).resolve().parent / "programs" / "node-zeromq"
LOCAL = "bind:tcp://127.0.0.1:0"


@pytest.mark.timeout(200)
def test_zeromq_js(server, tmp_path):
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if not (FOLDER / "node_modules").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=FOLDER, check=True, capture_output=True, timeout=150)
    dialled = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
    server_public, server_secret = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    (tmp_path / "secret").write_bytes(server_secret)
    (tmp_path / "clients").write_bytes(public)
    curve = f"curve-secret={tmp_path / 'secret'},curve-clients={tmp_path / 'clients'}"
    one = server(
        *("--zmtp", f"streamer,front={LOCAL},back={LOCAL}"),
        *("--zmtp", f"streamer,front=connect:{dialled[0]},back=connect:{dialled[1]}"),
        *("--zmtp", f"streamer,front={LOCAL},back={LOCAL},{curve}"),
        *("--zmtp", f"forwarder,front={LOCAL},back={LOCAL}"),
        *("--zmtp", f"router,front={LOCAL},back={LOCAL}"),
    )
    one.start()
    bound = endpoints(one)
    places = {
        "streamer": bound[0:2],
        "dialled": dialled,
        "curve": bound[2:4],
        "forwarder": bound[4:6],
        "router": bound[6:8],
        "keys": {"server": server_public.decode(), "public": public.decode(), "secret": secret.decode()},
    }
    done = subprocess.run(
        ["node", "main.js"],
        cwd=FOLDER,
        env=os.environ | {"ENDPOINTS": json.dumps(places)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all good" in done.stdout
