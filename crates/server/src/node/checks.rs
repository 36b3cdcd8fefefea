//! Runs the health checks that the registry asks for: over HTTP and TCP, so many at once, each bounded in time.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use waypost_model::service::Health;
use waypost_registry::services::{CheckKind, CheckRun, HttpProbe, Registry};

use crate::clock::Clock;
use crate::push::{Allowed, Endpoint, permitted, resolve, system_tls};

/// Checks that run at the same time; others wait for their turn.
const AT_ONCE: usize = 256;

/// How much of an answer is kept.
const ANSWER_MAX: usize = 4096;

const AGENT: &str = concat!("waypost/", env!("CARGO_PKG_VERSION"), " (health check)");

/// What a check came to.
struct Outcome {
    health: Health,
    output: String,
    /// Nothing was heard, which may be our own fault.
    silent: bool,
}

impl Outcome {
    fn of(health: Health, output: String) -> Outcome {
        Outcome { health, output, silent: false }
    }
}

/// What checks share.
struct Shared {
    registry: Arc<Registry>,
    clock: Clock,
    allow: Arc<[Allowed]>,
    /// Made when the first check needs it.
    tls: OnceLock<Option<TlsConnector>>,
}

/// Takes checks to run. Each check is handed in once until its result is there, so that the queue has a bound.
pub(super) struct Runner {
    queue: mpsc::UnboundedSender<CheckRun>,
}

impl Runner {
    /// A runner, and what is to be awaited beside everything else: it ends with `stop`.
    pub(super) fn new(
        registry: Arc<Registry>,
        clock: Clock,
        allow: Arc<[Allowed]>,
        stop: watch::Receiver<bool>,
    ) -> (Runner, impl Future<Output = ()> + Send) {
        let (queue, runs) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { registry, clock, allow, tls: OnceLock::new() });
        (Runner { queue }, work(shared, runs, stop))
    }

    /// Runs a check soon.
    pub(super) fn run(&self, run: CheckRun) {
        // Who does not listen any more stops.
        let _ = self.queue.send(run);
    }
}

async fn work(shared: Arc<Shared>, mut runs: mpsc::UnboundedReceiver<CheckRun>, mut stop: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await.ok()?;
            Some((runs.recv().await?, permit))
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            next = next => {
                let Some((run, permit)) = next else { return };
                let shared = Arc::clone(&shared);
                running.spawn(async move {
                    shared.check(run).await;
                    drop(permit);
                });
            }
            Some(_) = running.join_next() => {}
        }
    }
}

impl Shared {
    async fn check(&self, run: CheckRun) {
        let outcome = match &run.spec.kind {
            CheckKind::Http(probe) => in_time(probe.timeout_ms, self.http(probe)).await,
            CheckKind::Tcp { address, timeout_ms, .. } => in_time(*timeout_ms, self.tcp(address)).await,
            CheckKind::Ttl { .. } | CheckKind::Manual => return,
        };
        let Outcome { health, output, silent } = outcome;
        self.registry.checked(run.ticket, health, &output, silent, self.clock.now());
    }

    async fn tcp(&self, address: &str) -> io::Result<Outcome> {
        let (host, port) = split(address)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("`{address}` is no HOST:PORT")))?;
        let addresses = resolve(host, port, &self.allow).await?;
        let socket = TcpStream::connect(&addresses[..]).await?;
        let to = socket.peer_addr()?;
        Ok(Outcome::of(Health::Passing, format!("TCP connect {to}: success")))
    }

    async fn http(&self, probe: &HttpProbe) -> io::Result<Outcome> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let endpoint = Endpoint::parse(&probe.url, &self.allow).map_err(invalid)?;
        let request = request(probe, &endpoint).map_err(invalid)?;
        let addresses = resolve(&endpoint.host, endpoint.port, &self.allow).await?;
        let socket = TcpStream::connect(&addresses[..]).await?;
        if !endpoint.tls {
            return ask(socket, request, probe).await;
        }
        let tls = self.tls.get_or_init(|| system_tls().ok()).as_ref();
        let tls = tls.ok_or_else(|| io::Error::other("this machine has no certificates to trust"))?;
        let name = ServerName::try_from(endpoint.host).map_err(io::Error::other)?;
        ask(tls.connect(name, socket).await?, request, probe).await
    }
}

/// Bounds a check in time, and says what a failure means.
async fn in_time(timeout_ms: u64, check: impl Future<Output = io::Result<Outcome>>) -> Outcome {
    match tokio::time::timeout(Duration::from_millis(timeout_ms), check).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable, TimedOut};
            let silent = matches!(error.kind(), HostUnreachable | NetworkDown | NetworkUnreachable | TimedOut);
            Outcome { health: Health::Critical, output: error.to_string(), silent }
        }
        Err(_) => {
            let output = format!("no answer within {timeout_ms} ms");
            Outcome { health: Health::Critical, output, silent: true }
        }
    }
}

