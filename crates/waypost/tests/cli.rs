//! The command line against a real server: a process of its own, on free ports, in a directory of its own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

struct Server {
    process: Child,
    dir: tempfile::TempDir,
    amqp: String,
    http: String,
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut process = program()
            .args([
                "serve",
                "--amqp",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--dns",
                "off",
                "--kafka",
                "off",
                "--data-dir",
            ])
            .arg(&data)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let listeners: Value = loop {
            if let Ok(text) = std::fs::read(data.join("listeners.json"))
                && let Ok(listeners) = serde_json::from_slice(&text)
            {
                break listeners;
            }
            assert!(process.try_wait().unwrap().is_none(), "the server has ended");
            assert!(Instant::now() < until, "the server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        };
        let address = |protocol: &str| listeners[protocol][0].as_str().unwrap().to_owned();
        Server { amqp: address("amqp"), http: address("http"), process, dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
        command
            .args(args)
            .env("WAYPOST_AMQP", format!("amqp://guest:guest@{}", self.amqp))
            .env("WAYPOST_HTTP", format!("http://{}", self.http));
        command
    }

    /// Runs a subcommand that must end with `code`; what it printed.
    fn run(&self, args: &[&str], code: i32) -> String {
        text(args, self.command(args).output().unwrap(), code)
    }

    fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.run(&args, 0)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.stdin(Stdio::null());
    command
}

fn text(args: &[&str], output: Output, code: i32) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn messages_go_in_and_come_out() {
    let s = Server::start();
    s.run(&["queues", "declare", "q"], 0);
    let done = s.json(&["publish", "", "q", "m {{count}}", "-n", "3", "-p", "--confirm", "-H", "n={{count}}"]);
    assert_eq!((&done["published"], &done["confirmed"]), (&3.into(), &3.into()));
    assert_eq!(s.run(&["consume", "q", "-t", "0.5", "--ack", "requeue", "-o", "raw"], 0), "m 1\nm 2\nm 3\n");
    let first: Value =
        serde_json::from_str(&s.run(&["consume", "q", "-n", "1", "-t", "5", "-o", "ndjson"], 0)).unwrap();
    assert_eq!((&first["body"], &first["redelivered"]), (&"m 1".into(), &true.into()));
    assert_eq!(first["properties"]["headers"]["n"], 1);
    assert_eq!(first["properties"]["delivery_mode"], 2);
    s.run(&["consume", "q", "-n", "5", "-t", "0.5", "-o", "raw"], 3);
    s.run(&["consume", "q", "-n", "1", "-t", "0.2"], 8);
}

#[test]
fn bodies_come_from_standard_input() {
    let s = Server::start();
    s.run(&["queues", "declare", "q"], 0);
    let args = ["publish", "", "q", "--lines", "--confirm"];
    let mut publish = s.command(&args).stdin(Stdio::piped()).spawn().unwrap();
    publish.stdin.take().unwrap().write_all(b"one\ntwo {{count}}\n").unwrap();
    text(&args, publish.wait_with_output().unwrap(), 0);
    assert_eq!(s.run(&["consume", "q", "-n", "2", "-t", "5", "-o", "raw"], 0), "one\ntwo {{count}}\n");
}

#[test]
fn a_large_body_comes_back_whole() {
    let s = Server::start();
    s.run(&["queues", "declare", "q"], 0);
    let body = tempfile::NamedTempFile::new().unwrap();
    let text = "0123456789".repeat(100_000);
    std::fs::write(body.path(), &text).unwrap();
    s.run(&["publish", "", "q", "--file", body.path().to_str().unwrap(), "-p", "--confirm"], 0);
    assert_eq!(s.run(&["consume", "q", "-n", "1", "-t", "5", "-o", "raw"], 0), format!("{text}\n"));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let s = Server::start();
    s.run(&["publish", "none", "k", "x"], 4);
    s.run(&["publish", "none", "k", "x", "--confirm"], 4);
    s.run(&["publish", "", "none", "x", "--mandatory"], 4);
    s.run(&["consume", "none"], 4);
    s.run(&["queues", "show", "none"], 4);
    s.run(&["publish", "--uri", &format!("amqp://guest:wrong@{}", s.amqp), "", "q", "x"], 5);
    s.run(&["queues", "ls", "--http", &format!("http://guest:wrong@{}", s.http)], 5);
    s.run(&["publish", "--uri", "amqp://127.0.0.1:1", "", "q", "x"], 7);
    s.run(&["queues", "ls", "--http", "http://127.0.0.1:1"], 7);
    s.run(&["queues", "frobnicate"], 2);
    s.run(&["consume", "q", "--ack", "auto", "-n", "1"], 2);
    s.run(&["check-config", "--amqp", "nonsense"], 78);
    s.run(
        &[
            "serve",
            "--data-dir",
            s.dir.path().join("other").to_str().unwrap(),
            "--http",
            "off",
            "--dns",
            "off",
            "--kafka",
            "off",
            "--amqp",
            &s.amqp,
        ],
        78,
    );
}

#[test]
fn definitions_are_made_listed_and_removed() {
    let s = Server::start();
    s.run(&["exchanges", "declare", "x", "topic"], 0);
    s.run(&["queues", "declare", "logs.a", "-a", "x-max-priority=5"], 0);
    s.run(&["bindings", "add", "x", "logs.a", "#.err"], 0);
    assert_eq!(s.run(&["bindings", "ls"], 0).lines().count(), 2);
    s.run(&["policies", "set", "cap", "^logs", "-a", "max-length=2", "--apply-to", "queues"], 0);
    let queue = s.json(&["queues", "show", "logs.a"]);
    assert_eq!((&queue["policy"], &queue["arguments"]["x-max-priority"]), (&"cap".into(), &5.into()));
    assert_eq!(queue["effective_policy"]["max-length"], 2);
    s.run(&["publish", "x", "a.err", "m{{count}}", "-n", "3", "--confirm"], 0);
    assert_eq!(s.json(&["queues", "show", "logs.a"])["messages_ready"], 2);
    assert_eq!(s.json(&["queues", "purge", "logs.a"])["messages"], 2);
    s.run(&["policies", "rm", "cap"], 0);
    s.run(&["bindings", "rm", "x", "logs.a", "#.err"], 0);
    s.run(&["bindings", "rm", "x", "logs.a", "#.err"], 4);
    s.run(&["queues", "delete", "logs.a", "--if-empty"], 0);
    s.run(&["exchanges", "delete", "x"], 0);
    assert_eq!(s.json(&["exchanges", "show", ""])["type"], "direct");
    assert_eq!(s.run(&["queues", "ls"], 0), "");
}

#[test]
fn users_come_in_as_far_as_they_may() {
    let s = Server::start();
    s.run(&["users", "add", "ann", "--password", "pw"], 0);
    s.run(&["users", "add", "ann", "--password", "pw"], 6);
    let uri = format!("amqp://ann:pw@{}", s.amqp);
    s.run(&["queues", "declare", "q"], 0);
    s.run(&["publish", "--uri", &uri, "", "q", "x", "--confirm"], 5);
    s.run(&["users", "permissions", "set", "ann", "", "^amq\\.default$", ""], 0);
    s.run(&["publish", "--uri", &uri, "", "q", "x", "--confirm"], 0);
    s.run(&["consume", "--uri", &uri, "q", "-n", "1"], 5);
    s.run(&["users", "tags", "ann", "monitoring"], 0);
    s.run(&["users", "limits", "ann", "--max-connections", "0"], 0);
    s.run(&["publish", "--uri", &uri, "", "q", "x"], 5);
    s.run(&["users", "rm", "ann"], 0);
    s.run(&["users", "rm", "ann"], 4);
    s.run(&["vhosts", "add", "v"], 0);
    s.run(&["vhosts", "limits", "v", "--max-queues", "0"], 0);
    assert_eq!(s.json(&["vhosts", "limits", "v"])["max_queues"], 0);
    s.run(&["vhosts", "rm", "v"], 0);
}

#[test]
fn a_consumer_s_connection_is_listed_and_closed() {
    let s = Server::start();
    s.run(&["queues", "declare", "q"], 0);
    let args = ["consume", "q"];
    let consumer = s.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while s.json(&["queues", "show", "q"])["consumers"] != 1 {
        assert!(Instant::now() < until, "no consumer came");
        std::thread::sleep(Duration::from_millis(20));
    }
    let name = s.json(&["connections", "ls"])[0]["name"].as_str().unwrap().to_owned();
    s.run(&["connections", "close", &name], 0);
    text(&args, consumer.wait_with_output().unwrap(), 7);
}

#[test]
fn a_stopped_server_s_directory_verifies() {
    let mut s = Server::start();
    s.run(&["queues", "declare", "q"], 0);
    s.run(&["publish", "", "q", "x", "-n", "10", "-p", "--confirm"], 0);
    let dir = s.dir.path().join("data");
    s.run(&["verify", dir.to_str().unwrap()], 6);
    s.process.kill().unwrap();
    s.process.wait().unwrap();
    let report = s.json(&["verify", dir.to_str().unwrap()]);
    assert_eq!((&report["messages"], &report["problems"]), (&10.into(), &Value::Array(Vec::new())));
    s.run(&["verify", "/nowhere/at/all"], 4);
}

#[test]
fn completion_knows_the_subcommands() {
    let output = program().args(["completion", "bash"]).output().unwrap();
    assert!(text(&["completion"], output, 0).contains("check-config"));
}
