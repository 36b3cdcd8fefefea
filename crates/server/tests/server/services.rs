//! Services over HTTP: coming and going, watching, the plain verbs, tokens.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Server, ask};

pub const CART: &str = "/api/v1/services/cart";

impl Server {
    pub fn call(&self, request: &str, body: &str) -> (u16, Value) {
        let (status, text) = self.http(request, "localhost", body);
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub fn put(&self, id: &str, body: &Value) -> (u16, Value) {
        self.call(&format!("PUT {CART}/instances/{id}"), &body.to_string())
    }

    /// A connection on which a request is sent, and whose answer is read by lines.
    fn stream(&self, request: &str) -> BufReader<TcpStream> {
        let mut socket = TcpStream::connect(&self.http).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(socket, "{request} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").unwrap();
        BufReader::new(socket)
    }
}

/// The next event of a stream: its name and its data.
fn event(stream: &mut impl BufRead) -> (String, Value) {
    let (mut name, mut data) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream has ended");
        if let Some(event) = line.strip_prefix("event: ") {
            name = event.trim().to_owned();
        } else if let Some(text) = line.strip_prefix("data: ") {
            data = text.trim().to_owned();
        } else if line == "\n" && !name.is_empty() {
            return (name, serde_json::from_str(&data).unwrap());
        }
    }
}

#[test]
fn an_instance_comes_and_goes() {
    let server = Server::start();
    assert_eq!(server.call(&format!("GET {CART}"), "").0, 404);
    let body = json!({
        "address": "10.0.0.1", "port": 8080, "version": "1.2.3", "zone": "eu-1", "tags": ["b", "a"],
        "meta": { "team": "shop" }, "weight": 5, "checks": [{ "id": "alive", "ttl": "30s" }],
    });
    let (status, done) = server.put("i-1", &body);
    assert_eq!((status, &done["created"]), (201, &json!(true)), "{done}");
    let (status, done) = server.put("i-1", &body);
    assert_eq!((status, &done["changed"]), (200, &json!(false)), "{done}");
    let (status, cart) = server.call(&format!("GET {CART}"), "");
    assert_eq!(status, 200);
    let one = &cart["instances"][0];
    assert_eq!((&one["id"], &one["version"], &one["tags"]), (&json!("i-1"), &json!("1.2.3"), &json!(["a", "b"])));
    assert_eq!((&one["health"], &one["checks"][0]["kind"]), (&json!("starting"), &json!("ttl")));
    let report = format!("PUT {CART}/instances/i-1/checks/alive");
    assert_eq!(server.call(&report, "{\"status\":\"passing\",\"output\":\"fine\"}").0, 204);
    let (_, one) = server.call(&format!("GET {CART}/instances/i-1"), "");
    assert_eq!((&one["health"], &one["checks"][0]["output"]), (&json!("passing"), &json!("fine")));
    let (_, list) = server.call("GET /api/v1/services", "");
    assert_eq!((&list[0]["service"], &list[0]["passing"]), (&json!("cart"), &json!(1)));

    let (result, dir) = server.stop();
    result.unwrap();
    let server = Server::start_in(dir, &[]);
    assert_eq!(server.call(&format!("GET {CART}/instances/i-1"), "").1["zone"], "eu-1", "it survives a restart");
    assert_eq!(server.call(&format!("PUT {CART}/instances/i-1/maintenance"), "{\"reason\":\"disk\"}").0, 204);
    assert_eq!(server.call(&format!("GET {CART}/instances/i-1"), "").1["maintenance"], "disk");
    assert_eq!(server.call(&format!("DELETE {CART}/instances/i-1/maintenance"), "").0, 204);
    assert_eq!(server.call(&format!("POST {CART}/instances/i-1/drain"), "{\"deadline\":\"1m\"}").0, 204);
    assert_eq!(server.call(&format!("GET {CART}/instances/i-1"), "").1["draining"], true);
    assert_eq!(server.call(&format!("DELETE {CART}/instances/i-1"), "").0, 204);
    assert_eq!(server.call(&format!("DELETE {CART}/instances/i-1"), "").0, 404);
    server.stop().0.unwrap();
}

