//! Any octets as a query.
#![no_main]

use std::net::IpAddr;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use waypost_dns::{
    Asker, Directory, Host, Hosts, Node, Owner, Responder, Settings, Target, Transport, UDP_BYTES_MAX, Zones,
};

/// Knows every name.
struct Everything(Arc<Hosts>, Arc<Node>);

impl Directory for Everything {
    fn service(&mut self, _: &str) -> Option<Arc<Hosts>> {
        Some(Arc::clone(&self.0))
    }

    fn query(&mut self, _: &str, _: IpAddr) -> Option<Arc<Hosts>> {
        Some(Arc::clone(&self.0))
    }

    fn node(&mut self, _: &str) -> Option<Arc<Node>> {
        Some(Arc::clone(&self.1))
    }

    fn owner(&mut self, address: IpAddr) -> Option<Owner> {
        Some(if address.is_ipv4() { Owner::Node("n".into()) } else { Owner::Service("s".into()) })
    }
}

fn host(i: u8) -> Host {
    let target = match i % 3 {
        0 => Target::Address([10, 0, 0, i].into()),
        1 => Target::Name(format!("h{i}.example.org").into()),
        _ => Target::Node { name: "n".into(), address: [i; 16].into() },
    };
    let (tags, meta) = (["t".into()].into(), [("k".into(), "v".into())].into());
    Host { target, port: 80, weight: i.into(), zone: "a".into(), tags, meta }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, message)) = data.split_first() else { return };
    let node = Node {
        name: "n".into(),
        target: Target::Address([127, 0, 0, 1].into()),
        meta: [("k".into(), "v".repeat(600).into())].into(),
    };
    let hosts = Arc::new(Hosts::new((0..*first).map(host).collect()));
    let zones = Zones::parse(["10.0.0.0/8=a", "2000::/3=b"]).unwrap();
    let settings = Settings::new(&["waypost", "consul"], "dc1", node.clone(), 5, zones).unwrap();
    let mut responder = Responder::new(Everything(hosts, Arc::new(node)), settings, 1);
    let mut out = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        let asker = Asker { address: [10, 0, 0, 1].into(), transport, now_s: 1 };
        if responder.answer(message, asker, &mut out) {
            assert!(out.len() >= 12 && out[..2] == message[..2]);
            assert!(transport == Transport::Tcp || out.len() <= UDP_BYTES_MAX);
        }
    }
});
