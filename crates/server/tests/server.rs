//! A whole server in this process, spoken to over sockets.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    let base =
        [("data-dir", dir.as_str()), ("amqp", "127.0.0.1:0"), ("http", "127.0.0.1:0"), ("disk-free-limit", "0B")];
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
        let config = config::load(None, [], flags(dir.path(), more)).unwrap().config;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || waypost_server::run(config, async move { drop(stopped.await) }));
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
        socket.write_all(b"AMQP\0\0\x09\x01").unwrap();
        assert_eq!(method(&mut socket), (10, 10));
        let start_ok = b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US";
        send(&mut socket, start_ok);
        assert_eq!(method(&mut socket), (10, 30));
        send(&mut socket, b"\0\x0a\0\x1f\x07\xff\0\x02\0\0\0\0");
        send(&mut socket, b"\0\x0a\0\x28\x01/\0\0");
        assert_eq!(method(&mut socket), (10, 41));
        socket
    }

    fn http(&self, request: &str, host: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(&self.http).unwrap();
        let length = body.len();
        let head =
            format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        socket.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn stop(mut self) -> (Result<(), ServeError>, tempfile::TempDir) {
        drop(self.stop.take());
        let result = self.thread.take().unwrap().join().unwrap();
        (result, std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()))
    }
}

fn send(socket: &mut TcpStream, payload: &[u8]) {
    let mut frame = vec![1, 0, 0];
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(payload);
    frame.push(0xce);
    socket.write_all(&frame).unwrap();
}

fn frame(socket: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 7];
    socket.read_exact(&mut head).unwrap();
    let mut payload = vec![0; u32::from_be_bytes(head[3..].try_into().unwrap()) as usize + 1];
    socket.read_exact(&mut payload).unwrap();
    payload
}

fn method(socket: &mut TcpStream) -> (u16, u16) {
    let payload = frame(socket);
    (u16::from_be_bytes([payload[0], payload[1]]), u16::from_be_bytes([payload[2], payload[3]]))
}

#[test]
fn half_a_frame_harms_nobody() {
    let server = Server::start();
    let mut waits = server.open();
    waits.write_all(&[1, 0, 0, 0, 0, 0xff, 0xff, 0]).unwrap();
    let mut silent = server.connect();
    silent.write_all(b"AM").unwrap();
    drop(server.open());
    server.stop().0.unwrap();
}

#[test]
fn peers_are_told_of_the_stop_and_the_file_goes() {
    let server = Server::start();
    let mut peer = server.open();
    let told = std::thread::spawn(move || {
        let payload = frame(&mut peer);
        send(&mut peer, b"\0\x0a\0\x33");
        payload
    });
    let (result, dir) = server.stop();
    result.unwrap();
    let payload = told.join().unwrap();
    assert_eq!(payload[..6], [0, 10, 0, 50, 1, 64], "connection.close 320");
    let text = String::from_utf8_lossy(&payload).into_owned();
    assert!(text.contains("broker forced connection closure with reason 'shutdown'"), "{text}");
    assert!(!dir.path().join("listeners.json").exists());
}

#[test]
fn definitions_outlive_a_restart() {
    let server = Server::start();
    let put = server.http("PUT /api/v1/queues/%2F/a%2Fb", "localhost", "{\"arguments\":{\"x-max-length\":5}}");
    assert_eq!(put.0, 204, "{}", put.1);
    let (result, dir) = server.stop();
    result.unwrap();
    let server = Server::start_in(dir, &[]);
    let (status, body) = server.http("GET /api/v1/queues/%2F/a%2Fb", "localhost", "");
    assert_eq!(status, 200);
    let queue: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(queue["arguments"]["x-max-length"], 5);
    assert_eq!(server.http("DELETE /api/v1/queues/%2F/a%2Fb", "localhost", "").0, 200);
    assert_eq!(server.http("GET /api/v1/queues/%2F/a%2Fb", "localhost", "").0, 404);
    server.stop().0.unwrap();
}

#[test]
fn http_answers_and_refuses() {
    let server = Server::start();
    assert_eq!(server.http("GET /livez", "anything.example", ""), (200, "ok\n".to_owned()));
    assert_eq!(server.http("GET /readyz", "localhost", "").0, 200);
    assert_eq!(server.http("GET /api/v1/overview", "evil.example", "").0, 403);
    assert_eq!(server.http("GET /api/v1/nothing", "localhost", "").0, 404);
    assert_eq!(server.http("POST /api/v1/queues", "localhost", "{}").0, 405);
    assert_eq!(server.http("PUT /api/v1/queues/%2F/q", "localhost", "{\"durible\":true}").0, 400);
    assert_eq!(server.http("PUT /api/v1/queues/%2F/q", "localhost", "{").0, 400);
    let metrics = server.http("GET /metrics", "localhost", "").1;
    assert!(metrics.contains("\nrabbitmq_connections 0\n"), "{metrics}");
    server.stop().0.unwrap();
}

#[test]
fn credentials_can_be_demanded() {
    let server = Server::start_in(tempfile::tempdir().unwrap(), &[("http-auth", "always")]);
    assert_eq!(server.http("GET /api/v1/overview", "localhost", "").0, 401);
    let with = |basic: &str| format!("localhost\r\nAuthorization: Basic {basic}");
    assert_eq!(server.http("GET /api/v1/overview", &with("Z3Vlc3Q6Z3Vlc3Q="), "").0, 200);
    assert_eq!(server.http("GET /api/v1/overview", &with("Z3Vlc3Q6d3Jvbmc="), "").0, 401);
    server.stop().0.unwrap();
}

#[test]
fn a_taken_port_and_a_taken_directory_end_the_start() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let run = |given| waypost_server::run(config::load(None, [], given).unwrap().config, std::future::pending());
    let error = run(flags(dir.path(), &[("amqp", &server.amqp)])).unwrap_err();
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains(&server.amqp), "{error}");
    let error = run(flags(server.dir.path(), &[])).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(server.dir.path().join("listeners.json").exists(), "it belongs to the server that runs");
    server.stop().0.unwrap();
}

#[test]
fn too_many_connections_are_turned_away() {
    let server = Server::start_in(tempfile::tempdir().unwrap(), &[("server-connections-max", "1")]);
    let held = server.open();
    let mut refused = server.connect();
    let _ = refused.write_all(b"AMQP\0\0\x09\x01");
    assert!(!matches!(refused.read(&mut [0; 8]), Ok(n) if n > 0));
    drop(held);
    server.stop().0.unwrap();
}
