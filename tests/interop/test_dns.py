"""DNS with dnspython: what stock resolvers ask and how they read it."""

from __future__ import annotations

import collections
import ipaddress
import socket

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.reversename
import pytest
import requests

pytestmark = pytest.mark.ours("DNS")


@pytest.fixture
def where(broker):
    host, port = broker.waypost.dns.rsplit(":", 1)
    return {"where": host, "port": int(port), "timeout": 5}


@pytest.fixture
def service(name):
    return lambda suffix="s": name(suffix).replace("_", "-").replace(".", "-").lower()[-60:].strip("-")


@pytest.fixture
def register(broker):
    def put(service: str, number: int, **more):
        body = {"ID": f"{service}-{number}", "Name": service, "Address": f"10.0.{number // 250}.{number % 250}", "Port": 8000 + number}
        answer = requests.put(f"{broker.waypost.http}/v1/agent/service/register", json=body | more)
        assert answer.status_code == 200, answer.text

    return put


def udp(where, name: str, kind: str, **options) -> dns.message.Message:
    return dns.query.udp(dns.message.make_query(name, kind, **options), **where)


def addresses(answer) -> list[str]:
    return [str(r) for rrset in answer.answer for r in rrset]


def test_addresses_and_tags(where, service, register):
    s = service()
    register(s, 1, Tags=["Blue", "v1"], Meta={"team": "x-y"})
    register(s, 2, Tags=["v1"])
    register(s, 3, Address="2001:db8::3")
    for domain in ("waypost", "consul"):
        answer = udp(where, f"{s}.service.{domain}", "A")
        assert answer.flags & dns.flags.AA and answer.rcode() == dns.rcode.NOERROR
        assert sorted(addresses(answer)) == ["10.0.0.1", "10.0.0.2"]
        assert answer.answer[0].ttl == 0
    assert addresses(udp(where, f"{s}.service.dc1.consul", "AAAA")) == ["2001:db8::3"]
    assert addresses(udp(where, f"blue.{s}.service.consul", "A")) == ["10.0.0.1"]
    assert addresses(udp(where, f"V1.blue.{s}.service.consul", "A")) == ["10.0.0.1"]
    assert addresses(udp(where, f"team-x-y.meta.{s}.service.consul", "A")) == ["10.0.0.1"]
    assert udp(where, f"nope.{s}.service.consul", "A").rcode() == dns.rcode.NXDOMAIN


def test_services_by_rfc_2782_with_targets_that_resolve(where, service, register):
    s = service()
    register(s, 1, Tags=["amqp"], Weights={"Passing": 7, "Warning": 1})
    register(s, 2, Address="db.example.org")
    answer = udp(where, f"_{s}._tcp.service.consul", "SRV")
    records = {str(r.target): (r.priority, r.weight, r.port) for rrset in answer.answer for r in rrset}
    assert records == {"0a000001.addr.dc1.consul.": (1, 7, 8001), "db.example.org.": (1, 1, 8002)}
    assert [(str(rrset.name), str(rrset[0])) for rrset in answer.additional] == [("0a000001.addr.dc1.consul.", "10.0.0.1")]
    assert addresses(udp(where, "0a000001.addr.dc1.consul", "A")) == ["10.0.0.1"]
    assert len(addresses(udp(where, f"_{s}._amqp.service.consul", "SRV"))) == 1


def test_only_who_is_well_is_told(where, service, register, broker):
    s = service()
    register(s, 1)
    register(s, 2, Check={"TTL": "30s"})
    assert addresses(udp(where, f"{s}.service.consul", "A")) == ["10.0.0.1"]
    requests.put(f"{broker.waypost.http}/v1/agent/check/warn/service:{s}-2")
    assert sorted(addresses(udp(where, f"{s}.service.consul", "A"))) == ["10.0.0.1", "10.0.0.2"]
    requests.put(f"{broker.waypost.http}/v1/agent/service/maintenance/{s}-1?enable=true")
    assert addresses(udp(where, f"{s}.service.consul", "A")) == ["10.0.0.2"]


def test_no_such_name_and_no_such_record(where, service, register):
    s = service()
    register(s, 1)
    nobody = udp(where, f"{s}-nobody.service.consul", "A")
    assert nobody.rcode() == dns.rcode.NXDOMAIN
    soa = nobody.authority[0][0]
    assert (str(nobody.authority[0].name), str(soa.mname), soa.minimum) == ("consul.", "ns.consul.", 0)
    empty = udp(where, f"{s}.service.consul", "AAAA")
    assert empty.rcode() == dns.rcode.NOERROR and not empty.answer and len(empty.authority) == 1
    assert udp(where, "example.org", "A").rcode() == dns.rcode.REFUSED


