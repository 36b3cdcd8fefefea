//! Every type by its rules.

use super::*;
use crate::pattern::testing::{A, B, Boxes, C, messages, texts};

fn info(identity: &str) -> PeerInfo {
    let identity = identity.as_bytes().into();
    PeerInfo { socket_type: SocketType::Dealer, identity, user: None, minor: 1 }
}

fn socket(kind: SocketType, peers: &[PeerId], boxes: &mut Boxes) -> Socket {
    let mut s = Socket::new(kind);
    peers.iter().for_each(|&peer| assert_eq!(s.attach(peer, &info(""), boxes), Ok(None)));
    s
}

fn came(s: &mut Socket, peer: PeerId, text: &str) {
    s.receive(peer, Event::Messages(messages(&[text]))).unwrap();
}

fn next(s: &mut Socket) -> Option<String> {
    s.recv().map(|m| texts(&m)[0].join("|"))
}

#[test]
fn rfc28_req_asks_in_turn_and_hears_only_whom_it_asked() {
    let mut boxes = Boxes::new(9);
    let mut req = socket(SocketType::Req, &[A, B], &mut boxes);
    req.send(messages(&["one"]), &mut boxes).unwrap();
    assert_eq!(boxes.take(A), ["|one"]);
    assert_eq!(req.send(messages(&["two"]), &mut boxes), Err(SendError::Turn));
    came(&mut req, B, "|not you");
    came(&mut req, A, "no delimiter");
    came(&mut req, A, "|answer");
    assert_eq!((next(&mut req), req.dropped), (Some("answer".to_owned()), 2));
    req.send(messages(&["two"]), &mut boxes).unwrap();
    assert_eq!(boxes.take(B), ["|two"]);
    req.detach(B, Gone::ForGood);
    req.send(messages(&["three"]), &mut boxes).unwrap();
    assert_eq!(boxes.take(A), ["|three"]);
}

#[test]
fn rfc28_req_and_dealer_and_push_block_without_room() {
    for kind in [SocketType::Req, SocketType::Dealer, SocketType::Push, SocketType::Pair] {
        let mut boxes = Boxes::new(0);
        assert_eq!(Socket::new(kind).send(messages(&["x"]), &mut boxes), Err(SendError::Blocked), "{kind:?}");
        let mut full = socket(kind, &[A], &mut boxes);
        assert_eq!(full.send(messages(&["x"]), &mut boxes), Err(SendError::Blocked), "{kind:?}");
        boxes.limit = 1;
        assert_eq!(full.send(messages(&["x"]), &mut boxes), Ok(()), "{kind:?}");
    }
}

#[test]
fn rfc28_rep_keeps_the_envelope_and_answers_once() {
    let mut boxes = Boxes::new(1);
    let mut rep = socket(SocketType::Rep, &[A, B], &mut boxes);
    came(&mut rep, A, "hop1|hop2||ask");
    came(&mut rep, B, "|other");
    assert_eq!(next(&mut rep).as_deref(), Some("ask"));
    assert_eq!(next(&mut rep), None, "first the answer");
    rep.send(messages(&["re"]), &mut boxes).unwrap();
    assert_eq!(boxes.take(A), ["hop1|hop2||re"]);
    assert_eq!(rep.send(messages(&["again"]), &mut boxes), Err(SendError::Turn));
    assert_eq!(next(&mut rep).as_deref(), Some("other"));
    boxes.limit = 0;
    rep.send(messages(&["dropped, not blocked"]), &mut boxes).unwrap();
    assert_eq!(rep.dropped, 1);
}

#[test]
fn rfc28_dealer_takes_turns_both_ways() {
    let mut boxes = Boxes::new(9);
    let mut dealer = socket(SocketType::Dealer, &[A, B], &mut boxes);
    for text in ["1", "2", "3"] {
        dealer.send(messages(&[text]), &mut boxes).unwrap();
    }
    assert_eq!((boxes.take(A), boxes.take(B)), (vec!["1".to_owned(), "3".to_owned()], vec!["2".to_owned()]));
    for (peer, text) in [(A, "a1"), (A, "a2"), (B, "b1"), (A, "a3")] {
        came(&mut dealer, peer, text);
    }
    let order: Vec<_> = std::iter::from_fn(|| next(&mut dealer)).collect();
    assert_eq!(order, ["a1", "b1", "a2", "a3"]);
    assert!(dealer.wants(A));
}

