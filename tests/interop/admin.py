"""Users, vhosts, permissions and policies: one interface over our own CLI and RabbitMQ's management API."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.parse
import urllib.request

import pytest


def quoted(part: str) -> str:
    return urllib.parse.quote(part, safe="")


class RabbitAdmin:
    """RabbitMQ's management API, where an external broker is tested."""

    def __init__(self, base: str | None):
        self.base = base

    @classmethod
    def from_environment(cls) -> "RabbitAdmin":
        return cls(os.environ.get("INTEROP_HTTP_URL"))

    def call(self, method: str, path: str, body=None) -> None:
        if self.base is None:
            pytest.skip("INTEROP_HTTP_URL is not set: the external broker cannot be managed")
        request = urllib.request.Request(f"{self.base}/api/{path}", method=method)
        request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
        request.add_header("Content-Type", "application/json")
        data = None if body is None else json.dumps(body).encode()
        try:
            urllib.request.urlopen(request, data, timeout=10).close()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def add_vhost(self, vhost: str) -> None:
        self.call("PUT", f"vhosts/{quoted(vhost)}")
        self.set_permissions("guest", vhost)

    def delete_vhost(self, vhost: str) -> None:
        self.call("DELETE", f"vhosts/{quoted(vhost)}")

    def add_user(self, user: str, password: str) -> None:
        self.call("PUT", f"users/{quoted(user)}", {"password": password, "tags": ""})

    def delete_user(self, user: str) -> None:
        self.call("DELETE", f"users/{quoted(user)}")

    def set_permissions(self, user: str, vhost: str, configure=".*", write=".*", read=".*") -> None:
        body = {"configure": configure, "write": write, "read": read}
        self.call("PUT", f"permissions/{quoted(vhost)}/{quoted(user)}", body)

    def set_topic_permissions(self, user: str, vhost: str, exchange: str, write: str, read: str) -> None:
        body = {"exchange": exchange, "write": write, "read": read}
        self.call("PUT", f"topic-permissions/{quoted(vhost)}/{quoted(user)}", body)

    def set_user_limit(self, user: str, limit: str, value: int) -> None:
        self.call("PUT", f"user-limits/{quoted(user)}/{limit}", {"value": value})

    def set_vhost_limit(self, vhost: str, limit: str, value: int) -> None:
        self.call("PUT", f"vhost-limits/{quoted(vhost)}/{limit}", {"value": value})

    def set_policy(self, policy: str, pattern: str, definition: dict, *, vhost="/", priority=0, apply_to="all") -> None:
        body = {"pattern": pattern, "definition": definition, "priority": priority, "apply-to": apply_to}
        self.call("PUT", f"policies/{quoted(vhost)}/{quoted(policy)}", body)

    def delete_policy(self, policy: str, *, vhost="/") -> None:
        self.call("DELETE", f"policies/{quoted(vhost)}/{quoted(policy)}")

    def set_operator_policy(self, policy: str, pattern: str, definition: dict, *, vhost="/", priority=0) -> None:
        body = {"pattern": pattern, "definition": definition, "priority": priority, "apply-to": "queues"}
        self.call("PUT", f"operator-policies/{quoted(vhost)}/{quoted(policy)}", body)

    def delete_operator_policy(self, policy: str, *, vhost="/") -> None:
        self.call("DELETE", f"operator-policies/{quoted(vhost)}/{quoted(policy)}")


class WaypostAdmin:
    """Our own command line, which is what an operator has."""

    def __init__(self, server):
        self.server = server

    def add_vhost(self, vhost: str) -> None:
        self.server.cli("vhosts", "add", vhost)
        self.set_permissions("guest", vhost)

    def delete_vhost(self, vhost: str) -> None:
        self.server.cli("vhosts", "rm", vhost)

    def add_user(self, user: str, password: str) -> None:
        self.server.cli("users", "add", user, "--password", password)

    def delete_user(self, user: str) -> None:
        self.server.cli("users", "rm", user)

    def set_permissions(self, user: str, vhost: str, configure=".*", write=".*", read=".*") -> None:
        self.server.cli("users", "permissions", "set", "--vhost", vhost, "--", user, configure, write, read)

    def set_topic_permissions(self, user: str, vhost: str, exchange: str, write: str, read: str) -> None:
        self.server.cli("users", "permissions", "topic-set", "--vhost", vhost, "--", user, exchange, write, read)

    def set_user_limit(self, user: str, limit: str, value: int) -> None:
        self.server.cli("users", "limits", user, f"--{limit}", str(value))

    def set_vhost_limit(self, vhost: str, limit: str, value: int) -> None:
        self.server.cli("vhosts", "limits", vhost, f"--{limit}", str(value))

    def set_policy(self, policy: str, pattern: str, definition: dict, *, vhost="/", priority=0, apply_to="all") -> None:
        self._set_policy([], policy, pattern, definition, vhost, priority, apply_to)

    def delete_policy(self, policy: str, *, vhost="/") -> None:
        self.server.cli("policies", "rm", "--vhost", vhost, policy)

    def set_operator_policy(self, policy: str, pattern: str, definition: dict, *, vhost="/", priority=0) -> None:
        self._set_policy(["--operator"], policy, pattern, definition, vhost, priority, "queues")

    def delete_operator_policy(self, policy: str, *, vhost="/") -> None:
        self.server.cli("policies", "rm", "--operator", "--vhost", vhost, policy)

    def _set_policy(self, sort, policy, pattern, definition, vhost, priority, apply_to) -> None:
        settings = [word for key, value in definition.items() for word in ("-a", f"{key}={value}")]
        options = ["--vhost", vhost, "--priority", str(priority), "--apply-to", apply_to]
        self.server.cli("policies", "set", *sort, *options, *settings, "--", policy, pattern)
