#![no_main]
//! Traffic after the handshake, in any cuts: the same octets in one piece and in many give the same messages, and what is
//! delivered is whole.

use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use waypost_model::Millis;
use waypost_zmtp::security::{ENTROPY_BYTES, Entropy};
use waypost_zmtp::wire::{command, greeting::greeting, metadata};
use waypost_zmtp::{Engine, EngineConfig, Event, Fault, Pool, SocketType};

const MESSAGE_BYTES_MAX: u64 = 2000;

#[derive(Arbitrary, Debug)]
struct Input {
    wire: Vec<u8>,
    cuts: Vec<u8>,
}

fn opened() -> (Engine, Pool) {
    let config = EngineConfig { message_bytes_max: MESSAGE_BYTES_MAX, ..EngineConfig::new(SocketType::Xpub) };
    let (mut engine, mut pool) = (Engine::new(Arc::new(config), Entropy([0; ENTROPY_BYTES]), Millis(0)), Pool::default());
    let mut hello = greeting("NULL", false).to_vec();
    command::put(&mut hello, "READY", &metadata::encode(SocketType::Xsub, b""));
    engine.input(&mut pool, hello.len()).extend_from_slice(&hello);
    let mut events = Vec::new();
    engine.receive(&mut pool, Millis(0), &mut events).expect("a proper handshake");
    (engine, pool)
}

/// All that came, in order, in one string; and how it ended.
fn run<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<Fault>) {
    let (mut engine, mut pool) = opened();
    let (mut events, mut seen, mut fault) = (Vec::new(), Vec::new(), None);
    for part in parts {
        engine.input(&mut pool, part.len()).extend_from_slice(part);
        fault = engine.receive(&mut pool, Millis(0), &mut events).err();
        for event in events.drain(..) {
            match event {
                Event::Messages(chunk) => {
                    assert_eq!(chunk.each().count(), chunk.messages() as usize);
                    assert_eq!(chunk.each().map(<[u8]>::len).sum::<usize>(), chunk.len());
                    assert!(chunk.each().all(|message| message.len() as u64 <= MESSAGE_BYTES_MAX));
                    seen.extend_from_slice(chunk.bytes());
                }
                Event::Subscribe(prefix) => seen.extend_from_slice(&[&b"+"[..], &prefix].concat()),
                Event::Cancel(prefix) => seen.extend_from_slice(&[&b"-"[..], &prefix].concat()),
                Event::Opened(_) => panic!("opened twice"),
            }
        }
        if fault.is_some() {
            break;
        }
    }
    (seen, fault)
}

fuzz_target!(|input: Input| {
    let whole = run([&input.wire[..]]);
    let mut rest = &input.wire[..];
    let mut parts = Vec::new();
    for cut in input.cuts {
        let (part, after) = rest.split_at(usize::from(cut).min(rest.len()));
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    let cut = run(parts);
    // A fault found earlier hides nothing that came before it.
    if whole.1.is_none() {
        assert_eq!(whole, cut);
    } else {
        assert!(cut.1.is_some());
    }
});