#[test]
fn a_lease_is_renewed_or_over() {
    let server = Server::start();
    assert_eq!(server.put("i", &json!({ "ttl": "600ms" })).0, 201);
    let beat = format!("POST {CART}/instances/i/heartbeat");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(server.call(&beat, "").0, 204);
        std::thread::sleep(Duration::from_millis(100));
    }
    let health = || server.call(&format!("GET {CART}/instances/i"), "").1["health"].clone();
    assert_eq!(health(), "passing");
    let deadline = Instant::now() + Duration::from_secs(10);
    while health() != "critical" {
        assert!(Instant::now() < deadline, "still {}", health());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.call(&format!("POST {CART}/instances/nobody/heartbeat"), "").0, 404);
    server.stop().0.unwrap();
}

#[test]
fn mistakes_are_told_as_what_they_are() {
    let server = Server::start();
    for (body, what) in [
        ("{\"adress\":\"x\"}", "adress"),
        ("{\"version\":\"1\"}", "semver"),
        ("{\"ttl\":15}", "string"),
        ("{\"ttl\":\"1ms\"}", "lease"),
        ("{\"checks\":[{\"http\":\"http://x\",\"tcp\":\"y:1\"}]}", "check"),
        ("{\"checks\":[{\"ttl\":\"1s\",\"interval\":\"1s\"}]}", "interval"),
        ("{\"push\":{\"url\":\"ftp://x\"}}", "http://"),
        ("{\"push\":{\"url\":\"http://169.254.169.254/\"}}", "link-local"),
        ("{\"push\":{\"url\":\"http://x/\",\"format\":\"xml\"}}", "format"),
        ("{\"checks\":[{\"http\":\"http://169.254.169.254/latest\"}]}", "link-local"),
        ("{\"checks\":[{\"tcp\":\"[fe80::1]:80\"}]}", "link-local"),
        ("[]", "object"),
        ("{\"checks\":[[]]}", "object"),
        ("{\"push\":[\"http://x/\"]}", "object"),
        ("{\"weight\":0}", "weight"),
        ("[", "body"),
    ] {
        let (status, error) = server.call(&format!("PUT {CART}/instances/i"), body);
        assert_eq!(status, 400, "{body}: {error}");
        assert!(error["reason"].as_str().unwrap().contains(what), "{body}: {error}");
        assert_eq!(error["error"], "bad request");
    }
    assert_eq!(server.call("GET /api/v1/services/Cart", "").0, 400);
    assert_eq!(server.call(&format!("GET {CART}?verbose"), "").0, 400);
    assert_eq!(server.call(&format!("GET {CART}/nothing"), "").0, 404);
    assert_eq!(server.call(&format!("POST {CART}"), "").0, 405);
    assert_eq!(server.call("GET /api/v1/services?vhost=nowhere", "").0, 404);
    let large = json!({ "zone": "z".repeat(300_000) });
    assert_eq!(server.put("i", &large).0, 413);
    server.stop().0.unwrap();
}

#[test]
fn a_parameter_that_cannot_be_read_is_no_parameter_less() {
    let server = Server::start();
    for query in ["version=%FF", "%ZZ=1", "vhost=%"] {
        let (status, why) = server.call(&format!("POST {CART}/send?{query}"), "x");
        assert_eq!((status, &why["reason"]), (400, &json!("bad escape in the query")), "{query}");
    }
}

