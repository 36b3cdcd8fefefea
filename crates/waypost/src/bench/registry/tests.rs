//! The generator against a small server of its own.

use super::client::Client;
use super::dns;
use super::http::{Head, request};
use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};

#[test]
fn answers_end_where_they_say() {
    let whole = b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 2\r\n\r\n[]HTTP";
    for end in 0..whole.len() {
        let head = Head::read(&whole[..end]).unwrap();
        let answer = head.and_then(|head| head.complete(&whole[..end]).unwrap());
        assert_eq!(answer.is_some(), end >= whole.len() - 4, "{end}");
        if let Some(answer) = answer {
            assert_eq!((answer.status, answer.end, answer.index), (200, whole.len() - 4, Some(7)));
        }
    }
    let chunked = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\nrest";
    for end in 0..chunked.len() {
        let answer = Head::read(&chunked[..end]).unwrap().and_then(|head| head.complete(&chunked[..end]).unwrap());
        assert_eq!(answer.map(|answer| answer.end), (end >= chunked.len() - 4).then_some(chunked.len() - 4));
    }
    assert!(Head::read(b"SSH-2.0\r\n\r\n").is_err());
}

/// Answers every request with the same octets.
fn server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut room = [0; 4096];
                while stream.read(&mut room).is_ok_and(|count| count > 0) {
                    stream.write_all(answer).unwrap();
                }
            });
        }
    });
    address
}

#[test]
fn every_request_is_counted() {
    let address = server(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc");
    let mut client = Client::open(address, 4).unwrap();
    let outcome = client.drive(Goal::Count(100), |out, _| request(out, "GET", "/", "")).unwrap();
    assert_eq!((outcome.done, outcome.failed, outcome.bytes), (100, 0, 300));
    assert_eq!(outcome.times.percentiles().unwrap().samples, 100);
    assert_eq!(client.ask("PUT", "/x", "{}").unwrap().1, b"abc");
}

#[test]
fn wrong_answers_are_told() {
    let address = server(b"HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nabc");
    let outcome = Client::open(address, 1).unwrap().drive(Goal::Count(2), |out, _| request(out, "GET", "/", ""));
    let outcome = outcome.unwrap();
    assert_eq!((outcome.done, outcome.failed, outcome.first_failure.as_deref()), (0, 2, Some("500 abc")));
}

#[test]
fn who_is_hung_up_on_hears_why_that_may_be() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let mut client = Client::open(address, 1).unwrap();
    server.join().unwrap();
    let fault = client.ask("GET", "/", "").unwrap_err().to_string();
    assert!(fault.starts_with("the server dropped the connection") && fault.contains("fewer connections"), "{fault}");
}

#[test]
fn queries_are_well_formed() {
    let query = dns::query("a.service.consul", 33);
    assert_eq!(
        &query[12..],
        b"\x01a\x07service\x06consul\x00\x00\x21\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
    );
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut room) {
            room[7] = 1;
            socket.send_to(&room[..len], from).unwrap();
        }
    });
    let outcome = dns::drive(address, 8, Goal::Count(50), &query).unwrap();
    assert_eq!((outcome.done, outcome.failed), (50, 0));
}
