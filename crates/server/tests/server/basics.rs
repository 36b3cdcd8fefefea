//! Start, stop, HTTP, limits.

use std::io::{Read, Write};

use waypost_server::config;

use super::{Server, declare, flags, frame, get, method, publish, queue, send, send_on};

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
    assert_eq!(server.http("PUT /api/v1/queues/%2F/q", "localhost", "{}").0, 204);
    let other = server.http("PUT /api/v1/queues/%2F/q", "localhost", "{\"durable\":false}");
    assert_eq!(other.0, 409, "{}", other.1);
    let metrics = server.http("GET /metrics", "localhost", "").1;
    assert!(metrics.contains("\nrabbitmq_connections 0\n"), "{metrics}");
    server.stop().0.unwrap();
}

/// What is spelled wrong must not be left out: of a filter that would mean everything.
#[test]
fn parameters_that_a_page_does_not_have_are_refused() {
    let server = Server::start();
    let rule = |name: &str| {
        format!(r#"{{"resource":"topic","name":"{name}","principal":"User:ann","operation":"read","effect":"allow"}}"#)
    };
    let ask = |request: &str, body: &str| server.http(request, "localhost", body);
    for name in ["a", "b"] {
        assert_eq!(ask("POST /api/v1/acls/%2F", &rule(name)).0, 204);
        assert_eq!(ask(&format!("PUT /api/v1/config/keys/{name}"), "1").0, 200);
    }
    for request in [
        "DELETE /api/v1/acls/%2F?resource=topic&nmae=a",
        "GET /api/v1/acls?nmae=a",
        "GET /api/v1/queues?vhots=x",
        "GET /api/v1/topics/%2F/t/records?ofset=1",
        "DELETE /api/v1/queues/%2F/q?if-unused=true",
        "DELETE /api/v1/quotas?clientid=x&user=y",
        "DELETE /api/v1/topic-permissions/%2F/guest?exchnage=x",
        "GET /api/v1/config/keys/a?verison=1",
        "DELETE /api/v1/config/keys/a?coment=x",
        "GET /api/v1/config/watch?path=a&rev=1",
    ] {
        let (status, body) = ask(request, "");
        assert!(status == 400 && body.contains("unknown parameter"), "{request}: {status} {body}");
    }
    assert_eq!(ask("GET /api/v1/acls?vhost=%2F&resource=topic", "").1.matches("User:ann").count(), 2);
    assert_eq!(ask("GET /api/v1/config/keys/a?vhost=%2F&version=1", "").0, 200);
    assert_eq!(ask("DELETE /api/v1/acls/%2F?resource=topic&name=a", "").0, 200);
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

#[test]
fn counters_outlive_what_they_counted() {
    let server = Server::start();
    let mut peer = server.open();
    queue(&mut peer);
    ["a", "b", "c"].iter().for_each(|body| publish(&mut peer, body.as_bytes()));
    assert_eq!(get(&mut peer).unwrap(), b"a");
    let metric = |name: &str| {
        let page = server.http("GET /metrics", "localhost", "").1;
        let line = page.lines().find_map(|l| l.strip_prefix(&format!("rabbitmq_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse::<u64>().unwrap()
    };
    assert_eq!((metric("queue_messages_ready"), metric("global_publishers")), (2, 1));
    // queue.delete
    send_on(&mut peer, 1, 1, b"\0\x32\0\x28\0\0\x01q\0");
    assert_eq!(method(&mut peer), (50, 41));
    declare(&mut peer);
    assert_eq!(get(&mut peer), None);
    assert_eq!(metric("queue_messages_ready"), 0);
    for (name, want) in [
        ("received", 3),
        ("received_confirm", 0),
        ("routed", 3),
        ("delivered", 1),
        ("delivered_get_auto_ack", 1),
        ("delivered_get_manual_ack", 0),
        ("delivered_consume_auto_ack", 0),
        ("delivered_consume_manual_ack", 0),
        ("get_empty", 1),
        ("redelivered", 0),
        ("acknowledged", 0),
    ] {
        let name = format!("global_messages_{name}_total");
        assert_eq!(metric(&name), want, "{name}");
    }
    drop(peer);
    server.stop().0.unwrap();
}
