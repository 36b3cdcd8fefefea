//! Messages to services over HTTP: sent, asked, answered, pushed, explained. Instances are web services of the test's own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Server;
use super::services::CART;

/// A request that came in.
#[derive(Debug)]
struct Posted {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    /// Takes the answer: status line and headers, then the body.
    answer: Sender<(String, Vec<u8>)>,
}

impl Posted {
    fn answer(&self, status: &str, body: &str) {
        self.answer.send((status.to_owned(), body.as_bytes().to_vec())).unwrap();
    }
}

/// Waits until something holds.
fn until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come to hold");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A web service whose requests the test answers.
struct Hook {
    url: String,
    requests: Receiver<Posted>,
}

impl Hook {
    fn start() -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (sender, requests) = channel();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, sender) = (socket.unwrap(), sender.clone());
                std::thread::spawn(move || while serve(&socket, &sender).is_some() {});
            }
        });
        Hook { url, requests }
    }

    fn next(&self) -> Posted {
        self.requests.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    fn nothing(&self) {
        let got = self.requests.recv_timeout(Duration::from_millis(200));
        assert!(got.is_err(), "{got:?}");
    }
}

fn serve(socket: &TcpStream, sender: &Sender<Posted>) -> Option<()> {
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length").map_or(0, |n| n.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    let (answer, answered) = channel();
    sender.send(Posted { path, headers, body, answer }).ok()?;
    let (status, body) = answered.recv().ok()?;
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    (&*socket).write_all(head.as_bytes()).ok()?;
    (&*socket).write_all(&body).ok()
}

impl Server {
    /// Registers an instance of `cart` with an endpoint.
    fn push(&self, id: &str, hook: &Hook, more: &Value) {
        let mut body = more.clone();
        body["push"]["url"] = json!(hook.url);
        let (status, answer) = self.put(id, &body);
        assert_eq!(status, 201, "{answer}");
    }
}

#[test]
fn a_message_waits_and_is_pushed() {
    let server = Server::start();
    let sent = server.call(&format!("POST {CART}/send?version=%5E2&ttl=1m"), "one");
    assert_eq!(sent.0, 202, "{}", sent.1);
    assert_eq!(sent.1["durable"], true);
    let (_, mailbox) = server.call(&format!("GET {CART}/mailbox"), "");
    assert_eq!((&mailbox["queue"], &mailbox["waiting"]), (&json!("cart-queue"), &json!(1)));
    let hook = Hook::start();
    server.push("old", &hook, &json!({ "version": "1.9.0" }));
    hook.nothing();
    server.push("new", &hook, &json!({ "version": "2.1.0" }));
    let posted = hook.next();
    assert_eq!((posted.path.as_str(), &posted.body[..]), ("/hook", &b"one"[..]));
    for (name, value) in [
        ("waypost-service", "cart"),
        ("waypost-instance", "new"),
        ("waypost-exchange", "amq.services"),
        ("waypost-header-x-version", "^2"),
        ("waypost-expiration", "60000"),
    ] {
        assert_eq!(posted.headers.get(name).map(String::as_str), Some(value), "{name}: {:?}", posted.headers);
    }
    let (_, mailbox) = server.call(&format!("GET {CART}/mailbox"), "");
    assert_eq!(mailbox["in_flight"], 1, "{mailbox}");
    posted.answer("204 No Content", "");
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.call(&format!("GET {CART}/mailbox"), "").1["in_flight"] != 0 {
        assert!(Instant::now() < deadline, "never acknowledged");
        std::thread::sleep(Duration::from_millis(10));
    }
    server.stop().0.unwrap();
}

#[test]
fn a_web_service_answers_requests() {
    let server = Server::start();
    let hook = Hook::start();
    server.push("i", &hook, &json!({}));
    std::thread::scope(|s| {
        let asked = s.spawn(|| {
            let headers =
                "localhost\r\nWaypost-Correlation-Id: order-7\r\nWaypost-Type: sum\r\nContent-Type: text/plain";
            server.http(&format!("POST {CART}/request?timeout=20s"), headers, "1+1")
        });
        let posted = hook.next();
        assert_eq!(posted.body, b"1+1");
        assert_eq!((&*posted.headers["waypost-type"], &*posted.headers["content-type"]), ("sum", "text/plain"));
        assert_eq!(posted.headers["waypost-correlation-id"], "order-7");
        assert!(posted.headers.contains_key("waypost-deadline"));
        posted.answer("200 OK\r\nWaypost-Type: result", "2");
        assert_eq!(asked.join().unwrap(), (200, "2".to_owned()));
    });
    server.stop().0.unwrap();
}

