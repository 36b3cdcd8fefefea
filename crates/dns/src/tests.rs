//! Queries in, answers out.

mod codec;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::*;
use codec::{Answer, ask};

/// A directory that is a few maps.
#[derive(Default)]
struct Maps {
    services: BTreeMap<String, Arc<Hosts>>,
    queries: BTreeMap<String, Arc<Hosts>>,
    nodes: BTreeMap<String, Arc<Node>>,
    owners: BTreeMap<IpAddr, Owner>,
}

impl Directory for Maps {
    fn service(&mut self, name: &str) -> Option<Arc<Hosts>> {
        self.services.get(name).cloned()
    }

    fn query(&mut self, name: &str, _client: IpAddr) -> Option<Arc<Hosts>> {
        self.queries.get(name).cloned()
    }

    fn node(&mut self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(name).cloned()
    }

    fn owner(&mut self, address: IpAddr) -> Option<Owner> {
        self.owners.get(&address).cloned()
    }
}

fn host(address: &str, port: u16) -> Host {
    let target = address.parse().map_or_else(|_| Target::Name(address.into()), Target::Address);
    Host { target, port, weight: 1, zone: "".into(), tags: Arc::default(), meta: Arc::default() }
}

fn tagged(mut host: Host, tags: &[&str], meta: &[(&str, &str)]) -> Host {
    host.tags = tags.iter().map(|tag| (*tag).into()).collect();
    host.meta = meta.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    host
}

fn own_node() -> Node {
    Node { name: "n1".into(), target: Target::Address([127, 0, 0, 1].into()), meta: Arc::default() }
}

fn responder(maps: Maps) -> Responder<Maps> {
    let zones = Zones::parse(["10.1.0.0/16=a", "10.2.0.0/16=b"]).unwrap();
    Responder::new(maps, Settings::new(&["waypost", "consul"], "dc1", own_node(), 0, zones).unwrap(), 1)
}

fn with_service(name: &str, hosts: Vec<Host>) -> Responder<Maps> {
    let mut maps = Maps::default();
    maps.services.insert(name.to_owned(), Arc::new(Hosts::new(hosts)));
    responder(maps)
}

fn udp(responder: &mut Responder<Maps>, name: &str, kind: u16) -> Answer {
    ask(responder, codec::query(name, kind), Transport::Udp, "127.0.0.1")
}

fn tcp(responder: &mut Responder<Maps>, name: &str, kind: u16) -> Answer {
    ask(responder, codec::query(name, kind), Transport::Tcp, "127.0.0.1")
}

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const ANY: u16 = 255;

#[test]
fn addresses_of_a_service() {
    let mut server = with_service("cart", vec![host("10.0.0.1", 80), host("10.0.0.2", 80), host("2001:db8::1", 80)]);
    for name in
        ["cart.service.waypost", "CART.Service.Consul", "cart.service.dc1.consul", "cart.service.dc1.dc.waypost"]
    {
        let answer = udp(&mut server, name, A);
        assert_eq!((answer.rcode, answer.is_cut, answer.is_ours), (0, false, true), "{name}");
        let mut data = answer.texts();
        data.sort();
        assert_eq!(data, ["A 10.0.0.1", "A 10.0.0.2"], "{name}");
        assert!(answer.answers.iter().all(|r| r.ttl_s == 0 && r.owner.eq_ignore_ascii_case(name)));
    }
    assert_eq!(udp(&mut server, "cart.service.consul", AAAA).texts(), ["AAAA 2001:db8::1"]);
    let answer = udp(&mut server, "cart.service.other.consul", A);
    assert_eq!((answer.rcode, answer.authority.len()), (3, 1));
}

#[test]
fn services_with_their_targets() {
    let mut server = with_service("web", vec![host("127.0.0.1", 8080), host("::1", 81), host("db.example.org", 99)]);
    let answer = udp(&mut server, "_web._tcp.service.consul", SRV);
    let mut data = answer.texts();
    data.sort();
    assert_eq!(
        data,
        [
            "SRV 1 1 8080 7f000001.addr.dc1.consul",
            "SRV 1 1 81 00000000000000000000000000000001.addr.dc1.consul",
            "SRV 1 1 99 db.example.org",
        ]
    );
    let mut extra: Vec<_> = answer.additional.iter().map(|r| format!("{} {}", r.owner, r.data)).collect();
    extra.sort();
    assert_eq!(
        extra,
        ["00000000000000000000000000000001.addr.dc1.consul AAAA ::1", "7f000001.addr.dc1.consul A 127.0.0.1"]
    );
    for name in ["_web._udp.consul", "_web._tcp.dc1.waypost", "web.service.waypost"] {
        assert_eq!(udp(&mut server, name, SRV).answers.len(), 3, "{name}");
    }
    assert_eq!(udp(&mut server, "7F000001.addr.dc1.consul", A).texts(), ["A 127.0.0.1"]);
    assert_eq!(udp(&mut server, "7f000001.addr.consul", AAAA).rcode, 0);
    assert_eq!(udp(&mut server, "7f00000.addr.consul", A).rcode, 3);
}

