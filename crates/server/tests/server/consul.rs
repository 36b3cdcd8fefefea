//! Consul's API and DNS over sockets, without anybody's client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Server;

const REGISTER: &str = "PUT /v1/agent/service/register";

fn start() -> (Server, SocketAddr) {
    let server = Server::start_in(tempfile::tempdir().unwrap(), &[("dns", "127.0.0.1:0")]);
    let listeners = std::fs::read(server.dir.path().join("listeners.json")).unwrap();
    let listeners: Value = serde_json::from_slice(&listeners).unwrap();
    let dns = listeners["dns"][0].as_str().unwrap().parse().unwrap();
    (server, dns)
}

fn register(server: &Server, id: &str, address: &str) {
    let body = json!({ "ID": id, "Name": "cart", "Address": address, "Port": 80 }).to_string();
    assert_eq!(server.http(REGISTER, "localhost", &body), (200, String::new()));
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        out.push(label.len().try_into().unwrap());
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, kind.try_into().unwrap(), 0, 1]);
    out
}

/// The code and the number of answers.
fn verdict(answer: &[u8]) -> (u8, u16) {
    assert_eq!(&answer[..2], &[0, 7]);
    (answer[3] & 15, u16::from_be_bytes([answer[6], answer[7]]))
}

fn over_udp(dns: SocketAddr, query: &[u8]) -> (u8, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(query, dns).unwrap();
    let mut room = [0; 4096];
    let len = socket.recv(&mut room).unwrap();
    verdict(&room[..len])
}

#[test]
fn names_are_answered_over_udp_and_tcp_from_the_moment_of_the_registration() {
    let (server, dns) = start();
    assert_eq!(over_udp(dns, &query("cart.service.waypost", 1)), (3, 0));
    register(&server, "c-1", "10.0.0.1");
    register(&server, "c-2", "10.0.0.2");
    assert_eq!(over_udp(dns, &query("cart.service.waypost", 1)), (0, 2));
    assert_eq!(over_udp(dns, &query("_cart._tcp.service.consul", 33)), (0, 2));
    let mut stream = TcpStream::connect(dns).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let message = query("cart.service.consul", 1);
    let framed = [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
    // Two at once, the second cut in two.
    stream.write_all(&[&framed[..], &framed[..5]].concat()).unwrap();
    stream.write_all(&framed[5..]).unwrap();
    for _ in 0..2 {
        let mut len = [0; 2];
        stream.read_exact(&mut len).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(verdict(&answer), (0, 2));
    }
    assert_eq!(server.http("PUT /v1/agent/service/deregister/c-1", "localhost", "").0, 200);
    assert_eq!(over_udp(dns, &query("cart.service.waypost", 1)), (0, 1));
    server.stop().0.unwrap();
}

#[test]
fn a_taken_port_of_either_kind_ends_the_start() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let config = super::config::load(None, [], super::flags(dir.path(), &[("dns", &address)])).unwrap().config;
    let error = waypost_server::run(config, std::future::pending()).unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    assert_eq!(error.exit_code(), 78);
}

#[test]
fn a_listener_for_a_vhost_that_there_is_not_ends_the_start() {
    let (server, _) = start();
    assert_eq!(server.http("PUT /api/v1/vhosts/shop", "localhost", "{}").0, 204);
    let (stopped, dir) = server.stop();
    stopped.unwrap();
    for protocol in ["dns", "http", "kafka"] {
        let flags = super::flags(dir.path(), &[(protocol, "127.0.0.1:0,vhost=nowhere")]);
        let config = super::config::load(None, [], flags).unwrap().config;
        let error = waypost_server::run(config, std::future::pending()).unwrap_err();
        assert!(error.to_string().contains(&format!("for {protocol} has `vhost=nowhere`")), "{error}");
        assert_eq!(error.exit_code(), 78);
    }
    Server::start_in(dir, &[("dns", "127.0.0.1:0,vhost=shop")]).stop().0.unwrap();
}