def test_truncation_edns_and_tcp(where, service, register):
    s = service()
    for number in range(100):
        register(s, number)
    cut = udp(where, f"{s}.service.consul", "A")
    assert cut.flags & dns.flags.TC and len(cut.to_wire()) <= 512
    whole, by_tcp = dns.query.udp_with_fallback(dns.message.make_query(f"{s}.service.consul", "A"), **where)
    assert by_tcp and len(addresses(whole)) == 100
    wide = udp(where, f"{s}.service.consul", "A", use_edns=0, payload=4096)
    assert len(addresses(wide)) == 100 and not wide.flags & dns.flags.TC and wide.edns == 0
    services = dns.query.tcp(dns.message.make_query(f"{s}.service.consul", "SRV"), **where)
    assert len(addresses(services)) == 100 and len(services.additional) == 100


def test_many_questions_on_one_connection(where, service, register):
    s = service()
    register(s, 1)
    with socket.create_connection((where["where"], where["port"]), timeout=5) as stream:
        queries = [dns.message.make_query(f"{s}.service.consul", "A") for _ in range(50)]
        wires = [query.to_wire() for query in queries]
        stream.sendall(b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires))
        reader = stream.makefile("rb")
        for query in queries:
            answer = dns.message.from_wire(reader.read(int.from_bytes(reader.read(2), "big")))
            assert query.is_response(answer) and addresses(answer) == ["10.0.0.1"]


def test_weights_are_felt(where, service, register):
    s = service()
    register(s, 1, Weights={"Passing": 9, "Warning": 1})
    register(s, 2)
    first = collections.Counter(addresses(udp(where, f"{s}.service.consul", "A"))[0] for _ in range(400))
    assert 300 < first["10.0.0.1"] < 395, first


def test_the_stock_resolver_and_reverse_names(where, service, register):
    s = service()
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [where["where"]], where["port"]
    register(s, 1, Address="10.77.1.2")
    assert [str(r) for r in resolver.resolve(f"{s}.service.waypost", "A")] == ["10.77.1.2"]
    pointer = resolver.resolve(dns.reversename.from_address("127.0.0.1"), "PTR")[0]
    assert str(pointer).endswith(".node.dc1.waypost.")
    node = str(pointer)
    assert ipaddress.ip_address(str(resolver.resolve(node, "A")[0])).is_loopback
    assert str(resolver.resolve("consul", "NS")[0]).endswith(".node.dc1.consul.")
    assert str(resolver.resolve("consul", "SOA")[0].mname) == "ns.consul."


def test_the_clients_subnet_decides_what_comes_first(server):
    waypost = server(config='[dns]\nzones = ["10.1.0.0/16=eu-1", "10.2.0.0/16=eu-2"]\nttl = "3s"\n')
    waypost.start()
    host, port = waypost.dns.rsplit(":", 1)
    where = {"where": host, "port": int(port), "timeout": 5}
    for number, zone in [(1, "eu-1"), (2, "eu-2")]:
        body = {"ID": f"s-{number}", "Name": "s", "Address": f"10.0.0.{number}", "Port": 1, "Meta": {"zone": zone}}
        requests.put(f"{waypost.http}/v1/agent/service/register", json=body)
    for client, expected in [("10.1.2.0", "10.0.0.1"), ("10.2.2.0", "10.0.0.2")]:
        for _ in range(10):
            subnet = dns.edns.ECSOption(client, 24)
            answer = udp(where, "s.service.consul", "A", use_edns=0, options=[subnet])
            assert addresses(answer)[0] == expected and answer.answer[0].ttl == 3
            assert answer.options[0].scopelen == 16


def test_what_is_no_query_does_no_harm(where, service, register):
    s = service()
    register(s, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        good = dns.message.make_query(f"{s}.service.consul", "A").to_wire()
        for junk in [b"", b"\0" * 11, b"\xff" * 600, good[:12] + b"\xc0\x0c" + good[14:], good + b"\0" * 5000, good[:-1]]:
            raw.sendto(junk, (where["where"], where["port"]))
    with socket.create_connection((where["where"], where["port"]), timeout=5) as stream:
        stream.sendall(b"\xff\xff" + b"x" * 100)
        assert stream.recv(1) == b""
    assert addresses(udp(where, f"{s}.service.consul", "A")) == ["10.0.0.1"]