/// Why what a check asks for will never be connected to, as far as that can be told without looking names up.
///
/// # Errors
/// The target is an address that nobody may connect to.
pub(crate) fn may_reach(kind: &CheckKind, allow: &[Allowed]) -> Result<(), String> {
    let host = match kind {
        CheckKind::Http(probe) => probe.url.parse::<hyper::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)),
        CheckKind::Tcp { address, .. } => split(address).map(|(host, _)| host.to_owned()),
        CheckKind::Ttl { .. } | CheckKind::Manual => None,
    };
    let Some(host) = host else { return Ok(()) };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse().map_or(Ok(()), |address| permitted(host, address, allow))
}

/// `host:port`, an IPv6 address in brackets.
fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'))?;
    (!host.is_empty()).then_some((host, port.parse().ok().filter(|port| *port > 0)?))
}

fn request(probe: &HttpProbe, endpoint: &Endpoint) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(probe.body.as_bytes())));
    *request.method_mut() =
        Method::from_bytes(probe.method.as_bytes()).map_err(|_| format!("`{}` is no method", probe.method))?;
    *request.uri_mut() = endpoint.path.clone().into();
    let host = HeaderValue::from_str(endpoint.authority.as_str()).map_err(|e| e.to_string())?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let mut given: Vec<HeaderName> = Vec::new();
    for (name, value) in &probe.headers {
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is no header"))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("header `{name}` has an invalid value"))?;
        // The first of a name replaces ours; further ones add to it.
        if given.contains(&header) {
            request.headers_mut().append(header, value);
        } else {
            request.headers_mut().insert(header.clone(), value);
            given.push(header);
        }
    }
    Ok(request)
}

/// Asks once, on a connection of its own: that it can be made is part of what is checked.
async fn ask<S>(socket: S, request: Request<Full<Bytes>>, probe: &HttpProbe) -> io::Result<Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        // What is longer is cut, not refused.
        let mut body = Limited::new(answer.into_body(), ANSWER_MAX);
        let mut text = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
        let (method, url) = (&probe.method, &probe.url);
        let output = format!("HTTP {method} {url}: {status} Output: {}", String::from_utf8_lossy(&text));
        Ok(Outcome::of(verdict(status), output))
    };
    // The connection is driven only as long as somebody waits for its answer, and is closed with that.
    tokio::pin!(connection, exchange);
    let ended = tokio::select! {
        biased;
        outcome = &mut exchange => return outcome,
        ended = &mut connection => ended,
    };
    // A peer that closes at once has given its answer before.
    exchange.await.map_err(|error| ended.err().map_or(error, io::Error::other))
}