/// Asks on a connection of its own, and gives the index beside the answer.
fn look(server: &Server, path: &str) -> (u64, Value) {
    let mut socket = TcpStream::connect(&server.http).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let index = head.lines().find_map(|line| line.strip_prefix("x-consul-index: ")).unwrap();
    (index.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn who_waits_is_told_of_what_is_new_and_of_nothing_else() {
    let (server, _) = start();
    register(&server, "c-1", "10.0.0.1");
    let (index, entries) = look(&server, "/v1/health/service/cart?passing");
    assert_eq!(entries.as_array().unwrap().len(), 1);
    let begin = Instant::now();
    let path = format!("/v1/health/service/cart?passing&index={index}&wait=15s");
    let told = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| look(&server, &path));
        std::thread::sleep(Duration::from_millis(200));
        register(&server, "c-1", "10.0.0.1");
        let other = json!({ "Name": "other", "Address": "10.0.0.9" }).to_string();
        assert_eq!(server.http(REGISTER, "localhost", &other).0, 200);
        std::thread::sleep(Duration::from_millis(200));
        assert!(!waiter.is_finished());
        register(&server, "c-2", "10.0.0.2");
        waiter.join().unwrap()
    });
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(told.0 > index);
    assert_eq!(told.1.as_array().unwrap().len(), 2);
    let begin = Instant::now();
    let (same, _) = look(&server, &format!("/v1/health/service/cart?index={}&wait=300ms", told.0));
    assert_eq!(same, told.0);
    assert!((Duration::from_millis(290)..Duration::from_secs(5)).contains(&begin.elapsed()));
}

/// Whoever waits for what does not change waits: a client that polls with the index that it got would otherwise spin.
#[test]
fn prepared_queries_and_coordinates_are_waited_for() {
    let (server, _) = start();
    let create = |name: &str| {
        let body = json!({ "Name": name, "Service": { "Service": "cart" } }).to_string();
        let (code, answer) = server.http("POST /v1/query", "localhost", &body);
        assert_eq!(code, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["ID"].as_str().unwrap().to_owned()
    };
    let id = create("first");
    for path in ["/v1/query".to_owned(), format!("/v1/query/{id}"), "/v1/coordinate/nodes".to_owned()] {
        let (index, shown) = look(&server, &path);
        assert_eq!(shown.as_array().unwrap().len(), 1, "{path}");
        let begin = Instant::now();
        let again = look(&server, &format!("{path}?index={index}&wait=300ms"));
        assert_eq!(again, (index, shown), "{path}");
        assert!((Duration::from_millis(290)..Duration::from_secs(5)).contains(&begin.elapsed()), "{path}");
    }
    let (index, _) = look(&server, "/v1/query");
    let begin = Instant::now();
    let told = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| look(&server, &format!("/v1/query?index={index}&wait=15s")));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!waiter.is_finished());
        create("second");
        waiter.join().unwrap()
    });
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(told.0 > index && told.1.as_array().unwrap().len() == 2);
    // What is not there is not waited for.
    assert_eq!(server.http("GET /v1/query/absent?index=1000000&wait=15s", "localhost", "").0, 404);
}

/// A node's address is that of all services on it, and its checks speak of all of them.
#[test]
fn who_may_register_an_instance_may_not_change_the_node_that_it_is_on() {
    let server = Server::start_in(tempfile::tempdir().unwrap(), &[("http-auth", "always")]);
    let as_guest = "localhost\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=";
    // ann:ann
    let as_ann = "localhost\r\nAuthorization: Basic YW5uOmFubg==";
    let permission = json!({ "configure": "^a-", "write": "^$", "read": "^amq.services$" }).to_string();
    for (request, body) in
        [("PUT /api/v1/users/ann", "{\"password\":\"ann\"}"), ("PUT /api/v1/permissions/%2F/ann", &permission)]
    {
        assert_eq!(server.http(request, as_guest, body).0, 204);
    }
    let node = json!({ "Node": "db", "Address": "10.0.0.1", "NodeMeta": { "z": "1", "a": "2" } });
    let with = |more: Value| {
        let mut body = node.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string()
    };
    let own = server.http("GET /v1/agent/self", as_guest, "").1;
    let own = serde_json::from_str::<Value>(&own).unwrap()["Config"]["NodeName"].as_str().unwrap().to_owned();
    let instance = json!({ "Service": "cart", "ID": "a-1" });
    let critical = json!({ "Name": "x", "Status": "critical" });
    assert_eq!(server.http("PUT /v1/catalog/register", as_guest, &node.to_string()).0, 200);
    for (more, status) in [
        (json!({ "Service": instance }), 200),
        (json!({ "Service": instance, "Check": { "Name": "c", "ServiceID": "a-1", "Status": "critical" } }), 200),
        (json!({ "Service": instance, "SkipNodeUpdate": true, "Address": "6.6.6.6" }), 200),
        (json!({ "Service": instance, "Address": "6.6.6.6" }), 403),
        (json!({ "Service": instance, "NodeMeta": {} }), 403),
        (json!({ "Service": instance, "Node": "new" }), 403),
        (json!({ "Service": instance, "Check": critical }), 403),
        (json!({ "Service": instance, "Checks": [critical], "Node": own }), 403),
        (json!({ "Service": instance, "Datacenter": "elsewhere" }), 500),
        (json!({ "Service": { "Service": "cart", "ID": "b-1" } }), 403),
    ] {
        let body = with(more);
        for unknown in ["", "\r\nX-Unknown: 1"] {
            let (code, answer) = server.http("PUT /v1/catalog/register", &format!("{as_ann}{unknown}"), &body);
            assert_eq!(code, status, "{body}: {answer}");
        }
    }
    let (_, seen) = server.http("GET /v1/catalog/node/db", as_guest, "");
    assert!(seen.contains("\"10.0.0.1\"") && !seen.contains("6.6.6.6"), "{seen}");
    assert_eq!(server.http("GET /v1/health/node/db", as_guest, "").1.matches("\"critical\"").count(), 1);
    assert_eq!(server.http(&format!("GET /v1/health/node/{own}"), as_guest, "").1.matches("\"critical\"").count(), 0);
    server.stop().0.unwrap();
}