#[test]
fn a_service_without_an_address_of_its_own_is_at_its_node() {
    let target = Target::Node { name: "n1".into(), address: [127, 0, 0, 1].into() };
    let mut server = with_service("web", vec![Host { target, ..host("0.0.0.0", 80) }]);
    let answer = udp(&mut server, "web.service.consul", SRV);
    assert_eq!(answer.texts(), ["SRV 1 1 80 n1.node.dc1.consul"]);
    assert_eq!(answer.additional[0].owner, "n1.node.dc1.consul");
}

#[test]
fn tags_and_metadata_choose() {
    let hosts = vec![
        tagged(host("10.0.0.1", 1), &["v1", "Blue"], &[("k", "x")]),
        tagged(host("10.0.0.2", 1), &["v1", "a.b"], &[("k", "x-y"), ("k-x", "y")]),
        tagged(host("10.0.0.3", 1), &[], &[]),
    ];
    let mut server = with_service("s", hosts);
    let mut sorted = |name: &str, kind| {
        let answer = udp(&mut server, name, kind);
        let mut data: Vec<_> = answer.texts().iter().map(|text| text.replace(" 10.0.0.", " ")).collect();
        data.sort();
        (answer.rcode, data)
    };
    assert_eq!(sorted("v1.s.service.consul", A), (0, vec!["A 1".into(), "A 2".into()]));
    assert_eq!(sorted("V1.blue.s.service.consul", A), (0, vec!["A 1".into()]));
    assert_eq!(sorted("a.b.s.service.consul", A), (0, vec!["A 2".into()]));
    assert_eq!(sorted("k-x.meta.s.service.consul", A), (0, vec!["A 1".into()]));
    assert_eq!(sorted("k-x-y.meta.s.service.consul", A), (0, vec!["A 2".into()]));
    assert_eq!(sorted("k-x.meta.v1.s.service.consul", A), (0, vec!["A 1".into()]));
    assert_eq!(sorted("_s._blue.service.consul", SRV).1.len(), 1);
    assert_eq!(sorted("_s._v1.consul", SRV).1.len(), 2);
    assert_eq!(sorted("none.s.service.consul", A).0, 3);
    assert_eq!(sorted("meta.s.service.consul", A).0, 3);
}

#[test]
fn what_is_not_there_and_what_has_no_such_record() {
    let mut server = with_service("cart", vec![host("10.0.0.1", 80)]);
    server.answer(&[], asker("127.0.0.1", Transport::Udp), &mut Vec::new());
    let answer = udp(&mut server, "nobody.service.consul", A);
    assert_eq!((answer.rcode, answer.texts().len()), (3, 0));
    assert_eq!(answer.authority[0].owner, "consul");
    assert_eq!(answer.authority[0].data, "SOA ns.consul hostmaster.consul 1000 3600 600 86400 0");
    let answer = udp(&mut server, "cart.service.consul", AAAA);
    assert_eq!((answer.rcode, answer.texts().len(), answer.authority.len()), (0, 0, 1));
    let answer = udp(&mut server, "cart.service.consul", 257);
    assert_eq!((answer.rcode, answer.authority.len()), (0, 1));
    for foreign in ["example.org", "consul.example.org", ""] {
        let answer = udp(&mut server, foreign, A);
        assert_eq!((answer.rcode, answer.is_ours), (5, false), "{foreign}");
    }
    for nothing in ["x.consul", "service.consul", "dc1.consul", "a.addr.consul", "node.consul"] {
        assert_eq!(udp(&mut server, nothing, A).rcode, 3, "{nothing}");
    }
    let mut none = with_service("cart", vec![]);
    assert_eq!(udp(&mut none, "cart.service.consul", A).rcode, 0);
}

#[test]
fn a_service_at_a_name_is_an_alias() {
    let mut server = with_service("ext", vec![host("db.example.org", 1), host("bad..name", 1)]);
    assert_eq!(udp(&mut server, "ext.service.consul", A).texts(), ["CNAME db.example.org"]);
    let answer = udp(&mut server, "ext.service.consul", SRV);
    assert_eq!((answer.texts(), answer.is_cut), (vec!["SRV 1 1 1 db.example.org".to_owned()], false));
}

