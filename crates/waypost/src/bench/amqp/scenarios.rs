//! Every mode against the fake broker: what is sound is reported so, and each fault is found.

use super::fake::{Fake, Faults};
use super::fault::Fault;
use super::{AmqpArgs, Report, measure};
use clap::Parser;
use serde_json::Value;
use std::time::{Duration, Instant};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: AmqpArgs,
}

fn bench(fake: &Fake, line: &str) -> Result<Report, Fault> {
    let uri = fake.uri();
    let words = ["bench"].into_iter().chain(line.split_whitespace()).chain(["--uri", &uri]);
    let report = measure(&Line::try_parse_from(words).unwrap().args.mode).map(|(report, _)| report);
    assert_eq!(fake.queues(), [""; 0], "queues must be removed");
    report
}

fn figures(faults: Faults, line: &str) -> (Value, bool) {
    let report = bench(&Fake::start(faults), line).unwrap();
    (report.json, report.flaw.is_none())
}

/// The figures of a run that must be sound.
fn sound(line: &str) -> Value {
    let (json, sound) = figures(Faults::default(), line);
    assert!(sound, "{line}: {json:#}");
    assert_eq!(json["broker"]["product"], "Fake");
    json
}

#[test]
fn throughput_counts_every_message() {
    for line in [
        "throughput --messages 20000",
        "throughput --messages 20001 -x 3 -y 2 -q 2 --threads 2",
        "throughput --messages 5000 -x 1 -y 3 -q 4 --batch 7",
        "throughput --messages 5000 --size 3",
        "throughput --messages 300 --size 20000 --properties typical",
        "throughput --messages 1000 --size 0",
        "throughput --messages 5000 --confirm 100 --persistent --durable --mandatory",
        "throughput --messages 5000 --ack each --prefetch 100",
        "throughput --messages 5005 --ack 100 --prefetch 200",
        "throughput --messages 2000 --connections 10 --batch 1 --in-flight 1",
        "throughput --messages 200 --rate 2000 --batch 1",
    ] {
        let json = sound(line);
        assert_eq!(json["published"], json["delivered"], "{line}");
        let wanted: u64 = line.split_whitespace().nth(2).unwrap().parse().unwrap();
        assert_eq!(json["delivered"], wanted, "{line}");
    }
}