fn verdict(status: StatusCode) -> Health {
    match status {
        status if status.is_success() => Health::Passing,
        StatusCode::TOO_MANY_REQUESTS => Health::Warning,
        _ => Health::Critical,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn shared(allow: &[&str]) -> Shared {
        struct Nowhere;
        impl waypost_model::journal::Journal for Nowhere {
            fn append(
                &self,
                _: Vec<waypost_model::journal::Op>,
            ) -> Result<waypost_model::Lsn, waypost_model::journal::AppendError> {
                Ok(waypost_model::Lsn(1))
            }
            fn reserve(&self) -> waypost_model::Lsn {
                waypost_model::Lsn(1)
            }
            fn fill(
                &self,
                _: waypost_model::Lsn,
                _: Vec<waypost_model::journal::Op>,
            ) -> Result<(), waypost_model::journal::AppendError> {
                Ok(())
            }
            fn durable(&self) -> waypost_model::Lsn {
                waypost_model::Lsn(1)
            }
            fn spill(&self, _: &waypost_model::Batch, _: u32, _: u32) -> io::Result<waypost_model::journal::SpillRef> {
                Err(io::Error::other("no"))
            }
            fn release_spill(&self, _: waypost_model::journal::SpillRef) {}
        }
        let own_node = waypost_registry::services::NodeSpec {
            name: "n".into(),
            id: "".into(),
            address: "127.0.0.1".into(),
            meta: Arc::default(),
            extra: None,
        };
        let settings = waypost_registry::services::Settings { limits: Default::default(), own_node, seed: 1 };
        let registry = Registry::open(settings, Arc::new(Nowhere), [], waypost_model::Millis(1)).unwrap();
        let allow = allow.iter().map(|a| a.parse().unwrap()).collect();
        Shared { registry, clock: Clock::start(), allow, tls: OnceLock::new() }
    }

    fn probe(url: String) -> HttpProbe {
        let headers = [("x-a".into(), "1".into()), ("host".into(), "shop".into())].into();
        HttpProbe {
            url: url.into(),
            method: "GET".into(),
            headers,
            body: "".into(),
            interval_ms: 1000,
            timeout_ms: 300,
        }
    }

    /// A server of one connection that answers what it is told, or nothing; gives what it was asked.
    async fn server(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health?x=1", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            let n = socket.read(&mut asked).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            if answer.is_empty() {
                let _ = socket.read(&mut [0; 1]).await;
            }
            String::from_utf8_lossy(&asked[..n]).into_owned()
        });
        (url, task)
    }

    async fn outcome(answer: &'static str) -> (Outcome, String) {
        let (url, task) = server(answer).await;
        let outcome = in_time(300, shared(&[]).http(&probe(url))).await;
        (outcome, task.await.unwrap())
    }

    #[tokio::test]
    async fn answers_become_health() {
        let (good, asked) = outcome("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!((good.health, good.silent), (Health::Passing, false));
        assert!(asked.starts_with("GET /health?x=1 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-a: 1\r\n") && asked.contains("host: shop\r\n"), "{asked}");
        let (busy, _) = outcome("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nbusy").await;
        assert_eq!(busy.health, Health::Warning);
        assert!(busy.output.ends_with("429 Too Many Requests Output: busy"), "{}", busy.output);
        let (bad, _) = outcome("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!((bad.health, bad.silent), (Health::Critical, false));
        let (odd, _) = outcome("220 smtp ready\r\n").await;
        assert_eq!((odd.health, odd.silent), (Health::Critical, false));
    }

    #[tokio::test]
    async fn who_does_not_answer_is_silent_and_not_waited_for() {
        let (url, task) = server("").await;
        let began = std::time::Instant::now();
        let hangs = in_time(100, shared(&[]).http(&probe(url))).await;
        assert_eq!((hangs.health, hangs.silent), (Health::Critical, true));
        assert!(began.elapsed() < Duration::from_secs(2));
        task.await.unwrap();
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while socket.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        let endless = in_time(5_000, shared(&[]).http(&probe(url))).await;
        assert_eq!(endless.health, Health::Passing);
        assert!(endless.output.len() < 2 * ANSWER_MAX + 200, "{}", endless.output.len());
        task.await.unwrap();
    }

    #[tokio::test]
    async fn connections_are_made_where_they_may() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let good = in_time(1000, shared(&[]).tcp(&address)).await;
        assert_eq!(good.health, Health::Passing, "{}", good.output);
        let elsewhere = in_time(1000, shared(&["10.0.0.0/8"]).tcp(&address)).await;
        assert_eq!((elsewhere.health, elsewhere.silent), (Health::Critical, false));
        assert!(elsewhere.output.contains("targets.allow"), "{}", elsewhere.output);
        drop(listener);
        let refused = in_time(1000, shared(&[]).tcp(&address)).await;
        assert_eq!((refused.health, refused.silent), (Health::Critical, false), "a refusal is an answer");
        for never in ["169.254.169.254:80", "[fe80::1]:80", "nonsense", "host:0", ":80", "[::1:80"] {
            assert_eq!(in_time(1000, shared(&[]).tcp(never)).await.health, Health::Critical, "{never}");
        }
    }

    #[test]
    fn what_is_never_reached_is_known_before() {
        let tcp = |address: &str| CheckKind::Tcp { address: address.into(), interval_ms: 1000, timeout_ms: 1000 };
        for never in ["169.254.169.254:80", "[fe80::1]:80", "0.0.0.0:80"] {
            assert!(may_reach(&tcp(never), &[]).is_err(), "{never}");
            let url = CheckKind::Http(Box::new(probe(format!("http://{never}/latest"))));
            assert!(may_reach(&url, &[]).is_err(), "{never}");
        }
        for perhaps in ["127.0.0.1:80", "[::1]:80", "host:80", "nonsense"] {
            assert!(may_reach(&tcp(perhaps), &[]).is_ok(), "{perhaps}");
        }
        assert!(may_reach(&tcp("127.0.0.1:80"), &["10.0.0.0/8".parse().unwrap()]).is_err());
    }

    #[test]
    fn addresses_are_split() {
        assert_eq!(split("a:80"), Some(("a", 80)));
        assert_eq!(split("[::1]:80"), Some(("::1", 80)));
        for bad in ["a", "a:", ":80", "a:0", "a:70000", "[::1:80"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