#[test]
fn the_domain_itself() {
    let mut server = responder(Maps::default());
    assert!(udp(&mut server, "consul", SOA).texts()[0].starts_with("SOA ns.consul hostmaster.consul"));
    let answer = udp(&mut server, "waypost", NS);
    assert_eq!(answer.texts(), ["NS n1.node.dc1.waypost"]);
    assert_eq!(answer.additional[0].data, "A 127.0.0.1");
    assert_eq!(answer.additional[0].owner, "n1.node.dc1.waypost");
    assert_eq!(udp(&mut server, "ns.consul", A).texts(), ["A 127.0.0.1"]);
    assert_eq!(udp(&mut server, "consul", A).rcode, 0);
}

#[test]
fn nodes_and_reverse_names() {
    let mut maps = Maps::default();
    let meta = [("os", "linux"), ("rfc1035-note", "bare")].map(|(k, v)| (k.into(), v.into()));
    let node = Node { name: "web.1".into(), target: Target::Address([10, 0, 0, 7].into()), meta: meta.into() };
    maps.nodes.insert("web.1".to_owned(), Arc::new(node));
    maps.owners.insert([10, 0, 0, 7].into(), Owner::Node("web.1".into()));
    maps.owners.insert("2001:db8::7".parse().unwrap(), Owner::Service("cart".into()));
    let mut server = responder(maps);
    assert_eq!(udp(&mut server, "web.1.node.dc1.consul", A).texts(), ["A 10.0.0.7"]);
    assert_eq!(udp(&mut server, "web.1.node.consul", TXT).texts(), ["TXT \"os=linux\"", "TXT \"bare\""]);
    assert_eq!(udp(&mut server, "web.2.node.consul", A).rcode, 3);
    assert_eq!(udp(&mut server, "7.0.0.10.in-addr.arpa", PTR).texts(), ["PTR web.1.node.dc1.waypost"]);
    assert_eq!(udp(&mut server, "8.0.0.10.in-addr.arpa", PTR).rcode, 3);
    let nibbles = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
    assert_eq!(udp(&mut server, nibbles, PTR).texts(), ["PTR cart.service.waypost"]);
    assert_eq!(udp(&mut server, "x.0.0.10.in-addr.arpa", PTR).rcode, 3);
}

#[test]
fn prepared_queries() {
    let mut maps = Maps::default();
    maps.queries.insert("near.est".to_owned(), Arc::new(Hosts::new(vec![host("10.0.0.1", 80)])));
    let mut server = responder(maps);
    assert_eq!(udp(&mut server, "near.est.query.consul", A).texts(), ["A 10.0.0.1"]);
    assert_eq!(udp(&mut server, "other.query.consul", A).rcode, 3);
}

#[test]
fn what_is_cut_says_so() {
    let hosts: Vec<_> = (0..100).map(|i| host(&format!("10.0.0.{i}"), 80)).collect();
    let mut server = with_service("many", hosts);
    for (kind, at_least) in [(A, 28), (SRV, 9)] {
        let answer = udp(&mut server, "many.service.consul", kind);
        assert!(answer.is_cut && answer.octets <= 512 && answer.texts().len() >= at_least, "{kind}: {answer:?}");
        assert!(answer.additional.is_empty(), "{kind}: {answer:?}");
        let answer = tcp(&mut server, "many.service.consul", kind);
        assert!(!answer.is_cut && answer.texts().len() == 100);
        assert_eq!(answer.additional.len(), if kind == SRV { 100 } else { 0 });
    }
    let all = ask(&mut server, codec::edns("many.service.consul", A, 4096, &[]), Transport::Udp, "127.0.0.1");
    assert_eq!((all.texts().len(), all.is_cut), (100, false));
    assert_eq!(all.additional[0].data, "OPT 4096 0");
    let small = ask(&mut server, codec::edns("many.service.consul", A, 100, &[]), Transport::Udp, "127.0.0.1");
    assert!(small.is_cut && small.octets <= 512);
    let any = tcp(&mut server, "many.service.consul", ANY);
    assert_eq!(any.texts().len(), 200);
}

#[test]
fn more_than_a_stream_takes_is_cut_too() {
    let hosts: Vec<_> = (0..6000_u32).map(|i| host(&std::net::Ipv4Addr::from_bits(i).to_string(), 80)).collect();
    let mut server = with_service("many", hosts);
    for kind in [A, SRV, ANY] {
        let answer = tcp(&mut server, "many.service.consul", kind);
        assert!(answer.is_cut && answer.octets > 65_000, "{kind}: {}", answer.octets);
    }
}

#[test]
fn addresses_that_repeat_are_told_once() {
    let mut server = with_service("s", vec![host("10.0.0.1", 1), host("10.0.0.1", 2), host("10.0.0.2", 3)]);
    assert_eq!(udp(&mut server, "s.service.consul", A).texts().len(), 2);
    let answer = udp(&mut server, "s.service.consul", SRV);
    assert_eq!((answer.texts().len(), answer.additional.len()), (3, 2));
}

