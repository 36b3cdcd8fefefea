//! Clients and workers as scripts of frames.

use super::*;
use crate::pattern::testing::{A, B, Boxes, C, messages};

const NOW: Millis = Millis(1_000);

struct World {
    session: Session,
    boxes: Boxes,
    intents: Vec<Intent>,
}

impl World {
    fn new() -> World {
        World {
            session: Session::new(Pace { heartbeat_ms: 100, liveness: 3 }),
            boxes: Boxes::new(100),
            intents: Vec::new(),
        }
    }

    fn say(&mut self, peer: PeerId, text: &str) -> Vec<Intent> {
        self.say_at(peer, text, NOW)
    }

    fn say_at(&mut self, peer: PeerId, text: &str, now: Millis) -> Vec<Intent> {
        self.session.receive(peer, &messages(&[text]), now, &mut self.boxes, &mut self.intents);
        std::mem::take(&mut self.intents)
    }

    fn tick(&mut self, now: Millis) -> Vec<Intent> {
        self.session.tick(now, &mut self.boxes, &mut self.intents);
        std::mem::take(&mut self.intents)
    }
}

fn body(frames: &[&str]) -> Body {
    Body::of(frames.iter().map(|f| f.as_bytes()))
}

const TAG: Tag = Tag(0x4142_4344_4546_4748);
const TAG_TEXT: &str = "ABCDEFGH";

#[test]
fn rfc7_a_request_goes_to_a_worker_and_its_reply_back() {
    let mut w = World::new();
    assert_eq!(w.say(B, "|MDPW01|\u{1}|echo"), [Intent::Ready { worker: B, service: "echo".into() }]);
    let asked = w.say(A, "|MDPC01|echo|hello|world");
    let id = RequestId(1);
    assert_eq!(asked, [Intent::Request { id, service: "echo".into(), body: body(&["hello", "world"]) }]);
    assert!(w.session.assign(B, TAG, &body(&["hello", "world"]), NOW, &mut w.boxes));
    assert_eq!(w.boxes.take(B), [format!("|MDPW01|\\x02|{TAG_TEXT}||hello|world")]);
    assert!(!w.session.assign(B, Tag(2), &body(&[]), NOW, &mut w.boxes), "one at a time");
    let replied = w.say(B, &format!("|MDPW01|\u{3}|{TAG_TEXT}||answer"));
    assert_eq!(replied, [Intent::Reply { worker: B, tag: TAG, body: body(&["answer"]), last: true }]);
    w.session.answer(id, body(&["answer"]), true, &mut w.boxes);
    assert_eq!(w.boxes.take(A), ["|MDPC01|echo|answer"]);
}

#[test]
fn rfc18_partial_replies_and_a_final_one() {
    let mut w = World::new();
    w.say(B, "MDPW02|\u{1}|echo");
    w.say(A, "MDPC02|\u{1}|echo|hello");
    w.session.assign(B, TAG, &body(&["hello"]), NOW, &mut w.boxes);
    assert_eq!(w.boxes.take(B), [format!("MDPW02|\\x02|{TAG_TEXT}||hello")]);
    for (code, last) in [('\u{3}', false), ('\u{3}', false), ('\u{4}', true)] {
        let said = w.say(B, &format!("MDPW02|{code}|{TAG_TEXT}||part"));
        assert_eq!(said, [Intent::Reply { worker: B, tag: TAG, body: body(&["part"]), last }]);
        w.session.answer(RequestId(1), body(&["part"]), last, &mut w.boxes);
    }
    let partial = "MDPC02|\\x02|echo|part".to_owned();
    assert_eq!(w.boxes.take(A), [partial.clone(), partial, "MDPC02|\\x03|echo|part".to_owned()]);
    w.session.answer(RequestId(1), body(&["late"]), true, &mut w.boxes);
    assert_eq!((w.boxes.take(A).len(), w.session.undelivered), (0, 1));
}

#[test]
fn dialects_meet_each_other() {
    let mut w = World::new();
    w.say(B, "MDPW02|\u{1}|echo");
    w.say(A, "|MDPC01|echo|x");
    w.session.answer(RequestId(1), body(&["a"]), false, &mut w.boxes);
    assert!(w.boxes.take(A).is_empty());
    w.session.answer(RequestId(1), body(&["b"]), true, &mut w.boxes);
    assert_eq!(w.boxes.take(A), ["|MDPC01|echo|a|b"]);
    // A REQ socket speaking 0.2 gets its empty frame back.
    w.say(C, "|MDPC02|\u{1}|echo|x");
    w.session.answer(RequestId(2), body(&[]), true, &mut w.boxes);
    assert_eq!(w.boxes.take(C), ["|MDPC02|\\x03|echo"]);
}

