//! What the registry costs: time per operation, memory per instance. `cargo bench -p waypost-registry --bench registry`.
//!
//! The journal keeps a copy of the definitions, as the real one does, so that memory is what a server would need.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use waypost_model::batch::Batch;
use waypost_model::journal::{AppendError, Journal, Op, SpillRef};
use waypost_model::service::Instance;
use waypost_model::{Lsn, Millis, Refusal};
use waypost_registry::services::{
    CheckKind, CheckSpec, Limits, NodeSpec, Registration, Registry, Services, Settings, Source,
};

/// Keeps definitions and is durable at once.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<Box<[u8]>, Box<[u8]>>>, AtomicU64);

impl Journal for Memory {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for op in ops {
            match op {
                Op::Define { key, value: Some(value) } => drop(kept.insert(key, value)),
                Op::Define { key, value: None } => drop(kept.remove(&key)),
                other => drop(black_box(other)),
            }
        }
        Ok(Lsn(self.1.fetch_add(1, Ordering::Relaxed)))
    }

    fn reserve(&self) -> Lsn {
        Lsn(0)
    }

    fn fill(&self, _: Lsn, _: Vec<Op>) -> Result<(), AppendError> {
        Ok(())
    }

    fn durable(&self) -> Lsn {
        Lsn(u64::MAX)
    }

    fn spill(&self, _: &Batch, _: u32, _: u32) -> std::io::Result<SpillRef> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn release_spill(&self, _: SpillRef) {}
}

struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn services() -> Result<Services, String> {
    let own_node =
        NodeSpec { name: "n".into(), id: "".into(), address: "127.0.0.1".into(), meta: Arc::default(), extra: None };
    let settings = Settings { limits: Limits::default(), own_node, seed: 1 };
    let journal = Arc::new(Memory::default());
    let registry = Registry::open(settings, journal, [], Millis(1)).map_err(|e| e.to_string())?;
    Ok(registry.services("/"))
}

/// As instances are: an id with a host's name, an address, a version, two tags, two pairs of metadata.
fn instance(service: usize, i: usize) -> Registration {
    let instance = Instance {
        address: Some(format!("10.{}.{}.{}", i >> 16, i >> 8 & 255, i & 255).into()),
        port: 8080,
        version: Some(semver(service).into()),
        zone: "eu-1".into(),
        tags: ["primary".into(), "v2".into()].into(),
        meta: [("env".into(), "prod".into()), ("rack".into(), format!("r{}", i % 20).into())].into(),
        ..Instance::new(format!("service-{service}-host-{i}"))
    };
    Registration { lease_ms: Some(15_000), ..Registration::new(instance, "guest", Source::Api) }
}

fn semver(service: usize) -> waypost_model::service::Version {
    waypost_model::service::Version::new(2, service as u64 % 10, 0)
}

fn told(what: &str, n: usize, took: Duration) {
    let each = took / u32::try_from(n).unwrap_or(1);
    println!("{what:<58}{each:>12.2?}{:>14.0}/s", n as f64 / took.as_secs_f64());
}

fn timed(what: &str, n: usize, mut work: impl FnMut(usize)) {
    let began = Instant::now();
    (0..n).for_each(&mut work);
    told(what, n, began.elapsed());
}

fn memory(what: &str, make: impl Fn(&Services) -> Result<(), Refusal>) -> Result<Services, String> {
    let services = services()?;
    let before = resident();
    make(&services).map_err(|refusal| refusal.text)?;
    println!("{what:<58}{:>9} KiB", (resident() - before) / 1024);
    Ok(services)
}

fn fill(services: &Services, check: Option<&CheckSpec>) -> Result<(), Refusal> {
    for i in 0..100_000 {
        let registration = Registration { checks: check.cloned().into_iter().collect(), ..instance(i / 100, i) };
        services.register(&format!("service-{}", i / 100), registration, Millis(2))?;
    }
    Ok(())
}

fn main() -> Result<(), String> {
    let began = Instant::now();
    let s = memory("100,000 instances with leases, journal's copy included", |s| fill(s, None))?;
    told("register a new instance", 100_000, began.elapsed());
    let plain = instance(7, 700);
    timed("register what is there already", 200_000, |_| {
        let _ = black_box(s.register("service-7", plain.clone(), Millis(3)));
    });
    timed("heartbeat", 1_000_000, |i| {
        black_box(s.heartbeat("service-7", "service-7-host-700", Millis(3 + i as u64 / 1000)));
    });
    timed("look a service up", 1_000_000, |_| drop(black_box(s.view("service-7"))));
    timed("look a service of 100 up after a change", 20_000, |i| {
        let mut other = plain.clone();
        other.instance.port = 1 + (i % 2) as u16;
        let _ = black_box(s.register("service-7", other, Millis(4)));
        drop(black_box(s.view("service-7")));
    });
    timed("choose one of 100", 100_000, |_| drop(black_box(s.choose("service-7", None))));
    let bell = Arc::new(Bell(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&bell));
    let mut waits: Vec<_> = (0..5000).map(|_| s.changed("service-7", u64::MAX - 1)).collect();
    for wait in &mut waits {
        let _ = Pin::new(wait).poll(&mut Context::from_waker(&waker));
    }
    let began = Instant::now();
    let _ = s.deregister("service-7", "service-7-host-700", Millis(5));
    println!("{:<58}{:>12.2?} for {}", "tell 5,000 who wait", began.elapsed(), bell.0.load(Ordering::Relaxed));
    drop(waits);
    drop(s);
    let check = CheckSpec::new("service:check", CheckKind::Ttl { ttl_ms: 30_000 });
    memory("100,000 instances with leases and a TTL check", |s| fill(s, Some(&check)))?;
    Ok(())
}