fn asker(address: &str, transport: Transport) -> Asker {
    Asker { address: address.parse().unwrap(), transport, now_s: 1000 }
}

#[test]
fn the_clients_zone_comes_first() {
    let zoned = |address: &str, zone: &str| Host { zone: zone.into(), ..host(address, 1) };
    let mut server = with_service("s", vec![zoned("10.0.0.1", "a"), zoned("10.0.0.2", "b"), zoned("10.0.0.3", "")]);
    for _ in 0..50 {
        let near = |server: &mut _, from| ask(server, codec::query("s.service.consul", A), Transport::Udp, from);
        assert_eq!(near(&mut server, "10.1.9.9").texts()[0], "A 10.0.0.1");
        assert_eq!(near(&mut server, "::ffff:10.2.9.9").texts()[0], "A 10.0.0.2");
        // A resolver says for whom it asks.
        let subnet = [0, 8, 0, 6, 0, 1, 16, 0, 10, 2];
        let answer = ask(&mut server, codec::edns("s.service.consul", A, 1232, &subnet), Transport::Udp, "10.1.9.9");
        assert_eq!(answer.texts()[0], "A 10.0.0.2");
        assert_eq!(answer.additional[0].data, "OPT 4096 0 [0, 8, 0, 6, 0, 1, 16, 16, 10, 2]");
    }
}

#[test]
fn wrong_messages() {
    let mut server = with_service("s", vec![host("10.0.0.1", 1)]);
    let mut out = Vec::new();
    let mut answer = |message: &[u8]| {
        server.answer(message, asker("127.0.0.1", Transport::Udp), &mut out).then(|| codec::parse(&out))
    };
    let good = codec::query("s.service.consul", A);
    assert!(answer(&good[..11]).is_none());
    let mut response = good.clone();
    response[2] |= 0x80;
    assert!(answer(&response).is_none());
    for end in 12..good.len() {
        assert_eq!(answer(&good[..end]).unwrap().rcode, 1, "{end}");
    }
    let mut update = good.clone();
    update[2] |= 5 << 3;
    assert_eq!(answer(&update).unwrap().rcode, 4);
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(answer(&two).unwrap().rcode, 1);
    let mut chaos = good.clone();
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(answer(&chaos).unwrap().rcode, 5);
    let mut bad_version = codec::edns("s.service.consul", A, 1232, &[]);
    let at = bad_version.len() - 5;
    bad_version[at] = 1;
    let refused = answer(&bad_version).unwrap();
    assert_eq!((refused.rcode, &*refused.additional[0].data), (0, "OPT 4096 1"));
    let twice = [&codec::edns("s.service.consul", A, 1232, &[])[..], &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0]].concat();
    let mut twice = twice;
    twice[11] = 2;
    assert_eq!(answer(&twice).unwrap().rcode, 1);
    for subnet in
        [&[0, 8, 0, 4, 0, 1, 33, 0][..], &[0, 8, 0, 5, 0, 1, 4, 0, 0xff], &[0, 8, 0, 4, 0, 3, 0, 0], &[0, 8, 0, 9]]
    {
        assert_eq!(answer(&codec::edns("s.service.consul", A, 1232, subnet)).unwrap().rcode, 1, "{subnet:?}");
    }
}

#[test]
fn whatever_comes_is_answered_within_its_limit_or_not_at_all() {
    let hosts: Vec<_> = (0..40).map(|i| tagged(host(&format!("10.0.0.{i}"), 80), &["t"], &[("k", "v")])).collect();
    let mut server = with_service("s", hosts);
    let seeds = [
        codec::query("k-v.meta.t.s.service.consul", ANY),
        codec::edns("_s._t.service.dc1.waypost", SRV, 900, &[0, 8, 0, 6, 0, 1, 16, 0, 10, 2]),
        codec::query("1.0.0.10.in-addr.arpa", PTR),
    ];
    let (mut state, mut out) = (1_u64, Vec::new());
    for round in 0..60_000 {
        let mut message = seeds[round % seeds.len()].clone();
        for _ in 0..round % 4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % message.len();
            match state >> 30 & 3 {
                0 => message[at] = (state >> 40) as u8,
                1 => message.truncate(at.max(1)),
                2 => message[at] ^= 1 << (state >> 50 & 7),
                _ => message[at] = 0xc0,
            }
        }
        if server.answer(&message, asker("10.1.0.1", Transport::Udp), &mut out) {
            assert!(out.len() <= UDP_BYTES_MAX);
            codec::parse(&out);
        }
    }
}