#[test]
fn a_worker_that_dies_gives_back_what_it_had() {
    let mut w = World::new();
    w.say(B, "MDPW02|\u{1}|echo");
    w.session.assign(B, TAG, &body(&["x"]), NOW, &mut w.boxes);
    w.session.detach(B, &mut w.intents);
    assert_eq!(w.intents, [Intent::Gone { worker: B, tag: Some(TAG) }]);
    w.intents.clear();
    w.say(C, "|MDPW01|\u{1}|echo");
    w.session.assign(C, TAG, &body(&["x"]), NOW, &mut w.boxes);
    assert_eq!(w.say(C, "|MDPW01|\u{5}"), [Intent::Gone { worker: C, tag: Some(TAG) }]);
}

#[test]
fn heartbeats_go_out_and_silence_ends_a_worker() {
    let mut w = World::new();
    w.say(B, "MDPW02|\u{1}|echo");
    w.say(C, "|MDPW01|\u{1}|echo");
    assert_eq!(w.session.deadline(), Some(NOW.plus(100)));
    assert!(w.tick(NOW.plus(100)).is_empty());
    assert_eq!((w.boxes.take(B), w.boxes.take(C)), (vec!["MDPW02|\\x05".to_owned()], vec!["|MDPW01|\\x04".to_owned()]));
    assert_eq!(w.say_at(B, "MDPW02|\u{5}", NOW.plus(250)), [Intent::Alive { worker: B }]);
    assert_eq!(w.tick(NOW.plus(300)), [Intent::Gone { worker: C, tag: None }]);
    assert_eq!(w.boxes.take(C), ["|MDPW01|\\x05"]);
}

#[test]
fn rfc8_mmi_answers_from_the_registry_or_501() {
    let mut w = World::new();
    let asked = w.say(A, "|MDPC01|mmi.service|echo");
    assert_eq!(asked, [Intent::Lookup { id: RequestId(1), service: "echo".into() }]);
    w.session.answer_status(RequestId(1), 404, &mut w.boxes);
    assert!(w.say(A, "MDPC02|\u{1}|mmi.workers|echo").is_empty());
    assert_eq!(w.boxes.take(A), ["|MDPC01|mmi.service|404", "MDPC02|\\x03|mmi.workers|501"]);
    assert!(w.say(B, "MDPW02|\u{1}|mmi.service").is_empty());
    assert_eq!(w.session.violations, 1);
}

#[test]
fn what_breaks_the_protocol_ends_the_worker() {
    for bad in [
        "MDPW02|\u{1}|echo",
        "MDPW02|\u{4}|ABCDEFGH||answer to nothing",
        "MDPW02|\u{9}",
        "MDPW02",
        "|MDPW01|\u{4}",
        "MDPC02|\u{1}|echo|x",
        "\u{aa}\u{a4}",
        "",
    ] {
        let mut w = World::new();
        w.say(B, "MDPW02|\u{1}|echo");
        assert_eq!(w.say(B, bad), [Intent::Gone { worker: B, tag: None }], "{bad:?}");
        assert_eq!((w.boxes.take(B), w.session.violations), (vec!["MDPW02|\\x06".to_owned()], 1));
    }
}

#[test]
fn names_that_no_service_can_have_are_not_asked_for() {
    let mut w = World::new();
    for bad in ["", "Echo", "a_b", &"x".repeat(64)] {
        assert!(w.say(A, &format!("MDPC02|\u{1}|{bad}|x")).is_empty());
        assert!(w.say(B, &format!("MDPW02|\u{1}|{bad}")).is_empty());
    }
    assert!(w.session.requests.is_empty() && w.session.workers.is_empty());
}

#[test]
fn a_client_with_too_many_requests_is_not_read() {
    let mut w = World::new();
    for _ in 0..CLIENT_REQUESTS_MAX {
        assert!(w.session.wants(A));
        w.say(A, "MDPC02|\u{1}|echo|x");
    }
    assert!(!w.session.wants(A));
    w.session.forget(RequestId(7));
    assert!(w.session.wants(A));
    w.session.detach(A, &mut w.intents);
    assert!(w.session.requests.is_empty() && w.session.clients.is_empty());
}
