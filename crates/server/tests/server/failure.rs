//! What clients and operators see when the store fails. The store is a double.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use waypost_model::journal::{AppendError, BodyStore, Journal, Loaded, Op, Recovered, SpillRef};
use waypost_model::{Batch, Lsn, QueueId, Seq};
use waypost_server::{Opened, ServeError, Store};
use waypost_storage::MetricsSnapshot;

use super::{Server, frame, method, queue, send, send_on};

/// A journal in memory, made durable by a thread of its own for as long as it works.
#[derive(Default)]
struct Log {
    last: AtomicU64,
    durable: AtomicU64,
    /// Nothing becomes durable any more.
    hung: AtomicBool,
    failed: AtomicBool,
    full: AtomicBool,
    closed: AtomicBool,
}

impl Journal for Log {
    fn append(&self, _: Vec<Op>) -> Result<Lsn, AppendError> {
        if self.failed.load(SeqCst) { Err(AppendError::Stopped) } else { Ok(self.reserve()) }
    }

    fn reserve(&self) -> Lsn {
        Lsn(self.last.fetch_add(1, SeqCst) + 1)
    }

    fn fill(&self, _: Lsn, _: Vec<Op>) -> Result<(), AppendError> {
        if self.failed.load(SeqCst) { Err(AppendError::Stopped) } else { Ok(()) }
    }

    fn durable(&self) -> Lsn {
        Lsn(self.durable.load(SeqCst))
    }

    fn spill(&self, _: &Batch, _: u32, _: u32) -> io::Result<SpillRef> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn release_spill(&self, _: SpillRef) {}
}

impl BodyStore for Log {
    fn load(&self, _: QueueId, _: Seq, _: u32) -> io::Result<Loaded> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn load_spilled(&self, _: SpillRef) -> io::Result<Arc<Batch>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[derive(Default)]
struct Double {
    log: Arc<Log>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl Store for Double {
    fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(&self.log) as _
    }

    fn bodies(&self) -> Arc<dyn BodyStore> {
        Arc::clone(&self.log) as _
    }

    fn start(&self, advanced: Box<dyn Fn() + Send + Sync>) -> Result<(), ServeError> {
        let log = Arc::clone(&self.log);
        let commit = move || {
            while !log.closed.load(SeqCst) {
                if !log.hung.load(SeqCst) {
                    log.durable.store(log.last.load(SeqCst), SeqCst);
                    advanced();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        *self.committer.lock().unwrap() = Some(std::thread::spawn(commit));
        Ok(())
    }

    fn failed(&self) -> bool {
        self.log.failed.load(SeqCst)
    }

    fn full(&self) -> bool {
        self.log.full.load(SeqCst)
    }

    fn metrics(&self) -> Option<MetricsSnapshot> {
        None
    }

    fn close(&self) -> Result<(), ServeError> {
        self.log.closed.store(true, SeqCst);
        self.committer.lock().unwrap().take().unwrap().join().unwrap();
        Ok(())
    }
}

fn start(more: &[(&str, &str)]) -> (Server, Arc<Log>) {
    let store = Double::default();
    let log = Arc::clone(&store.log);
    let run = |config, stop: tokio::sync::oneshot::Receiver<()>| {
        let opened = Opened { store: Arc::new(store), recovered: Recovered { clean: true, ..Recovered::default() } };
        waypost_server::run_on(config, async move { drop(stop.await) }, |_| Ok(opened))
    };
    (Server::start_as(tempfile::tempdir().unwrap(), more, run), log)
}

/// Durable queue `d`, confirms, and a persistent message to it.
const DECLARE: &[u8] = b"\0\x32\0\x0a\0\0\x01d\x02\0\0\0\0";
const CONFIRM: &[u8] = b"\0\x55\0\x0a\0";
const PUBLISH: &[u8] = b"\0\x3c\0\x28\0\0\0\x01d\0";
const HEADER: &[u8] = b"\0\x3c\0\0\0\0\0\0\0\0\0\x01\x10\0\x02";

#[test]
fn clients_are_told_of_a_failed_journal_and_nothing_is_confirmed() {
    let (server, log) = start(&[]);
    let (mut publisher, mut definer, mut idle) = (server.open(), server.open(), server.open());
    queue(&mut publisher);
    queue_of_its_own(&mut publisher);
    send_on(&mut definer, 1, 1, b"\0\x14\0\x0a\0");
    assert_eq!(method(&mut definer), (20, 11));
    // From here on the disk takes no more: one waits for a confirm, one for an answer.
    log.hung.store(true, SeqCst);
    let before = log.last.load(SeqCst);
    send_on(&mut publisher, 1, 1, PUBLISH);
    send_on(&mut publisher, 1, 2, HEADER);
    send_on(&mut publisher, 1, 3, b"x");
    send_on(&mut definer, 1, 1, b"\0\x32\0\x0a\0\0\x01e\x02\0\0\0\0");
    let deadline = Instant::now() + Duration::from_secs(10);
    while log.last.load(SeqCst) < before + 2 {
        assert!(Instant::now() < deadline, "not appended");
        std::thread::sleep(Duration::from_millis(1));
    }
    log.failed.store(true, SeqCst);
    let failed = Instant::now();
    for peer in [&mut publisher, &mut definer, &mut idle] {
        let payload = frame(peer);
        assert_eq!(payload[..6], [0, 10, 0, 50, 1, 64], "connection.close 320 and nothing before it");
        assert!(String::from_utf8_lossy(&payload).contains("storage failure"));
        send(peer, b"\0\x0a\0\x33");
    }
    let (result, _dir) = server.stop();
    assert!(failed.elapsed() < Duration::from_secs(3), "nobody had to be waited for: {:?}", failed.elapsed());
    let error = result.unwrap_err();
    assert!(matches!(error, ServeError::JournalStopped), "{error}");
    assert_eq!(error.exit_code(), 1);
}

fn queue_of_its_own(peer: &mut std::net::TcpStream) {
    send_on(peer, 1, 1, DECLARE);
    assert_eq!(method(peer), (50, 11));
    send_on(peer, 1, 1, CONFIRM);
    assert_eq!(method(peer), (85, 11));
}

#[test]
fn not_ready_while_the_store_is_full_but_alive() {
    let (server, log) = start(&[]);
    let ready = || server.http("GET /readyz", "localhost", "");
    assert_eq!(ready().0, 200);
    log.full.store(true, SeqCst);
    let (status, why) = ready();
    assert_eq!((status, &*why), (503, "the store has no room for messages\n"));
    assert_eq!(server.http("GET /livez", "localhost", "").0, 200);
    log.full.store(false, SeqCst);
    assert_eq!(ready().0, 200);
    server.stop().0.unwrap();
}

#[test]
fn not_ready_while_an_alarm_is_up_but_alive() {
    let server = Server::start_in(tempfile::tempdir().unwrap(), &[("disk-free-limit", "1000000GiB")]);
    let deadline = Instant::now() + Duration::from_secs(10);
    // The machine is looked at when the server has begun to listen.
    while server.http("GET /readyz", "localhost", "") != (503, "low on disk\n".to_owned()) {
        assert!(Instant::now() < deadline, "no alarm");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.http("GET /livez", "localhost", "").0, 200);
    server.stop().0.unwrap();
}