#[test]
fn who_is_refused_before_the_body_is_read_is_told_that_the_connection_ends() {
    let server = Server::start();
    let mut socket = TcpStream::connect(&server.http).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(socket, "POST {CART}/send?nope=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[test]
fn plain_verbs() {
    let server = Server::start();
    assert_eq!(server.http("GET /query?service_name=cart", "localhost", "").0, 404);
    let register = |body: &str| server.http("POST /register", "localhost", body);
    let json = "{\"service_name\":\"cart\",\"service_address\":\"10.0.0.1\",\"service_port\":80,\"tags\":\"a,b\"}";
    assert_eq!(register(json), (200, "OK".to_owned()));
    let form = "localhost\r\nContent-Type: application/x-www-form-urlencoded";
    let body = "service_name=cart&service_address=10.0.0.2&service_port=81&meta=k%3Dv&ttl=60";
    assert_eq!(server.http("POST /register", form, body), (200, "OK".to_owned()));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        seen.insert(server.http("GET /query?service_name=cart", "localhost", "").1);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["10.0.0.1:80", "10.0.0.2:81"]);
    let (_, all) = server.call("GET /query?service_name=cart&all=true", "");
    assert_eq!(all[0]["id"], "cart-10.0.0.1-80");
    assert_eq!(all[0]["tags"], json!(["a", "b"]));
    assert_eq!((&all[1]["meta"]["k"], all.as_array().unwrap().len()), (&json!("v"), 2));
    assert_eq!(server.http("POST /deregister", "localhost", json), (200, "OK".to_owned()));
    assert_eq!(server.http("GET /query?service_name=cart", "localhost", "").1, "10.0.0.2:81");
    assert_eq!(server.http("POST /deregister", "localhost", json).0, 404);
    assert_eq!(register("{\"service_name\":\"cart\"}").0, 400);
    assert_eq!(register("{\"service_name\":\"c_t\",\"service_address\":\"x\",\"service_port\":1}").0, 400);
    assert_eq!(server.http("GET /register", "localhost", "").0, 405);
    server.stop().0.unwrap();
}

#[test]
fn polls_wait_for_a_change() {
    let server = Server::start();
    server.put("a", &json!({}));
    let index = server.call(&format!("GET {CART}"), "").1["index"].as_u64().unwrap();
    let began = Instant::now();
    let (status, same) = server.call(&format!("GET {CART}?index={index}&wait=300ms"), "");
    assert!(status == 200 && began.elapsed() >= Duration::from_millis(300));
    assert_eq!(same["index"], index);
    std::thread::scope(|s| {
        let waiting = s.spawn(|| server.call(&format!("GET {CART}?index={index}&wait=10s"), "").1);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        server.put("a", &json!({}));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished(), "what is registered again as it is wakes nobody");
        server.put("b", &json!({}));
        let told = waiting.join().unwrap();
        assert!(told["index"].as_u64().unwrap() > index);
        assert_eq!(told["instances"].as_array().unwrap().len(), 2);
    });
    assert_eq!(server.call(&format!("GET {CART}?wait=1s"), "").0, 400);
    server.stop().0.unwrap();
}

#[test]
fn streams_tell_of_changes() {
    let server = Server::start();
    server.put("a", &json!({}));
    let mut one = server.stream(&format!("GET {CART}"));
    let (name, cart) = event(&mut one);
    assert_eq!((name.as_str(), &cart["instances"][0]["id"]), ("service", &json!("a")));
    let mut all = server.stream("GET /api/v1/services?service=cart");
    let mut line = String::new();
    all.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    server.call("PUT /api/v1/services/other/instances/x", "{}");
    server.put("b", &json!({ "zone": "z" }));
    assert_eq!(event(&mut one).1["instances"].as_array().unwrap().len(), 2);
    let (name, change) = event(&mut all);
    assert_eq!((name.as_str(), &change["instance"]["id"]), ("instance", &json!("b")), "{change}");
    server.call(&format!("DELETE {CART}/instances/b"), "");
    let (name, change) = event(&mut all);
    assert_eq!((name.as_str(), &change["id"]), ("gone", &json!("b")));
    // The stop ends streams, and is not held up by them.
    server.stop().0.unwrap();
    let mut rest = String::new();
    one.read_to_string(&mut rest).unwrap();
}

#[test]
fn tokens_stand_for_their_users() {
    let server = Server::start_in(tempfile::tempdir().unwrap(), &[("http-auth", "always")]);
    let guest = "localhost\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=";
    assert_eq!(server.http("GET /api/v1/services", "localhost", "").0, 401);
    let (status, token) = server.http("POST /api/v1/tokens", guest, "{\"ttl\":\"1h\"}");
    assert_eq!(status, 201, "{token}");
    let token: Value = serde_json::from_str(&token).unwrap();
    let bearer = format!("localhost\r\nAuthorization: Bearer {}", token["token"].as_str().unwrap());
    assert_eq!(server.http("GET /api/v1/services", &bearer, "").0, 200);
    let consul = format!("localhost\r\nX-Consul-Token: {}", token["token"].as_str().unwrap());
    assert_eq!(server.http("GET /api/v1/services", &consul, "").0, 200);
    assert_eq!(server.http("GET /api/v1/services", "localhost\r\nAuthorization: Bearer wpt_x.y", "").0, 401);
    // A new password ends the old one's tokens.
    let put = server.http("PUT /api/v1/users/guest", guest, "{\"password\":\"new\"}");
    assert_eq!(put.0, 204, "{}", put.1);
    assert_eq!(server.http("GET /api/v1/services", &bearer, "").0, 401);
    server.stop().0.unwrap();
}

