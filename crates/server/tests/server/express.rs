//! Frequent requests, which are answered before hyper sees them: they must be told apart from all others, and answered as
//! hyper would.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::Server;

const CART: &str = r#"{"ID":"c-1","Name":"cart","Address":"10.0.0.1","Port":80,"Check":{"TTL":"60s"}}"#;

const OTHER: &str = r#"{"Node":"elsewhere","Address":"10.0.0.9","Service":{"ID":"o-1","Service":"order","Port":81}}"#;

/// Long enough for gzip.
const MANY: usize = 8;

struct Client(TcpStream);

impl Client {
    fn new(server: &Server) -> Client {
        let socket = TcpStream::connect(&server.http).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_nodelay(true).unwrap();
        Client(socket)
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// The next answer: head and body.
    fn answer(&mut self) -> (String, Vec<u8>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).unwrap();
        (head, body)
    }

    fn ask(&mut self, text: &str) -> (String, Vec<u8>) {
        self.send(text);
        self.answer()
    }

    /// Whether the server has closed.
    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

fn put(path: &str, more: &str, body: &str) -> String {
    format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{more}\r\n{body}", body.len())
}

fn start() -> Server {
    let server = Server::start();
    let mut client = Client::new(&server);
    for i in 0..MANY {
        let body = CART.replace("c-1", &format!("c-{i}"));
        assert!(client.ask(&put("/v1/agent/service/register", "", &body)).0.starts_with("HTTP/1.1 200 OK\r\n"));
        let beat = put(&format!("/v1/agent/check/pass/service:c-{i}"), "", "");
        assert!(client.ask(&beat).0.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    server
}

/// Without the date; and who was refused keeps its connection if its body was read, which hyper's cannot know.
fn essence(head: &str) -> Vec<&str> {
    head.lines().filter(|line| !line.starts_with("date: ") && *line != "connection: close").collect()
}

#[test]
fn every_answer_is_the_one_that_hyper_gives() {
    let server = start();
    let lookup = "/v1/health/service/cart";
    for (request, status) in [
        (get(lookup, ""), 200),
        (get(&format!("{lookup}?passing"), "Accept-Encoding: gzip\r\n"), 200),
        (get(&format!("{lookup}?passing&stale"), "User-Agent: x\r\nAccept: */*\r\n"), 200),
        (get(&format!("{lookup}?consistent&tag=none"), "Accept-Encoding: gzip, br\r\n"), 200),
        (get(&format!("{lookup}?pretty"), ""), 200),
        (get(&format!("{lookup}?filter=Service.ID%3D%3D%22c-1%22"), ""), 200),
        (get(&format!("{lookup}?filter=nonsense"), ""), 400),
        (get(&format!("{lookup}?filter=%zz"), ""), 400),
        (get(&format!("{lookup}?wait=1"), ""), 400),
        (get(&format!("{lookup}?dc=elsewhere"), ""), 500),
        (get(&format!("{lookup}?index=1"), ""), 200),
        (get("/v1/health/service/nobody-there", ""), 200),
        (get("/v1/health/service/NO_NAME", ""), 200),
        (get("/v1/health/service/", ""), 404),
        (put("/v1/agent/check/pass/service:c-1", "", ""), 200),
        (put("/v1/agent/check/pass/service:c-1?note=hello+world", "", ""), 200),
        (put("/v1/agent/check/pass/service:unknown", "", ""), 404),
        (put("/v1/agent/service/register", "", CART), 200),
        (put("/v1/agent/service/register", "", "{"), 400),
        (put("/v1/agent/service/register", "", r#"{"ID":"x"}"#), 400),
        (put("/v1/agent/service/register", "", ""), 400),
        (put("/v1/catalog/register", "", OTHER), 200),
        (put("/v1/catalog/register?pretty", "", OTHER), 200),
        (put("/v1/catalog/register", "", r#"{"Node":"n","Address":"10.0.0.1"}"#), 200),
        (put("/v1/catalog/register", "", r#"{"Node":"unknown","Service":{"Service":"cart"}}"#), 400),
        (put("/v1/catalog/register", "", "[1]"), 400),
        (get(lookup, "X-Consul-Token: whatever\r\n"), 200),
        (get(lookup, "Authorization: Basic Og==\r\n"), 200),
        (get(lookup, "Authorization: Basic Z3Vlc3Q6d3Jvbmc=\r\n"), 401),
        (get(lookup, "Origin: http://elsewhere.example\r\n"), 403),
        (get(lookup, "").replace("localhost", "elsewhere.example"), 403),
        (get(lookup, "Host: localhost\r\n"), 400),
        (get(lookup, "Host: elsewhere.example\r\n"), 400),
    ] {
        let express = Client::new(&server).ask(&request);
        // A header that is known to nobody makes it hyper's.
        let general = Client::new(&server).ask(&request.replacen("\r\n", "\r\nX-Unknown: 1\r\n", 1));
        assert_eq!(essence(&express.0), essence(&general.0), "{request}");
        assert_eq!(express.1, general.1, "{request}");
        assert!(express.0.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {}", express.0);
        assert!(express.0.contains("\r\ndate: "), "{}", express.0);
    }
    server.stop().0.unwrap();
}

#[test]
fn requests_of_both_kinds_follow_each_other_on_a_connection() {
    let server = start();
    let mut client = Client::new(&server);
    let kinds = [
        get("/v1/health/service/cart?passing", ""),
        get("/v1/catalog/services", ""),
        put("/v1/agent/check/pass/service:c-1", "", ""),
        put("/v1/kv/a", "", "value"),
        put("/v1/agent/check/update/service:c-1", "", r#"{"Status":"passing"}"#),
        put("/v1/agent/service/register", "", CART),
        put("/v1/catalog/register", "", OTHER),
        get("/livez", ""),
        put("/v1/agent/check/pass/nothing", "", ""),
    ];
    for first in &kinds {
        for second in &kinds {
            for request in [first, second] {
                let status = client.ask(request).0.split(' ').nth(1).unwrap().to_owned();
                assert_eq!(status, if request.contains("nothing") { "404" } else { "200" }, "{first} {second}");
            }
        }
    }
    server.stop().0.unwrap();
}

#[test]
fn requests_in_advance_are_answered_in_order_however_they_are_cut() {
    let server = start();
    let stream = [
        get("/v1/health/service/cart", ""),
        put("/v1/agent/check/pass/service:c-1", "", ""),
        put("/v1/kv/a", "", "GET /v1/health/service/cart HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        get("/v1/health/service/cart?tag=none", ""),
        get("/v1/kv/a?raw", ""),
        put("/v1/agent/service/register", "", CART),
        get("/v1/health/service/cart?tag=none", ""),
    ]
    .concat();
    let expect = |client: &mut Client, cut: usize| {
        let answers: Vec<_> = (0..7).map(|_| client.answer()).collect();
        assert!(answers.iter().all(|(head, _)| head.starts_with("HTTP/1.1 200 OK\r\n")), "{cut}: {answers:?}");
        let of = |i: usize| String::from_utf8_lossy(&answers[i].1).into_owned();
        assert!(of(0).contains("\"c-1\"") && of(1).is_empty() && of(2) == "true", "{cut}");
        assert!(of(3) == "[]" && of(4).starts_with("GET /v1/health") && of(5).is_empty() && of(6) == "[]", "{cut}");
    };
    for cut in 0..stream.len() {
        let mut client = Client::new(&server);
        client.send(&stream[..cut]);
        if cut % 7 == 0 {
            // Time for the server to see the first part alone.
            std::thread::sleep(Duration::from_millis(2));
        }
        client.send(&stream[cut..]);
        expect(&mut client, cut);
    }
    server.stop().0.unwrap();
}

#[test]
fn who_asks_to_close_is_closed_and_nothing_behind_is_answered() {
    let server = start();
    let mut client = Client::new(&server);
    let close = get("/v1/health/service/cart", "Connection: close\r\n");
    client.send(&[close, get("/v1/health/service/cart", "")].concat());
    assert!(client.answer().0.contains("connection: close\r\n"));
    assert!(client.is_closed());
    server.stop().0.unwrap();
}

/// What one side takes for a body the other must not take for a request.
#[test]
fn doubtful_requests_smuggle_nothing() {
    let server = start();
    let inner = put("/v1/agent/service/deregister/c-1", "", "");
    for doubtful in [
        format!("Content-Length: 0\r\nContent-Length: {}\r\n", inner.len()),
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", inner.len()),
        "Transfer-Encoding: x\r\n".to_owned(),
        "Content-Length: +0\r\n".to_owned(),
        "Content-Length : 5\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(),
    ] {
        let mut client = Client::new(&server);
        let head = format!("PUT /v1/agent/check/pass/service:c-1 HTTP/1.1\r\nHost: localhost\r\n{doubtful}\r\n");
        client.send(&(head + &inner));
        let answer = client.answer().0;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{doubtful:?}: {answer}");
        assert!(client.is_closed(), "{doubtful:?}");
    }
    let listed = Client::new(&server).ask(&get("/v1/health/service/cart", "")).1;
    assert!(String::from_utf8(listed).unwrap().contains("\"c-1\""));
    server.stop().0.unwrap();
}

fn index(head: &str) -> u64 {
    head.lines().find_map(|line| line.strip_prefix("x-consul-index: ")).unwrap().parse().unwrap()
}

#[test]
fn who_waits_is_told_of_the_change_and_then_of_what_it_asked_meanwhile() {
    let server = start();
    let mut client = Client::new(&server);
    let index = index(&client.ask(&get("/v1/health/service/cart", "")).0);
    client.send(&get(&format!("/v1/health/service/cart?index={index}&wait=60s"), ""));
    std::thread::sleep(Duration::from_millis(50));
    client.send(&get("/livez", ""));
    std::thread::sleep(Duration::from_millis(50));
    let register = put("/v1/agent/service/register", "", &CART.replace("c-1", "c-new"));
    Client::new(&server).ask(&register);
    let (head, body) = client.answer();
    assert!(self::index(&head) > index && String::from_utf8(body).unwrap().contains("c-new"));
    assert!(client.answer().0.starts_with("HTTP/1.1 200 "));
    server.stop().0.unwrap();
}

#[test]
fn who_waits_is_answered_when_the_server_stops() {
    let server = start();
    let mut client = Client::new(&server);
    let index = index(&client.ask(&get("/v1/health/service/cart", "")).0);
    client.send(&get(&format!("/v1/health/service/cart?index={index}&wait=60s"), ""));
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    server.stop().0.unwrap();
    let head = client.answer().0;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("connection: close\r\n"), "{head}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn who_goes_while_it_waits_is_let_go() {
    let server = start();
    let mut client = Client::new(&server);
    let index = index(&client.ask(&get("/v1/health/service/cart", "")).0);
    client.send(&get(&format!("/v1/health/service/cart?index={index}&wait=60s"), ""));
    std::thread::sleep(Duration::from_millis(50));
    client.0.shutdown(Shutdown::Write).unwrap();
    assert!(client.is_closed());
    server.stop().0.unwrap();
}