#[test]
fn failures_are_texts_as_consul_has_them() {
    let (server, _) = start();
    for (request, body, status, text) in [
        ("GET /v1/catalog/services?wait=55", "", 400, "Invalid wait time"),
        ("GET /v1/catalog/services?stale&consistent", "", 400, "Cannot specify ?stale"),
        ("PUT /v1/agent/service/register", "{", 400, "Request decode failed: "),
        ("PUT /v1/agent/service/register", "{}", 400, "Missing service name"),
        ("PUT /v1/agent/check/pass/service:x", "", 404, "Unknown check ID"),
        ("PUT /v1/agent/service/deregister/x", "", 404, "Unknown service ID"),
        ("POST /v1/catalog/services", "", 405, ""),
        ("GET /v1/agent/service/register", "", 405, ""),
        ("GET /v1/agent/service/deregister/x", "", 405, ""),
        ("GET /v1/agent/service/maintenance/x", "", 405, ""),
        ("GET /v1/nothing", "", 404, "Invalid URL path"),
        ("GET /v1/acl/tokens", "", 401, "ACL support disabled"),
        ("GET /v1/connect/ca/roots", "", 501, "no service mesh"),
        ("GET /v1/health/service/x?filter=Nothing==1", "", 400, "Nothing"),
    ] {
        let (code, answer) = server.http(request, "localhost", body);
        assert!(code == status && answer.contains(text), "{request}: {code} {answer}");
    }
}

#[test]
fn a_session_ends_with_a_check_that_it_names() {
    let (server, _) = start();
    let body = json!({ "ID": "c-1", "Name": "cart", "Check": { "TTL": "60s", "Status": "passing" } }).to_string();
    assert_eq!(server.http(REGISTER, "localhost", &body).0, 200);
    let create = |checks: Value| server.http("PUT /v1/session/create", "localhost", &checks.to_string());
    let (status, why) = create(json!({ "Checks": ["serfHealth", "service:nobody"] }));
    assert!(status == 500 && why.contains("Missing check 'service:nobody'"), "{status} {why}");
    let (status, why) = create(json!({ "Node": "elsewhere" }));
    assert!(status == 500 && why.contains("Missing node"), "{status} {why}");
    let id = |(status, text): (u16, String)| {
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["ID"].as_str().unwrap().to_owned()
    };
    let named = id(create(json!({ "Checks": ["serfHealth", "service:c-1"], "LockDelay": "0s" })));
    let other = id(create(json!({})));
    let (_, locked) = server.http(&format!("PUT /v1/kv/lock?acquire={named}"), "localhost", "x");
    assert_eq!(locked, "true");
    assert_eq!(server.http("PUT /v1/agent/check/fail/service:c-1", "localhost", "").0, 200);
    let info = |id: &str| server.http(&format!("GET /v1/session/info/{id}"), "localhost", "").1;
    let deadline = Instant::now() + Duration::from_secs(20);
    while info(&named) != "[]" {
        assert!(Instant::now() < deadline, "{}", info(&named));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_ne!(info(&other), "[]");
    let (_, entry) = look(&server, "/v1/kv/lock");
    assert_eq!(entry[0].get("Session"), None, "{entry}");
    let (status, why) = create(json!({ "Checks": ["service:c-1"] }));
    assert!(status == 500 && why.contains("critical"), "{status} {why}");
}