#[test]
fn users_are_held_to_their_permissions() {
    let server = Server::start();
    // No tag for management: that is for operators.
    assert_eq!(server.call("PUT /api/v1/users/ann", "{\"password\":\"pw\"}").0, 204);
    let rights =
        "{\"configure\":\"^cart-.*\",\"write\":\"^amq\\\\.services$\",\"read\":\"^(amq\\\\.services|cart-queue)$\"}";
    assert_eq!(server.call("PUT /api/v1/permissions/%2F/ann", rights).0, 204);
    let ann = "localhost\r\nAuthorization: Basic YW5uOnB3";
    let put = |path: &str, body: &str| server.http(&format!("PUT /api/v1/services/{path}"), ann, body).0;
    assert_eq!(put("cart/instances/cart-1", "{}"), 201);
    assert_eq!(put("cart/instances/other-1", "{}"), 403, "to claim an id is to configure it");
    let push = "{\"push\":{\"url\":\"http://127.0.0.1:1/\"}}";
    assert_eq!(put("cart/instances/cart-2", push), 201);
    assert_eq!(put("shop/instances/cart-2", push), 403, "that mailbox is not to be read");
    assert_eq!(server.http("GET /api/v1/services/cart", ann, "").0, 200);
    assert_eq!(server.http("GET /api/v1/overview", ann, "").0, 403);
    assert_eq!(server.http("GET /api/v1/whoami", ann, "").0, 200);
    // What Prometheus sends when it has no credentials.
    assert_eq!(server.http("GET /query?service_name=x", "localhost\r\nAuthorization: Basic Og==", "").0, 404);
    server.stop().0.unwrap();
}

#[test]
fn the_document_is_served_and_its_pages_are_there() {
    let server = Server::start();
    let (status, document) = server.call("GET /api/v1/openapi.json", "");
    assert_eq!(status, 200);
    for (path, page) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{service}", "cart")
            .replace("{instance}", "i")
            .replace("{check}", "c")
            .replace("{request}", "0")
            .replace("{vhost}", "%2F")
            .replace("{forwarder}", "f")
            .replace("{topic}", "t")
            .replace("{group}", "g");
        assert!(!path.contains('{'), "{path}");
        for method in page.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let (status, answer) = server.call(&format!("{} {path}", method.to_uppercase()), "");
            assert!(status != 405 && answer["reason"] != "no such page", "{method} {path}: {status} {answer}");
        }
    }
    let tag = "localhost\r\nAccept-Encoding: gzip";
    let mut socket = TcpStream::connect(&server.http).unwrap();
    write!(socket, "GET /api/v1/openapi.json HTTP/1.1\r\nHost: {tag}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let head = String::from_utf8_lossy(&answer[..400]).to_lowercase();
    assert!(head.contains("content-encoding: gzip") && head.contains("etag: w/\""), "{head}");
    server.stop().0.unwrap();
}

#[test]
fn foreign_pages_are_kept_out() {
    let server = Server::start();
    let foreign = "localhost\r\nOrigin: http://evil.example";
    assert_eq!(server.http(&format!("PUT {CART}/instances/i"), foreign, "{}").0, 403);
    assert_eq!(server.http("GET /query?service_name=cart", "evil.example", "").0, 403);
    let own = format!("{0}\r\nOrigin: http://{0}", server.http);
    assert_eq!(ask(TcpStream::connect(&server.http).unwrap(), &format!("PUT {CART}/instances/i"), &own, "{}").0, 201);
    server.stop().0.unwrap();
}