#[test]
fn an_answer_can_be_fetched_later_and_once() {
    let server = Server::start();
    let hook = Hook::start();
    server.push("i", &hook, &json!({}));
    let (status, later) = server.call(&format!("POST {CART}/request?async"), "x");
    assert_eq!(status, 202, "{later}");
    let place = later["location"].as_str().unwrap();
    assert_eq!(server.call(&format!("GET {place}"), ""), (202, json!({ "id": later["id"], "state": "waiting" })));
    hook.next().answer("200 OK", "answer");
    assert_eq!(server.http(&format!("GET {place}?wait=10s"), "localhost", ""), (200, "answer".to_owned()));
    assert_eq!(server.call(&format!("GET {place}"), "").0, 404);
    // Deleted before the answer comes, and when it has been delivered: before, it would be withdrawn.
    let (_, later) = server.call(&format!("POST {CART}/request?async"), "y");
    let place = later["location"].as_str().unwrap();
    let posted = hook.next();
    assert_eq!(server.call(&format!("DELETE {place}"), "").0, 204);
    posted.answer("200 OK", "nobody reads it");
    assert_eq!(server.call(&format!("GET {place}"), "").0, 404);
    // Of another service.
    let (_, later) = server.call(&format!("POST {CART}/request?async"), "z");
    let elsewhere = later["location"].as_str().unwrap().replace("cart", "other");
    assert_eq!(server.call(&format!("GET {elsewhere}"), "").0, 404);
    server.stop().0.unwrap();
}

#[test]
fn a_drain_tells_when_it_is_over() {
    let server = Server::start();
    assert_eq!(server.call(&format!("POST {CART}/send"), "one").0, 202);
    let (_, list) = server.call("GET /api/v1/services", "");
    let cart = &list[0];
    assert_eq!((&cart["service"], &cart["instances"], &cart["waiting"]), (&json!("cart"), &json!(0), &json!(1)));
    let hook = Hook::start();
    server.push("i", &hook, &json!({}));
    let posted = hook.next();
    let drain = |wait: &str| server.call(&format!("GET {CART}/instances/i/drain{wait}"), "");
    assert_eq!(server.call(&format!("POST {CART}/instances/i/drain"), "").0, 204);
    let (status, is) = drain("?wait=100ms");
    assert_eq!(
        (status, &is["draining"], &is["in_flight"], &is["empty"]),
        (200, &json!(true), &json!(1), &json!(false))
    );
    let over = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| drain("?wait=20s"));
        std::thread::sleep(Duration::from_millis(100));
        posted.answer("204 No Content", "");
        waiter.join().unwrap().1
    });
    assert_eq!((&over["in_flight"], &over["empty"]), (&json!(0), &json!(true)));
    assert_eq!(server.call(&format!("GET {CART}/instances/nobody/drain"), "").0, 404);
    server.stop().0.unwrap();
}

#[test]
fn a_request_goes_with_who_asked() {
    let server = Server::start();
    let mailbox = || server.call(&format!("GET {CART}/mailbox"), "").1["waiting"].clone();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(&server.http).unwrap();
        let head = format!("POST {CART}/request?timeout=60s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n");
        socket.write_all(format!("{head}x").as_bytes()).unwrap();
        until(|| mailbox() == 1);
        drop(socket);
        until(|| mailbox() == 0);
    }
    let (_, later) = server.call(&format!("POST {CART}/request?async"), "y");
    assert_eq!(mailbox(), 1);
    assert_eq!(server.call(&format!("DELETE {}", later["location"].as_str().unwrap()), "").0, 204);
    until(|| mailbox() == 0);
    server.stop().0.unwrap();
}

#[test]
fn an_expired_request_is_not_delivered() {
    let server = Server::start();
    let (status, error) = server.call(&format!("POST {CART}/request?timeout=300ms"), "late");
    assert_eq!((status, &error["error"]), (504, &json!("gateway timeout")));
    let hook = Hook::start();
    server.push("i", &hook, &json!({}));
    hook.nothing();
    assert_eq!(server.call(&format!("POST {CART}/send"), "fresh").0, 202);
    assert_eq!(hook.next().body, b"fresh");
    server.stop().0.unwrap();
}

#[test]
fn failures_are_tried_again_and_then_dead_lettered() {
    let server = Server::start();
    server.call("PUT /api/v1/queues/%2F/dead", "{}");
    let arguments = "{\"arguments\":{\"x-dead-letter-exchange\":\"\",\"x-dead-letter-routing-key\":\"dead\"}}";
    assert_eq!(server.call("PUT /api/v1/queues/%2F/cart-queue", arguments).0, 204);
    let hook = Hook::start();
    server.push("i", &hook, &json!({}));
    server.call(&format!("POST {CART}/send"), "again");
    let first = hook.next();
    let id = first.headers["waypost-delivery-id"].clone();
    let began = Instant::now();
    first.answer("503 Unavailable\r\nRetry-After: 1", "");
    let second = hook.next();
    assert!(began.elapsed() >= Duration::from_secs(1), "it asked for a second");
    assert_eq!(second.headers["waypost-delivery-id"], id);
    second.answer("200 OK", "");
    // What will never be taken is not tried twice.
    server.call(&format!("POST {CART}/send"), "never");
    hook.next().answer("422 Unprocessable", "");
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.call("GET /api/v1/queues/%2F/dead", "").1["messages"] != 1 {
        assert!(Instant::now() < deadline, "no dead letter");
        std::thread::sleep(Duration::from_millis(10));
    }
    hook.nothing();
    server.stop().0.unwrap();
}

