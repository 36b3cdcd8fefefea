//! The generator against a device made of two sockets and a loop.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use waypost_zmtp::wire::greeting;
use waypost_zmtp::{SocketType, wire};

/// Shakes hands as `kind`, without looking much.
fn greet(mut socket: TcpStream, kind: SocketType) -> TcpStream {
    let mut hello = greeting::greeting("NULL", false).to_vec();
    wire::command::put(&mut hello, "READY", &wire::metadata::encode(kind, b""));
    socket.write_all(&hello).unwrap();
    let mut theirs = [0; 64 + 2];
    socket.read_exact(&mut theirs).unwrap();
    let mut rest = vec![0; usize::from(theirs[65])];
    socket.read_exact(&mut rest).unwrap();
    socket
}

/// A device that copies octets from its one front peer to its one back peer.
fn pipe(front: SocketType, back: SocketType, both_ways: bool) -> Target {
    let (a, b) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let endpoint = |l: &TcpListener| Endpoint::Tcp(l.local_addr().unwrap().to_string());
    let (front_at, back_at) = (endpoint(&a), endpoint(&b));
    std::thread::spawn(move || {
        let mut to = greet(b.accept().unwrap().0, back);
        let mut from = greet(a.accept().unwrap().0, front);
        if both_ways {
            let (mut to, mut from) = (to.try_clone().unwrap(), from.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut to, &mut from));
        }
        let _ = std::io::copy(&mut from, &mut to);
    });
    Target {
        front: front_at,
        back: back_at,
        size: 16,
        time: 1,
        warmup: 0,
        output: OutputFormat::Json,
        server_pid: None,
    }
}

#[test]
fn what_flows_is_counted() {
    let target = pipe(SocketType::Pull, SocketType::Push, false);
    let args = FlowArgs { target, producers: 1, consumers: 1, write: 4096 };
    let measured = flow::run(&args, flow::Way::Push, &Watch::start(None).unwrap()).unwrap();
    assert!(measured.outcome.messages > 1000, "{:?}", measured.outcome);
}

#[test]
fn round_trips_are_timed() {
    let target = pipe(SocketType::Router, SocketType::Dealer, true);
    let args = RouterArgs { target, clients: 1, workers: 1 };
    let outcome = roundtrip::run(&args, &Watch::start(None).unwrap()).unwrap().outcome;
    let latency = outcome.latency.unwrap();
    assert!(outcome.messages > 10 && latency.samples >= outcome.messages, "{latency:?}");
}

#[test]
fn endpoints_are_read() {
    assert_eq!(Endpoint::parse("tcp://127.0.0.1:5").unwrap().to_string(), "tcp://127.0.0.1:5");
    assert_eq!(Endpoint::parse("ipc:///tmp/x").unwrap().to_string(), "ipc:///tmp/x");
    assert!(Endpoint::parse("udp://x:1").is_err() && Endpoint::parse("tcp://x").is_err());
}
