//! One way: as many messages as go through.

use super::peer::Peer;
use super::{FlowArgs, Measured, Outcome};
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::usage::Watch;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use waypost_zmtp::SocketType;
use waypost_zmtp::wire::frame;

/// How long subscriptions may take to reach the publishers.
const SETTLE: Duration = Duration::from_millis(300);

/// Which sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// PUSH and PULL.
    Push,
    /// PUB and SUB.
    Publish,
}

impl Way {
    const fn kinds(self) -> (SocketType, SocketType) {
        match self {
            Self::Push => (SocketType::Push, SocketType::Pull),
            Self::Publish => (SocketType::Pub, SocketType::Sub),
        }
    }
}

/// Runs producers and consumers for the time asked for.
pub fn run(args: &FlowArgs, way: Way, watch: &Watch) -> Result<Measured, Fault> {
    let target = &args.target;
    let (sends, receives) = way.kinds();
    let mut consumers = Vec::new();
    for _ in 0..args.consumers {
        let mut peer = Peer::open(&target.back, receives)?;
        if way == Way::Publish {
            peer.subscribe_all()?;
        }
        consumers.push(peer);
    }
    let producers: Vec<Peer> =
        (0..args.producers).map(|_| Peer::open(&target.front, sends)).collect::<Result<_, _>>()?;
    thread::sleep(SETTLE);
    let closers: Vec<_> = consumers.iter().chain(&producers).map(Peer::closer).collect::<Result<_, _>>()?;
    let wire = wire(&target.body(), args.write as usize);
    let (received, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let receiving: Vec<_> =
            consumers.into_iter().map(|peer| scope.spawn(|| consume(peer, &received, &stop))).collect();
        for peer in producers {
            scope.spawn(|| produce(peer, &wire, &stop));
        }
        thread::sleep(target.warmup());
        let measured = watch.during(|| sample(args, &received));
        stop.store(true, Ordering::Relaxed);
        closers.iter().for_each(super::peer::Closer::close);
        for thread in receiving {
            thread.join().map_err(|_| Fault::Panicked)??;
        }
        measured
    })
}

fn sample(args: &FlowArgs, received: &AtomicU64) -> Result<Measured, Fault> {
    let watch = Watch::start(args.target.process()?)?;
    let (from, start) = (received.load(Ordering::Relaxed), Instant::now());
    thread::sleep(args.target.time());
    let messages = received.load(Ordering::Relaxed) - from;
    let seconds = start.elapsed().as_secs_f64();
    watch.sample();
    Ok(Measured { outcome: Outcome { messages, seconds, latency: None }, used: watch.finish()? })
}

/// As many whole messages as fit `bytes`, at least one.
fn wire(body: &[u8], bytes: usize) -> Vec<u8> {
    let mut wire = Vec::with_capacity(bytes);
    loop {
        frame::put_frame(&mut wire, 0, body);
        if wire.len() + body.len() + frame::HEADER_BYTES_MAX > bytes {
            return wire;
        }
    }
}

/// Writes until the socket is closed.
fn produce(mut peer: Peer, wire: &[u8], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) && peer.write(wire).is_ok() {}
}

/// Counts until the socket is closed.
fn consume(mut peer: Peer, received: &AtomicU64, stop: &AtomicBool) -> Result<(), Fault> {
    loop {
        match peer.receive() {
            Ok(true) => {
                let n = peer.count();
                received.fetch_add(n, Ordering::Relaxed);
            }
            Ok(false) | Err(_) if stop.load(Ordering::Relaxed) => return Ok(()),
            Ok(false) => return Err(Fault::Dropped("messages were flowing")),
            Err(fault) => return Err(fault),
        }
    }
}
