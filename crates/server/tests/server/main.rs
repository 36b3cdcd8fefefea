//! A whole server in this process, spoken to over sockets.

#![allow(clippy::unwrap_used)]

mod basics;
mod consul;
mod express;
mod failure;
mod messages;
mod registry;
mod services;
mod tls;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot::Receiver;
use waypost_server::config::Config;
use waypost_server::{ServeError, config};

struct Server {
    dir: tempfile::TempDir,
    amqp: String,
    http: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

fn flags(dir: &Path, more: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
    let dir = dir.display().to_string();
    let base = [
        ("data-dir", dir.as_str()),
        ("amqp", "127.0.0.1:0"),
        ("http", "127.0.0.1:0"),
        ("dns", "off"),
        ("kafka", "off"),
        ("disk-free-limit", "0B"),
    ];
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for (name, value) in base.iter().chain(more) {
        all.retain(|(n, _)| n != name);
        all.push(((*name).to_owned(), vec![(*value).to_owned()]));
    }
    all
}

impl Server {
    fn start() -> Server {
        Server::start_in(tempfile::tempdir().unwrap(), &[])
    }

    fn start_in(dir: tempfile::TempDir, more: &[(&str, &str)]) -> Server {
        Server::start_as(dir, more, |config, stop| waypost_server::run(config, async move { drop(stop.await) }))
    }

    fn start_as(
        dir: tempfile::TempDir,
        more: &[(&str, &str)],
        run: impl FnOnce(Config, Receiver<()>) -> Result<(), ServeError> + Send + 'static,
    ) -> Server {
        let config = config::load(None, [], flags(dir.path(), more)).unwrap().config;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || run(config, stopped));
        let file = dir.path().join("listeners.json");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !file.exists() {
            assert!(!thread.is_finished(), "the server ended: {:?}", thread.join());
            assert!(Instant::now() < deadline, "not ready in time");
            std::thread::sleep(Duration::from_millis(2));
        }
        let addresses: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let address = |name: &str| addresses[name][0].as_str().unwrap().to_owned();
        Server { amqp: address("amqp"), http: address("http"), dir, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.amqp).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// A connection that has been opened.
    fn open(&self) -> TcpStream {
        let mut socket = self.connect();
        login(&mut socket, "PLAIN", b"\0guest\0guest");
        socket
    }

    fn http(&self, request: &str, host: &str, body: &str) -> (u16, String) {
        ask(TcpStream::connect(&self.http).unwrap(), request, host, body)
    }

    fn stop(mut self) -> (Result<(), ServeError>, tempfile::TempDir) {
        drop(self.stop.take());
        let result = self.thread.take().unwrap().join().unwrap();
        (result, std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()))
    }
}

/// One request and its answer.
fn ask(mut socket: impl Read + Write, request: &str, host: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    socket.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// Opens a connection in vhost `/`. Gives the mechanisms that were offered.
fn login(socket: &mut (impl Read + Write), mechanism: &str, response: &[u8]) -> String {
    socket.write_all(b"AMQP\0\0\x09\x01").unwrap();
    let start = frame(socket);
    assert_eq!(start[..4], [0, 10, 0, 10]);
    let mut start_ok = b"\0\x0a\0\x0b\0\0\0\0".to_vec();
    start_ok.push(u8::try_from(mechanism.len()).unwrap());
    start_ok.extend_from_slice(mechanism.as_bytes());
    start_ok.extend_from_slice(&u32::try_from(response.len()).unwrap().to_be_bytes());
    start_ok.extend_from_slice(response);
    start_ok.extend_from_slice(b"\x05en_US");
    send(socket, &start_ok);
    assert_eq!(method(socket), (10, 30));
    send(socket, b"\0\x0a\0\x1f\x07\xff\0\x02\0\0\0\0");
    send(socket, b"\0\x0a\0\x28\x01/\0\0");
    assert_eq!(method(socket), (10, 41));
    // Version, server properties, mechanisms.
    let properties = u32::from_be_bytes(start[6..10].try_into().unwrap()) as usize;
    let mechanisms = &start[10 + properties..];
    let length = u32::from_be_bytes(mechanisms[..4].try_into().unwrap()) as usize;
    String::from_utf8(mechanisms[4..4 + length].to_vec()).unwrap()
}

/// Opens channel 1 and declares the transient queue `q`.
fn queue(socket: &mut (impl Read + Write)) {
    send_on(socket, 1, 1, b"\0\x14\0\x0a\0");
    assert_eq!(method(socket), (20, 11));
    declare(socket);
}

/// Declares the transient queue `q` on channel 1.
fn declare(socket: &mut (impl Read + Write)) {
    send_on(socket, 1, 1, b"\0\x32\0\x0a\0\0\x01q\0\0\0\0\0");
    assert_eq!(method(socket), (50, 11));
}

/// Publishes to `q` by the default exchange.
fn publish(socket: &mut impl Write, body: &[u8]) {
    send_on(socket, 1, 1, b"\0\x3c\0\x28\0\0\0\x01q\0");
    let header = [&b"\0\x3c\0\0"[..], &(body.len() as u64).to_be_bytes(), b"\0\0"].concat();
    send_on(socket, 1, 2, &header);
    body.chunks(100_000).for_each(|chunk| send_on(socket, 1, 3, chunk));
}

/// Gets a message of `q` without acknowledgement.
fn get(socket: &mut (impl Read + Write)) -> Option<Vec<u8>> {
    send_on(socket, 1, 1, b"\0\x3c\0\x46\0\0\x01q\x01");
    match method(socket) {
        (60, 71) => {}
        (60, 72) => return None,
        other => panic!("not expected: {other:?}"),
    }
    let size = u64::from_be_bytes(frame(socket)[4..12].try_into().unwrap());
    let mut body = Vec::new();
    while (body.len() as u64) < size {
        let mut chunk = frame(socket);
        chunk.pop();
        body.append(&mut chunk);
    }
    Some(body)
}

/// A method frame of channel 0.
fn send(socket: &mut impl Write, payload: &[u8]) {
    send_on(socket, 0, 1, payload);
}

fn send_on(socket: &mut impl Write, channel: u8, kind: u8, payload: &[u8]) {
    let mut frame = vec![kind, 0, channel];
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(payload);
    frame.push(0xce);
    socket.write_all(&frame).unwrap();
}

fn frame(socket: &mut impl Read) -> Vec<u8> {
    let mut head = [0; 7];
    socket.read_exact(&mut head).unwrap();
    let mut payload = vec![0; u32::from_be_bytes(head[3..].try_into().unwrap()) as usize + 1];
    socket.read_exact(&mut payload).unwrap();
    payload
}

fn method(socket: &mut impl Read) -> (u16, u16) {
    let payload = frame(socket);
    (u16::from_be_bytes([payload[0], payload[1]]), u16::from_be_bytes([payload[2], payload[3]]))
}