#[test]
fn a_timed_run_ends_by_itself() {
    let json = sound("throughput --time 0.2");
    assert!(json["delivered"].as_u64().unwrap() > 0);
    assert!(json["latency_us"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn acknowledgements_are_all_sent() {
    let fake = Fake::start(Faults::default());
    bench(&fake, "throughput --messages 1005 --ack 10").unwrap();
    assert_eq!(fake.acked(), 101);
}

#[test]
fn fanout_and_topic_reach_the_right_queues() {
    let json = sound("fanout --messages 2000 -q 5 -y 2");
    assert_eq!(json["delivered"], 10_000);
    let json = sound("topic --messages 3000 --bindings 20 --keys 70 -q 3 -x 2");
    assert_eq!(json["delivered"], 3000);
}

#[test]
fn single_messages_are_timed() {
    let json = sound("latency --messages 200 --warmup 10 --ack each");
    assert_eq!((&json["messages"], &json["latency_us"]["samples"]), (&210.into(), &200.into()));
    let json = sound("confirm --messages 200 --warmup 10");
    assert_eq!(json["confirm_us"]["samples"], 200);
}

#[test]
fn a_backlog_fills_and_drains() {
    let json = sound("backlog --messages 5000 --settle 0");
    assert_eq!((&json["messages"], &json["lost"]), (&5000.into(), &0.into()));
    let json = sound("backlog --messages 5000 -q 4 -x 2 --one-by-one --settle 0");
    assert!(json["out_rate"].as_f64().unwrap() > 0.0);
}

#[test]
fn connections_and_queues_come_and_go() {
    let json = sound("connections -n 20 --channels 3 --hold 0");
    assert_eq!((&json["connections"], &json["dropped"]), (&20.into(), &0.into()));
    for window in [1, 16] {
        let json = sound(&format!("declare -n 100 --settle 0 --window {window}"));
        assert!(json["delete_rate"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn the_memory_of_a_process_is_reported() {
    if cfg!(target_os = "linux") {
        let json = sound(&format!("throughput --messages 1000 --broker-pid {}", std::process::id()));
        assert!(json["broker_use"]["peak"]["rss_kib"].as_u64().unwrap() > 0);
        assert_eq!(json["broker_use"]["per"], "delivered message");
    }
}

#[test]
fn faults_of_the_broker_are_found() {
    let short = "throughput --messages 1000 --stall 0.3";
    let cases = [
        (Faults { lose: Some(100), ..Faults::default() }, "lost", 10),
        (Faults { duplicate: Some(100), ..Faults::default() }, "duplicated", 10),
        (Faults { overtake: Some(300), ..Faults::default() }, "out_of_order", 3),
    ];
    for (faults, figure, count) in cases {
        let (json, sound) = figures(faults, short);
        assert!(!sound, "{figure}");
        assert_eq!(json[figure], count, "{faults:?}: {json:#}");
    }
    let (json, _) =
        figures(Faults { lose: Some(100), ..Faults::default() }, "throughput --messages 1000 --stall 0.3 --size 4");
    assert_eq!(json["lost"], 10);
}

#[test]
fn a_refused_message_is_not_a_lost_one() {
    let faults = Faults { refuse: Some(10), ..Faults::default() };
    let (json, sound) = figures(faults, "throughput --messages 1000 --confirm 50");
    assert!(sound, "{json:#}");
    assert_eq!((&json["nacked"], &json["confirmed"]), (&100.into(), &900.into()));
}

#[test]
fn a_close_by_the_broker_ends_the_run() {
    let faults = Faults { close: Some(500), ..Faults::default() };
    let fake = Fake::start(faults);
    let fault = bench(&fake, "throughput --messages 1000").unwrap_err();
    let patience = Instant::now() + Duration::from_secs(5);
    while fake.closes_answered() == 0 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fake.closes_answered(), 1);
    assert!(matches!(fault, Fault::Closed { scope: "channel", code: 406, .. }), "{fault}");
    let faults = Faults { hang_up: Some(500), ..Faults::default() };
    let fault = bench(&Fake::start(faults), "throughput --messages 100000").unwrap_err();
    assert!(matches!(fault, Fault::Dropped(_) | Fault::Io { .. }), "{fault}");
}

#[test]
fn a_soak_finds_what_is_left_behind() {
    let soak = format!("soak --time 0.5 -q 2 -y 2 --broker-pid {}", std::process::id());
    if cfg!(target_os = "linux") {
        let (json, sound) = figures(Faults::default(), &format!("{soak} --visitors 0"));
        assert!(sound && json["left"] == 0 && json["flat"] == true, "{json:#}");
        let lossy = Faults { lose: Some(100), ..Faults::default() };
        let (json, sound) = figures(lossy, &format!("{soak} --visitors 0 --stall 0.5 --rate 2000"));
        assert!(!sound && json["lost"].as_u64() > Some(0), "{json:#}");
    }
}

#[test]
fn contradictory_options_are_a_usage_error() {
    let fake = Fake::start(Faults::default());
    for line in [
        "throughput --ack 100 --prefetch 10",
        "throughput --in-flight 1 --size 8",
        "throughput --in-flight 1 --threads 2",
        "backlog --rate 10",
        "soak",
        "soak --messages 10",
    ] {
        assert!(matches!(bench(&fake, line), Err(Fault::Usage(_))), "{line}");
    }
}

#[test]
fn nobody_there_is_unavailable() {
    let line = Line::try_parse_from(["bench", "throughput", "--uri", "amqp://127.0.0.1:1"]).unwrap();
    assert!(matches!(measure(&line.args.mode), Err(Fault::Unavailable { .. })));
}
