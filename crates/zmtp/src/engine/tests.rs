//! Two engines talking to each other, and one engine with hand-made octets, cut everywhere.

use super::*;
use crate::security::{
    CurveClient, CurveServer, ENTROPY_BYTES, PlainLogin, PlainUsers, PublicKey, SecretKey, Security,
};

const NOW: Millis = Millis(1_000_000);

fn entropy(seed: u8) -> Entropy {
    let mut bytes = [0; ENTROPY_BYTES];
    bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (i as u8).wrapping_mul(31).wrapping_add(seed));
    Entropy(bytes)
}

/// An engine with its queue and what it made known.
struct Side {
    engine: Engine,
    out: Outgoing,
    pool: Pool,
    events: Vec<Event>,
}

impl Side {
    fn new(socket_type: SocketType, security: Security, seed: u8) -> Side {
        Self::of(EngineConfig { security, ..EngineConfig::new(socket_type) }, seed)
    }

    fn of(config: EngineConfig, seed: u8) -> Side {
        Side {
            engine: Engine::new(Arc::new(config), entropy(seed), NOW),
            out: Outgoing::new(Limits::default()),
            pool: Pool::default(),
            events: Vec::new(),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        self.engine.transmit(&mut self.out).unwrap();
        let mut all = Vec::new();
        loop {
            let mut slices = [std::io::IoSlice::new(&[]); 4];
            let n = self.out.slices(&mut slices);
            if n == 0 {
                return all;
            }
            let taken: usize = slices[..n].iter().map(|s| s.len()).sum();
            slices[..n].iter().for_each(|s| all.extend_from_slice(s));
            self.out.advance(taken);
            self.engine.transmit(&mut self.out).unwrap();
        }
    }

    fn feed(&mut self, bytes: &[u8], step: usize) -> Result<(), Fault> {
        for part in bytes.chunks(step) {
            self.engine.input(&mut self.pool, part.len()).extend_from_slice(part);
            self.engine.receive(&mut self.pool, NOW, &mut self.events)?;
        }
        Ok(())
    }

    /// Messages that came, as one string of octets.
    fn messages(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for event in &self.events {
            if let Event::Messages(chunk) = event {
                assert_eq!(chunk.each().count(), chunk.messages() as usize);
                all.extend_from_slice(chunk.bytes());
            }
        }
        all
    }
}

fn exchange(a: &mut Side, b: &mut Side, step: usize) -> Result<(), Fault> {
    loop {
        let (from_a, from_b) = (a.take(), b.take());
        if from_a.is_empty() && from_b.is_empty() {
            return Ok(());
        }
        b.feed(&from_a, step)?;
        a.feed(&from_b, step)?;
    }
}

fn plain(password: &str) -> (Security, Security) {
    let users = PlainUsers::new([("ann".to_owned(), "secret".to_owned())]);
    (Security::PlainServer(Arc::new(users)), Security::PlainClient(Arc::new(PlainLogin::new("ann", password).unwrap())))
}

fn curve(known: Option<Vec<PublicKey>>) -> (Security, Security) {
    let (server, client) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
    let public = server.public();
    (
        Security::CurveServer(Arc::new(CurveServer { secret: server, clients: known })),
        Security::CurveClient(Arc::new(CurveClient { secret: client, server: public })),
    )
}

fn all_mechanisms() -> [(Security, Security); 3] {
    [(Security::Null, Security::Null), plain("secret"), curve(Some(vec![SecretKey::from_bytes([2; 32]).public()]))]
}

fn sample() -> Chunk {
    let mut wire = Vec::new();
    frame::put_message(&mut wire, [&b"one"[..]]);
    frame::put_message(&mut wire, [&b"two"[..], b"", &[7; 300]]);
    frame::put_message(&mut wire, [&[8; 70_000][..]]);
    frame::put_message(&mut wire, [&b""[..]]);
    Chunk::parse(wire).unwrap()
}

#[test]
fn every_mechanism_opens_and_carries_messages_both_ways_at_every_cut() {
    for (server, client) in all_mechanisms() {
        let name = server.mechanism();
        for step in [1, 2, 7, 64, 1000, usize::MAX] {
            let mut a = Side::new(SocketType::Router, server.clone(), 1);
            let mut b = Side::of(
                EngineConfig {
                    security: client.clone(),
                    identity: b"me".to_vec(),
                    ..EngineConfig::new(SocketType::Dealer)
                },
                2,
            );
            a.out.push(sample());
            exchange(&mut a, &mut b, step).unwrap();
            b.out.push(sample());
            exchange(&mut a, &mut b, step).unwrap();
            let Event::Opened(info) = &a.events[0] else { panic!("{name}: {:?}", a.events) };
            assert_eq!((info.socket_type, &*info.identity), (SocketType::Dealer, &b"me"[..]));
            assert_eq!(a.messages(), sample().bytes(), "{name} {step}");
            assert_eq!(b.messages(), sample().bytes(), "{name} {step}");
        }
    }
}

#[test]
fn users_and_keys_are_known_afterwards() {
    for ((server, client), wanted) in
        [(plain("secret"), "ann".to_owned()), (curve(None), SecretKey::from_bytes([2; 32]).public().to_string())]
    {
        let (mut a, mut b) = (Side::new(SocketType::Pull, server, 1), Side::new(SocketType::Push, client, 2));
        exchange(&mut a, &mut b, usize::MAX).unwrap();
        assert!(matches!(&a.events[0], Event::Opened(info) if info.user.as_ref() == Some(&wanted)));
    }
}

#[test]
fn who_may_not_come_in_is_told_and_sees_nothing() {
    for (server, client) in [plain("wrong"), curve(Some(vec![]))] {
        let (mut a, mut b) = (Side::new(SocketType::Push, server, 1), Side::new(SocketType::Pull, client, 2));
        a.out.push(sample());
        let fault = exchange(&mut a, &mut b, usize::MAX).unwrap_err();
        assert!(matches!(fault, Fault::Denied(_)), "{fault}");
        let last = a.take();
        assert_eq!(b.feed(&last, 1), Err(Fault::Reported("400".to_owned())));
        assert!(b.messages().is_empty() && a.out.messages() == 4);
    }
}

#[test]
fn a_client_does_not_talk_to_a_server_with_another_key() {
    let (server, _) = curve(None);
    let wrong = CurveClient { secret: SecretKey::from_bytes([2; 32]), server: SecretKey::from_bytes([9; 32]).public() };
    let mut a = Side::new(SocketType::Push, server, 1);
    let mut b = Side::new(SocketType::Pull, Security::CurveClient(Arc::new(wrong)), 2);
    assert!(matches!(exchange(&mut a, &mut b, usize::MAX), Err(Fault::Crypto(_))));
}

#[test]
fn every_flipped_bit_of_a_curve_handshake_or_message_ends_the_connection() {
    let (server, client) = curve(None);
    // Octets of the client's side, flight by flight, to be damaged one at a time.
    let fresh = || (Side::new(SocketType::Pull, server.clone(), 1), Side::new(SocketType::Push, client.clone(), 2));
    let run = |flight: usize, at: Option<usize>| -> (usize, Result<(), Fault>, Vec<u8>) {
        let (mut a, mut b) = fresh();
        b.out.push(Chunk::message([&b"hello"[..]]));
        let mut len = 0;
        for round in 0..6 {
            let mut wire = b.take();
            if round == flight {
                len = wire.len();
                if let Some(at) = at {
                    wire[at] ^= 1;
                }
            }
            if let Err(fault) = a.feed(&wire, usize::MAX) {
                return (len, Err(fault), Vec::new());
            }
            let back = a.take();
            if let Err(fault) = b.feed(&back, usize::MAX) {
                return (len, Err(fault), Vec::new());
            }
        }
        (len, Ok(()), a.messages())
    };
    for flight in [1, 2, 3] {
        let (len, done, messages) = run(flight, None);
        assert!(done.is_ok() && messages == b"\0\x05hello" && len > 0, "{flight}");
        for at in 0..len {
            let (_, done, messages) = run(flight, Some(at));
            // The low bits of a flags octet and the minor version of HELLO, with its padding, are not protected.
            let harmless = messages == b"\0\x05hello";
            let open = flight == 1 && (3..2 + 6 + 2 + 72).contains(&at);
            assert!(done.is_err() || messages.is_empty() || (harmless && (open || at == 0)), "{flight} {at}");
        }
    }
}

#[test]
fn a_message_that_is_played_again_ends_the_connection() {
    let (server, client) = curve(None);
    let (mut a, mut b) = (Side::new(SocketType::Pull, server, 1), Side::new(SocketType::Push, client, 2));
    exchange(&mut a, &mut b, usize::MAX).unwrap();
    b.out.push(Chunk::message([&b"pay"[..]]));
    let wire = b.take();
    a.feed(&wire, usize::MAX).unwrap();
    assert_eq!(a.feed(&wire, usize::MAX), Err(Fault::Crypto("nonce does not rise")));
    assert_eq!(a.messages(), b"\0\x03pay");
}

#[test]
fn mechanisms_must_match_exactly() {
    let (server, _) = plain("secret");
    let (mut a, mut b) = (Side::new(SocketType::Pull, server, 1), Side::new(SocketType::Push, Security::Null, 2));
    let wire = b.take();
    assert!(matches!(a.feed(&wire, 1), Err(Fault::Mechanism { ours: "PLAIN", .. })));
}

#[test]
fn incompatible_sockets_part_with_an_error() {
    for &ours in SocketType::ALL {
        for &theirs in SocketType::ALL {
            let (mut a, mut b) = (Side::new(ours, Security::Null, 1), Side::new(theirs, Security::Null, 2));
            let done = exchange(&mut a, &mut b, usize::MAX);
            assert_eq!(done.is_ok(), ours.accepts(theirs), "{ours:?} {theirs:?}");
        }
    }
}

fn opened(ours: SocketType, theirs: SocketType) -> (Side, Side) {
    let (mut a, mut b) = (Side::new(ours, Security::Null, 1), Side::new(theirs, Security::Null, 2));
    exchange(&mut a, &mut b, usize::MAX).unwrap();
    a.events.clear();
    (a, b)
}

#[test]
fn a_frame_of_any_size_costs_nothing_before_it_comes() {
    for (size, fits) in [(i64::MAX as u64, false), (1 << 40, false), (64 << 20, false), (1 << 20, true)] {
        let (mut a, _) = opened(SocketType::Pull, SocketType::Push);
        let mut wire = vec![frame::LONG];
        wire.extend_from_slice(&size.to_be_bytes());
        let done = a.feed(&wire, usize::MAX);
        assert_eq!(done.is_ok(), fits, "{size}");
        assert!(a.engine.scanner.buffer().capacity() < 4096);
    }
}

#[test]
fn a_message_of_endless_frames_meets_the_limit() {
    for len in [0, 1, 200, 300] {
        let mut side = Side::of(EngineConfig { message_bytes_max: 10_000, ..EngineConfig::new(SocketType::Pull) }, 1);
        let mut push = Side::new(SocketType::Push, Security::Null, 2);
        exchange(&mut side, &mut push, usize::MAX).unwrap();
        let mut one = Vec::new();
        frame::put_frame(&mut one, MORE, &vec![0; len]);
        let fed = (0..20_000).find_map(|_| side.feed(&one, usize::MAX).err());
        assert!(matches!(fed, Some(Fault::TooLarge { .. })), "{len}");
        assert!(side.messages().is_empty());
    }
}

#[test]
fn a_message_of_short_frames_that_comes_at_once_meets_the_limit_too() {
    for frames in [49usize, 50] {
        let mut side = Side::of(EngineConfig { message_bytes_max: 5_000, ..EngineConfig::new(SocketType::Pull) }, 1);
        let mut push = Side::new(SocketType::Push, Security::Null, 2);
        exchange(&mut side, &mut push, usize::MAX).unwrap();
        let mut wire = Vec::new();
        (0..=frames).for_each(|i| frame::put_frame(&mut wire, if i < frames { MORE } else { 0 }, &[0; 97]));
        assert_eq!(side.feed(&wire, usize::MAX).is_ok(), wire.len() <= 5_000, "{}", wire.len());
    }
}

#[test]
fn an_incomplete_message_is_not_delivered() {
    let (mut a, _) = opened(SocketType::Pull, SocketType::Push);
    let whole = sample();
    for cut in 1..400 {
        a.events.clear();
        a.feed(&whole.bytes()[..cut], usize::MAX).unwrap();
        let seen = a.messages();
        assert!(seen.len() <= cut && (seen.is_empty() || seen == whole.bytes()[..seen.len()]), "{cut}");
        let mut rest = Vec::new();
        rest.extend_from_slice(&whole.bytes()[cut..]);
        a.feed(&rest, 1000).unwrap();
        assert_eq!(a.messages(), whole.bytes(), "{cut}");
    }
}

#[test]
fn a_ping_is_answered_with_its_context_also_inside_a_message() {
    let (mut a, _) = opened(SocketType::Pull, SocketType::Push);
    let mut ping = Vec::new();
    command::put(&mut ping, "PING", b"\0\x0acontext-of-16-oct-and-more");
    let mut wire = b"\x01\x01a".to_vec();
    wire.extend_from_slice(&ping);
    wire.extend_from_slice(b"\x00\x01b\x00\x01c");
    for step in [1, 3, usize::MAX] {
        a.events.clear();
        a.feed(&wire, step).unwrap();
        assert_eq!(a.messages(), b"\x01\x01a\x00\x01b\x00\x01c", "{step}");
        assert_eq!(a.take(), b"\x04\x15\x04PONGcontext-of-16-oc", "{step}");
    }
    // The peer said that it may be silent for a second.
    assert_eq!(a.engine.deadline(), Some(NOW.plus(1000)));
    assert!(a.engine.on_deadline(NOW.plus(999)).is_ok());
    assert_eq!(a.engine.on_deadline(NOW.plus(1000)), Err(Fault::Silent(1000)));
}

#[test]
fn commands_inside_a_message_are_bounded() {
    let (mut a, _) = opened(SocketType::Pull, SocketType::Push);
    a.feed(b"\x01\x01a", 1).unwrap();
    let done = (0..100).try_for_each(|_| a.feed(b"\x04\x05\x04NOOP", 100));
    assert!(matches!(done, Err(Fault::Malformed(_))));
}

#[test]
fn our_heartbeats_find_a_dead_peer() {
    let beat = Heartbeat { interval_ms: 100, ttl_ds: 5, timeout_ms: 250 };
    let mut a = Side::of(EngineConfig { heartbeat: Some(beat), ..EngineConfig::new(SocketType::Pull) }, 1);
    let mut b = Side::new(SocketType::Push, Security::Null, 2);
    assert_eq!(a.engine.deadline(), Some(NOW.plus(30_000)));
    exchange(&mut a, &mut b, usize::MAX).unwrap();
    assert_eq!(a.engine.deadline(), Some(NOW.plus(100)));
    a.engine.on_deadline(NOW.plus(100)).unwrap();
    let ping = a.take();
    assert_eq!(ping, b"\x04\x07\x04PING\0\x05");
    b.feed(&ping, 1).unwrap();
    let pong = b.take();
    assert_eq!(pong, b"\x04\x05\x04PONG");
    // What comes is heard at NOW, so the ping is answered.
    a.feed(&pong, 1).unwrap();
    a.engine.on_deadline(NOW.plus(200)).unwrap();
    a.engine.on_deadline(NOW.plus(300)).unwrap();
    assert!(matches!(a.engine.on_deadline(NOW.plus(450)), Err(Fault::Silent(_))));
}

#[test]
fn a_stalled_handshake_ends() {
    let mut a = Side::new(SocketType::Pull, Security::Null, 1);
    a.feed(&[0xff, 0], 1).unwrap();
    assert_eq!(a.engine.on_deadline(NOW.plus(30_000)), Err(Fault::HandshakeTimeout(30_000)));
}

#[test]
fn subscriptions_take_the_form_of_the_peers_version() {
    for minor in [0, 1] {
        let mut sub = Side::new(SocketType::Xsub, Security::Null, 1);
        let mut publisher = Side::new(SocketType::Xpub, Security::Null, 2);
        let mut greeting = publisher.take();
        greeting[11] = minor;
        sub.feed(&greeting, usize::MAX).unwrap();
        let mut hello = sub.take();
        hello[11] = minor;
        publisher.feed(&hello, usize::MAX).unwrap();
        let ready = publisher.take();
        sub.feed(&ready, usize::MAX).unwrap();
        sub.engine.subscription(b"ab", Wish::Subscribe).unwrap();
        sub.engine.subscription(b"ab", Wish::Cancel).unwrap();
        let wire = sub.take();
        publisher.events.clear();
        publisher.feed(&wire, usize::MAX).unwrap();
        if minor == 0 {
            assert_eq!(publisher.messages(), b"\0\x03\x01ab\0\x03\x00ab");
        } else {
            assert!(
                matches!(&publisher.events[..], [Event::Subscribe(a), Event::Cancel(b)] if **a == *b"ab" && **b == *b"ab")
            );
        }
    }
}

#[test]
fn a_message_in_the_handshake_is_a_fault() {
    let mut a = Side::new(SocketType::Pull, Security::Null, 1);
    let mut wire = greeting::greeting("NULL", false).to_vec();
    wire.extend_from_slice(b"\0\x01x");
    assert_eq!(a.feed(&wire, usize::MAX), Err(Fault::Handshake("message")));
}