#[test]
fn rfc28_router_names_peers_and_drops_what_it_cannot_route() {
    let mut boxes = Boxes::new(1);
    let mut router = Socket::new(SocketType::Router);
    router.attach(A, &info("ann"), &mut boxes).unwrap();
    assert_eq!(router.attach(B, &info("ann"), &mut boxes), Err(Fault::IdentityTaken));
    came(&mut router, A, "|hi");
    assert_eq!(next(&mut router).as_deref(), Some("ann||hi"));
    for text in ["ann|1", "ann|full", "bob|nobody"] {
        router.send(messages(&[text]), &mut boxes).unwrap();
    }
    assert_eq!((boxes.take(A), router.dropped), (vec!["1".to_owned()], 2));
}

#[test]
fn rfc29_pub_and_xpub_send_by_subscription_and_only_xpub_tells() {
    for kind in [SocketType::Pub, SocketType::Xpub] {
        let mut boxes = Boxes::new(1);
        let mut s = socket(kind, &[A, B], &mut boxes);
        came(&mut s, A, "\u{1}x");
        came(&mut s, B, "\u{1}x");
        came(&mut s, A, "hello");
        for text in ["x1", "y2", "x3"] {
            s.send(messages(&[text]), &mut boxes).unwrap();
        }
        assert_eq!((boxes.take(A), boxes.take(B)), (vec!["x1".to_owned()], vec!["x1".to_owned()]));
        s.detach(A, Gone::ForGood);
        s.detach(B, Gone::ForGood);
        let heard: Vec<_> = std::iter::from_fn(|| next(&mut s)).collect();
        if kind == SocketType::Xpub {
            // What a peer said that is gone goes with it, but for the end of its subscriptions.
            assert_eq!(heard, ["\\x00x"]);
        } else {
            assert_eq!((heard.len(), s.dropped), (0, 3));
        }
    }
}

#[test]
fn rfc29_xpub_hears_subscriptions_and_messages() {
    let mut boxes = Boxes::new(1);
    let mut s = socket(SocketType::Xpub, &[A], &mut boxes);
    for text in ["\u{1}x", "\u{1}x", "hello", "\0x", "\0x"] {
        came(&mut s, A, text);
    }
    let heard: Vec<_> = std::iter::from_fn(|| next(&mut s)).collect();
    assert_eq!(heard, ["\\x01x", "hello", "\\x00x"]);
}

#[test]
fn rfc29_sub_and_xsub_count_replay_and_only_xsub_sends() {
    let mut boxes = Boxes::new(9);
    let mut s = socket(SocketType::Xsub, &[A], &mut boxes);
    s.subscribe(b"x", &mut boxes).unwrap();
    s.subscribe(b"x", &mut boxes).unwrap();
    s.attach(B, &info(""), &mut boxes).unwrap();
    s.cancel(b"x", &mut boxes);
    assert_eq!(boxes.wishes(), ["1+x", "2+x"]);
    s.cancel(b"x", &mut boxes);
    assert_eq!(boxes.wishes(), ["1-x", "2-x"]);
    s.send(messages(&["up"]), &mut boxes).unwrap();
    assert_eq!((boxes.take(A), boxes.take(B)), (vec!["up".to_owned()], vec!["up".to_owned()]));
    came(&mut s, A, "x1");
    assert_eq!(next(&mut s).as_deref(), Some("x1"));
    let mut sub = socket(SocketType::Sub, &[C], &mut boxes);
    assert_eq!(sub.send(messages(&["x"]), &mut boxes), Err(SendError::Unsupported));
}

#[test]
fn rfc31_pair_has_one_peer() {
    let mut boxes = Boxes::new(9);
    let mut pair = socket(SocketType::Pair, &[A], &mut boxes);
    assert_eq!(pair.attach(B, &info(""), &mut boxes), Err(Fault::PairTaken));
    pair.send(messages(&["to a"]), &mut boxes).unwrap();
    assert_eq!(boxes.take(A), ["to a"]);
    pair.detach(A, Gone::ForGood);
    assert_eq!(pair.attach(B, &info(""), &mut boxes), Ok(None));
}

#[test]
fn rfc30_pull_only_receives_and_forgets_who_left() {
    let mut boxes = Boxes::new(9);
    let mut pull = socket(SocketType::Pull, &[A, B], &mut boxes);
    assert_eq!(pull.send(messages(&["x"]), &mut boxes), Err(SendError::Unsupported));
    came(&mut pull, A, "a");
    came(&mut pull, B, "b");
    assert!(!pull.wants(A));
    pull.detach(A, Gone::ForGood);
    assert_eq!((next(&mut pull).as_deref(), next(&mut pull)), (Some("b"), None));
}
