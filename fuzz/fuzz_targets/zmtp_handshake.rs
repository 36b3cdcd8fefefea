#![no_main]
//! Greeting and mechanisms: any octets, in any cuts, against each mechanism in each role. Nothing may panic, and nothing may
//! be delivered before the handshake is done.

use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use waypost_model::Millis;
use waypost_zmtp::security::{
    CurveClient, CurveServer, ENTROPY_BYTES, Entropy, PlainLogin, PlainUsers, SecretKey, Security,
};
use waypost_zmtp::wire::greeting::greeting;
use waypost_zmtp::{Engine, EngineConfig, Event, Limits, Outgoing, Pool, SocketType};

#[derive(Arbitrary, Debug)]
struct Input {
    security: u8,
    socket_type: u8,
    /// Whether a proper greeting comes first.
    greets: bool,
    parts: Vec<Vec<u8>>,
}

fn security(n: u8) -> Security {
    let key = |n| SecretKey::from_bytes([n; 32]);
    match n % 5 {
        0 => Security::Null,
        1 => Security::PlainServer(Arc::new(PlainUsers::new([("a".to_owned(), "b".to_owned())]))),
        2 => PlainLogin::new("a", "b").map_or(Security::Null, |login| Security::PlainClient(Arc::new(login))),
        3 => Security::CurveServer(Arc::new(CurveServer { secret: key(1), clients: None })),
        _ => Security::CurveClient(Arc::new(CurveClient { secret: key(2), server: key(1).public() })),
    }
}

fuzz_target!(|input: Input| {
    let security = security(input.security);
    let mechanism = security.mechanism();
    let socket_type = SocketType::ALL[usize::from(input.socket_type) % SocketType::ALL.len()];
    let config = EngineConfig { security, message_bytes_max: 4096, ..EngineConfig::new(socket_type) };
    let mut engine = Engine::new(Arc::new(config), Entropy([7; ENTROPY_BYTES]), Millis(0));
    let (mut out, mut pool, mut events) = (Outgoing::new(Limits::default()), Pool::default(), Vec::new());
    let first = if input.greets { greeting(mechanism, false).to_vec() } else { Vec::new() };
    for part in std::iter::once(first).chain(input.parts) {
        engine.input(&mut pool, part.len()).extend_from_slice(&part);
        let done = engine.receive(&mut pool, Millis(1), &mut events);
        let opened = events.iter().position(|event| matches!(event, Event::Opened(_)));
        assert!(events.is_empty() || opened == Some(0), "something came before the handshake was done");
        let _ = engine.transmit(&mut out);
        if done.is_err() {
            assert!(!engine.is_open());
            return;
        }
    }
});
