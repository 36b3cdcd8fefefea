//! There and back: how long a request and its answer take.

use super::peer::Peer;
use super::{Measured, Outcome, RouterArgs};
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::times::Times;
use crate::bench::amqp::usage::Watch;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use waypost_zmtp::wire::frame;
use waypost_zmtp::{Event, SocketType};

/// How long workers may take to be known to the device.
const SETTLE: Duration = Duration::from_millis(200);

/// Runs clients and workers for the time asked for.
pub fn run(args: &RouterArgs, watch: &Watch) -> Result<Measured, Fault> {
    let target = &args.target;
    let workers: Vec<Peer> =
        (0..args.workers).map(|_| Peer::open(&target.back, SocketType::Rep)).collect::<Result<_, _>>()?;
    thread::sleep(SETTLE);
    let clients: Vec<Peer> =
        (0..args.clients).map(|_| Peer::open(&target.front, SocketType::Dealer)).collect::<Result<_, _>>()?;
    let closers: Vec<_> = workers.iter().chain(&clients).map(Peer::closer).collect::<Result<_, _>>()?;
    let mut request = Vec::new();
    let body = target.body();
    frame::put_message(&mut request, [&b""[..], &body]);
    let (stop, measuring, trips) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let answering: Vec<_> = workers.into_iter().map(|peer| scope.spawn(|| answer(peer, &stop))).collect();
        let asking: Vec<_> =
            clients.into_iter().map(|peer| scope.spawn(|| ask(peer, &request, &stop, &measuring, &trips))).collect();
        thread::sleep(target.warmup());
        let measured = watch.during(|| sample(args, &measuring, &trips));
        stop.store(true, Ordering::Relaxed);
        closers.iter().for_each(super::peer::Closer::close);
        let mut times = Times::default();
        for thread in asking {
            times.merge(thread.join().map_err(|_| Fault::Panicked)??);
        }
        for thread in answering {
            thread.join().map_err(|_| Fault::Panicked)??;
        }
        let mut measured = measured?;
        measured.outcome.latency = times.percentiles();
        Ok(measured)
    })
}

fn sample(args: &RouterArgs, measuring: &AtomicBool, trips: &AtomicU64) -> Result<Measured, Fault> {
    let watch = Watch::start(args.target.process()?)?;
    let start = Instant::now();
    measuring.store(true, Ordering::Relaxed);
    thread::sleep(args.target.time());
    measuring.store(false, Ordering::Relaxed);
    let (messages, seconds) = (trips.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
    watch.sample();
    Ok(Measured { outcome: Outcome { messages, seconds, latency: None }, used: watch.finish()? })
}

/// One request after the other.
fn ask(
    mut peer: Peer,
    request: &[u8],
    stop: &AtomicBool,
    measuring: &AtomicBool,
    trips: &AtomicU64,
) -> Result<Times, Fault> {
    let mut times = Times::default();
    while !stop.load(Ordering::Relaxed) {
        let (start, counted) = (Instant::now(), measuring.load(Ordering::Relaxed));
        if peer.write(request).is_err() {
            break;
        }
        let mut answers = 0;
        while answers == 0 {
            match peer.receive() {
                Ok(true) => answers = peer.count(),
                Ok(false) | Err(_) if stop.load(Ordering::Relaxed) => return Ok(times),
                Ok(false) => return Err(Fault::Dropped("an answer was awaited")),
                Err(fault) => return Err(fault),
            }
        }
        if counted {
            times.record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            trips.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(times)
}

/// Sends back what comes, envelope and all: what a REP does.
fn answer(mut peer: Peer, stop: &AtomicBool) -> Result<(), Fault> {
    let mut back = Vec::new();
    loop {
        match peer.receive() {
            Ok(true) => {}
            Ok(false) | Err(_) if stop.load(Ordering::Relaxed) => return Ok(()),
            Ok(false) => return Err(Fault::Dropped("requests were awaited")),
            Err(fault) => return Err(fault),
        }
        back.clear();
        for event in peer.take() {
            if let Event::Messages(chunk) = event {
                back.extend_from_slice(chunk.bytes());
            }
        }
        if !back.is_empty() && peer.write(&back).is_err() {
            return Ok(());
        }
    }
}
