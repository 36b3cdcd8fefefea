//! The registry in a server: health checks that it runs, restarts, vhosts that go.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Server;

/// A web service that is well or not.
fn web(well: &Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, well) = (listener.local_addr().unwrap(), Arc::clone(well));
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            let _ = socket.read(&mut [0; 1024]);
            let status = if well.load(Ordering::SeqCst) { "200 OK" } else { "503 Oh" };
            let _ = write!(socket, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    format!("http://{address}/health")
}

fn health(server: &Server, id: &str) -> Value {
    let (_, text) = server.http(&format!("GET /api/v1/services/cart/instances/{id}"), "localhost", "");
    serde_json::from_str::<Value>(&text).map_or(Value::Null, |v| v["health"].clone())
}

fn becomes(server: &Server, id: &str, wanted: &Value) {
    let until = Instant::now() + Duration::from_secs(20);
    while health(server, id) != *wanted {
        assert!(Instant::now() < until, "{id} is {} and not {wanted}", health(server, id));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn register(server: &Server, id: &str, checks: &Value) {
    let body = json!({ "address": "10.0.0.1", "port": 80, "checks": checks }).to_string();
    let (status, text) = server.http(&format!("PUT /api/v1/services/cart/instances/{id}"), "localhost", &body);
    assert!(matches!(status, 200 | 201), "{status} {text}");
}

#[test]
fn checks_are_run_and_their_verdict_outlives_a_restart() {
    let well = Arc::new(AtomicBool::new(true));
    let url = web(&well);
    let tcp = url.trim_start_matches("http://").trim_end_matches("/health").to_owned();
    let server = Server::start();
    let http = |url: &str| json!([{ "id": "http", "http": url, "interval": "200ms", "timeout": "2s" }]);
    register(&server, "web", &http(&url));
    register(&server, "tcp", &json!([{ "id": "tcp", "tcp": tcp, "interval": "200ms", "timeout": "2s" }]));
    register(&server, "nobody", &json!([{ "id": "tcp", "tcp": "127.0.0.1:1", "interval": "200ms", "timeout": "2s" }]));
    becomes(&server, "web", &json!("passing"));
    becomes(&server, "tcp", &json!("passing"));
    becomes(&server, "nobody", &json!("critical"));
    well.store(false, Ordering::SeqCst);
    becomes(&server, "web", &json!("critical"));
    assert_eq!(health(&server, "tcp"), json!("passing"));
    let (result, dir) = server.stop();
    result.unwrap();
    let server = Server::start_in(dir, &[]);
    assert_eq!(health(&server, "web"), json!("critical"), "what it was last is what it is first");
    well.store(true, Ordering::SeqCst);
    becomes(&server, "web", &json!("passing"));
}

#[test]
fn checks_go_where_they_may() {
    let well = Arc::new(AtomicBool::new(true));
    let url = web(&well);
    let server = Server::start_in(tempfile::tempdir().unwrap(), &[("targets-allow", "10.0.0.0/8")]);
    let body = json!({ "checks": [{ "id": "http", "http": url, "interval": "200ms" }] }).to_string();
    let (status, text) = server.http("PUT /api/v1/services/cart/instances/web", "localhost", &body);
    // Refused when it is registered, or never run with success: both keep the server from asking.
    if status < 300 {
        becomes(&server, "web", &json!("critical"));
    } else {
        assert!(text.contains("targets"), "{status} {text}");
    }
}

#[test]
fn a_vhost_takes_its_services_with_it() {
    let server = Server::start();
    let vhost = |method: &str| server.http(&format!("{method} /api/v1/vhosts/shop"), "localhost", "{}").0;
    assert!(vhost("PUT") < 300);
    let body = json!({ "address": "10.0.0.1" }).to_string();
    let at = "/api/v1/services/cart/instances/a?vhost=shop";
    assert_eq!(server.http(&format!("PUT {at}"), "localhost", &body).0, 201);
    assert_eq!(server.http(&format!("GET {at}"), "localhost", "").0, 200);
    assert!(vhost("DELETE") < 300);
    assert!(vhost("PUT") < 300);
    assert_eq!(server.http(&format!("GET {at}"), "localhost", "").0, 404);
}