#[test]
fn messages_of_an_endpoint_that_is_gone_go_to_another() {
    let server = Server::start();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    assert_eq!(server.put("gone", &json!({ "push": { "url": url } })).0, 201);
    for n in 0..4 {
        server.call(&format!("POST {CART}/send"), &n.to_string());
    }
    std::thread::sleep(Duration::from_millis(100));
    let hook = Hook::start();
    server.push("here", &hook, &json!({}));
    let mut seen = std::collections::BTreeSet::new();
    // Also the one that served as the probe: a dead endpoint keeps nothing.
    while seen.len() < 4 {
        let posted = hook.next();
        seen.insert(posted.body.clone());
        posted.answer("200 OK", "");
    }
    server.stop().0.unwrap();
}

#[test]
fn what_is_pushed_is_signed_and_may_be_an_event() {
    let server = Server::start();
    let hook = Hook::start();
    server.push("i", &hook, &json!({ "push": { "secret": "s3cret", "format": "cloudevents" } }));
    let headers = "localhost\r\nWaypost-Message-Id: m-1\r\nWaypost-Type: order.placed";
    assert_eq!(server.http(&format!("POST {CART}/send"), headers, "{}").0, 202);
    let posted = hook.next();
    for (name, value) in [("ce-id", "m-1"), ("ce-type", "order.placed"), ("ce-source", "/services/cart")] {
        assert_eq!(posted.headers[name], value);
    }
    let signature = &posted.headers["waypost-signature"];
    assert!(signature.starts_with("t=") && signature.contains(",v1="), "{signature}");
    posted.answer("200 OK", "");
    let (_, shown) = server.call(&format!("GET {CART}/instances/i"), "");
    assert_eq!(shown["push"]["signed"], true);
    assert!(!shown.to_string().contains("s3cret"), "{shown}");
    server.stop().0.unwrap();
}

#[test]
fn sending_is_refused_for_a_reason() {
    let server = Server::start();
    let send = |query: &str| server.call(&format!("POST {CART}/send?{query}"), "x").0;
    assert_eq!(send("mandatory"), 404);
    assert_eq!(send("version=nonsense"), 400);
    assert_eq!(send("verzion=1"), 400);
    assert_eq!(send("deliver=key"), 400);
    assert_eq!(server.call("POST /api/v1/services/a_b/send", "x").0, 400);
    let limits = "{\"arguments\":{\"x-max-length\":1,\"x-overflow\":\"reject-publish\"}}";
    assert_eq!(server.call("PUT /api/v1/queues/%2F/cart-queue", limits).0, 204);
    assert_eq!(send(""), 202);
    assert_eq!(send(""), 429);
    // A user who may not write.
    assert_eq!(server.call("PUT /api/v1/users/ann", "{\"password\":\"pw\"}").0, 204);
    let ann = "localhost\r\nAuthorization: Basic YW5uOnB3";
    assert_eq!(server.http(&format!("POST {CART}/send"), ann, "x").0, 403);
    assert_eq!(server.http(&format!("POST {CART}/request"), ann, "x").0, 403);
    let large = "x".repeat(9 << 20);
    assert_eq!(server.http(&format!("POST {CART}/send"), "localhost", &large).0, 413);
    server.stop().0.unwrap();
}

#[test]
fn explanations_name_the_condition_that_failed() {
    let server = Server::start();
    let hook = Hook::start();
    server.push("old", &hook, &json!({ "version": "1.0.0" }));
    server.push("new", &hook, &json!({ "version": "2.0.0" }));
    let deadline = Instant::now() + Duration::from_secs(10);
    let explained = loop {
        let (status, explained) = server.call(&format!("GET {CART}/explain?version=%5E2"), "");
        assert_eq!(status, 200, "{explained}");
        if explained["chosen"][0]["instance"] == "new" {
            break explained;
        }
        assert!(Instant::now() < deadline, "{explained}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let old = &explained["candidates"].as_array().unwrap().iter().find(|c| c["instance"]["id"] == "old").unwrap();
    assert!(old["rejected"].as_str().unwrap().contains("version"), "{old}");
    hook.nothing();
    server.stop().0.unwrap();
}
