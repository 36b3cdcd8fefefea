//! A decoder of its own for what the tests get back, which takes nothing that RFC 1035 does not allow.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Maps, Responder, Transport, asker};
use crate::Name;

#[derive(Debug)]
pub struct Record {
    pub owner: String,
    pub ttl_s: u32,
    pub data: String,
}

#[derive(Debug)]
pub struct Answer {
    pub rcode: u8,
    pub is_cut: bool,
    pub is_ours: bool,
    pub octets: usize,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
}

impl Answer {
    pub fn texts(&self) -> Vec<String> {
        self.answers.iter().map(|record| record.data.clone()).collect()
    }
}

pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len().try_into().unwrap());
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out
}

pub fn edns(name: &str, kind: u16, bytes: u16, options: &[u8]) -> Vec<u8> {
    let mut out = query(name, kind);
    out[11] = 1;
    out.extend_from_slice(&[0, 0, 41]);
    out.extend_from_slice(&bytes.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, 0]);
    out.extend_from_slice(&u16::try_from(options.len()).unwrap().to_be_bytes());
    out.extend_from_slice(options);
    out
}

pub fn ask(responder: &mut Responder<Maps>, query: Vec<u8>, transport: Transport, from: &str) -> Answer {
    let mut out = vec![9; 70];
    assert!(responder.answer(&query, asker(from, transport), &mut out));
    assert_eq!(&out[..2], &query[..2]);
    assert_eq!(out[2] & 0x81, 0x81);
    parse(&out)
}

pub fn parse(message: &[u8]) -> Answer {
    let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let mut at = 12;
    for _ in 0..number(4) {
        at = Name::read(message, at).unwrap().1 + 4;
    }
    let mut section = |count: u16| (0..count).map(|_| record(message, &mut at)).collect::<Vec<_>>();
    let answer = Answer {
        rcode: message[3] & 15,
        is_cut: message[2] & 2 != 0,
        is_ours: message[2] & 4 != 0,
        octets: message.len(),
        answers: section(number(6)),
        authority: section(number(8)),
        additional: section(number(10)),
    };
    assert_eq!(at, message.len(), "octets are left over");
    answer
}

fn dotted(name: &Name) -> String {
    (0..name.labels()).map(|i| name.text(i).unwrap()).collect::<Vec<_>>().join(".")
}

fn record(message: &[u8], at: &mut usize) -> Record {
    let (owner, next) = Name::read(message, *at).unwrap();
    let fixed: [u8; 10] = message[next..next + 10].try_into().unwrap();
    let (kind, class) = (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]]));
    let ttl_s = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    let from = next + 10;
    *at = from + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
    let data = &message[from..*at];
    let number = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
    let name = |at: usize| Name::read(message, from + at).unwrap();
    assert!(kind == 41 || class == 1);
    let data = match kind {
        1 => format!("A {}", Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap())),
        28 => format!("AAAA {}", Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap())),
        2 => format!("NS {}", dotted(&name(0).0)),
        5 => format!("CNAME {}", dotted(&name(0).0)),
        12 => format!("PTR {}", dotted(&name(0).0)),
        16 => format!("TXT {:?}", std::str::from_utf8(&data[1..]).unwrap()),
        33 => format!("SRV {} {} {} {}", number(0), number(2), number(4), dotted(&name(6).0)),
        41 if data.is_empty() => format!("OPT {class} {}", fixed[4]),
        41 => format!("OPT {class} {} {data:?}", fixed[4]),
        6 => soa(message, from),
        other => panic!("type {other}"),
    };
    Record { owner: dotted(&owner), ttl_s, data }
}

fn soa(message: &[u8], at: usize) -> String {
    let (first, next) = Name::read(message, at).unwrap();
    let (second, next) = Name::read(message, next).unwrap();
    let numbers = message[next..next + 20].chunks(4).map(|n| u32::from_be_bytes(n.try_into().unwrap()).to_string());
    format!("SOA {} {} {}", dotted(&first), dotted(&second), numbers.collect::<Vec<_>>().join(" "))
}
