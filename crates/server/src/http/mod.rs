//! HTTP: health, metrics and the management API, on hyper without a framework.

mod api;
mod auth;
mod body;
mod config;
pub(crate) mod consul;
mod consul_kv;
mod cx;
pub(crate) mod envelope;
mod express;
mod health;
mod held;
mod idle;
mod json;
mod metrics;
mod openapi;
mod pages;
mod rendered;
mod request;
mod sse;
mod stall;
mod tokens;
mod verbs;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::Config;
use crate::listen::Listener;
use crate::listen::tls::Tls;
use crate::node::Node;
use crate::runtime;
use body::{Answer, Body, Sent};
use express::Express;
use idle::{Activity, Seldom};
use request::{Failure, Peer};
use stall::Stalling;

/// What all HTTP listeners of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Bearer tokens.
    tokens: tokens::Tokens,
    /// Answers to be fetched later.
    answers: api::services::Answers,
}

impl Shared {
    /// Ready for listeners.
    ///
    /// # Errors
    /// When the data directory cannot be read.
    pub(crate) fn open(config: &Config) -> io::Result<Shared> {
        Ok(Shared {
            tokens: tokens::Tokens::open(&config.server.data_dir)?,
            answers: api::services::Answers::default(),
        })
    }

    /// What seems to be a user's salt where there is no such user.
    ///
    /// # Errors
    /// When the node's key cannot be made.
    pub(crate) fn decoy_salt(&self, user: &str) -> io::Result<[u8; crate::scram::SALT_BYTES]> {
        self.tokens.decoy_salt(user)
    }
}

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be without a request, and a client take to send the head of one; it may be twice as long
/// before that is noticed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// A client that takes nothing of an answer for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What may be answered without a look at the body.
const BEFORE_THE_BODY: [StatusCode; 5] = [
    StatusCode::BAD_REQUEST,
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
];

/// Why a connection ends that its client would go on with.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// The node stops.
    Stop,
    /// Nothing happens on it.
    Idle,
}

/// What the connections of a listener have in common.
pub struct HttpListener {
    node: Arc<Node>,
    tls: Option<Arc<Tls>>,
    address: SocketAddr,
    /// The vhost of what carries none.
    vhost: Arc<str>,
    /// Host names under which it may be addressed, beside addresses.
    hosts: Vec<String>,
    places: Arc<Semaphore>,
    /// Requests to show something that are carried out at once; more wait.
    looks: Semaphore,
    /// The same for changes, which do not wait for long listings.
    changes: Semaphore,
    stop: watch::Receiver<bool>,
}

impl HttpListener {
    /// Ready to take connections.
    #[must_use]
    pub fn new(node: &Arc<Node>, listener: &Listener, stop: watch::Receiver<bool>) -> HttpListener {
        let http = &node.config.http;
        let advertised = listener.spec.advertise.iter().map(|a| request::host_of(a).to_owned());
        HttpListener {
            node: Arc::clone(node),
            tls: listener.tls.clone(),
            address: listener.address,
            vhost: listener.spec.vhost.as_deref().unwrap_or("/").into(),
            hosts: http.allowed_hosts.iter().cloned().chain(advertised).collect(),
            places: Arc::new(Semaphore::new(http.connections_max)),
            looks: Semaphore::new(runtime::MANAGERS),
            changes: Semaphore::new(runtime::MANAGERS),
            stop,
        }
    }

    /// Starts the task of a connection, unless there are too many.
    pub fn take(self: &Arc<Self>, socket: TcpStream, remote: SocketAddr) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::debug!(%remote, "closed: there are as many connections as http.connections_max allows");
            return;
        };
        let listener = Arc::clone(self);
        tokio::spawn(async move { listener.connection(socket, remote, place).await });
    }

    async fn connection(self: Arc<Self>, socket: TcpStream, remote: SocketAddr, _place: OwnedSemaphorePermit) {
        if socket.set_nodelay(true).is_err() {
            return;
        }
        match &self.tls {
            None => Arc::clone(&self).serve(socket, remote).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(socket)).await {
                    Arc::clone(&self).serve(stream, remote).await;
                }
            }
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Arc<Self>, socket: S, remote: SocketAddr) {
        let peer = Peer { loopback: remote.ip().to_canonical().is_loopback() };
        let activity = Arc::new(Activity::default());
        let socket = Stalling::new(socket, STALL_TIMEOUT, Arc::clone(&activity));
        let mut socket = Express::new(socket, Arc::clone(&self), peer, Arc::clone(&activity));
        let mut ending = Seldom::new(Arc::clone(&self).ends(Arc::clone(&activity)));
        let is_unknown = tokio::select! {
            biased;
            result = socket.run() => result,
            ending = &mut ending => match ending {
                Ending::Stop => Ok(false),
                Ending::Idle => return,
            },
        };
        let result = match is_unknown {
            Ok(true) => Box::pin(self.with_hyper(socket, peer, &activity, ending)).await.map_err(io::Error::other),
            Ok(false) => socket.shutdown().await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!(%remote, %error, "http connection ended");
        }
    }

    /// Completes when the node stops, or the connection has been idle for too long.
    async fn ends(self: Arc<Self>, activity: Arc<Activity>) -> Ending {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stopped(&mut stop) => Ending::Stop,
            () = activity.rests(IDLE_TIMEOUT) => Ending::Idle,
        }
    }

    /// Serves a connection on which anything may come.
    async fn with_hyper<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: Arc<Self>,
        socket: Express<S>,
        peer: Peer,
        activity: &Arc<Activity>,
        mut ending: Seldom<impl Future<Output = Ending>>,
    ) -> hyper::Result<()> {
        let service = service_fn(|request| {
            let (listener, under_way, until) = (Arc::clone(&self), activity.begin(), activity.to_answer());
            async move {
                let answer = listener.answer(request, peer).await;
                drop(under_way);
                Ok::<_, Infallible>(answer.map(|body| Sent::new(body, until)))
            }
        });
        // How long a head may take is for `Activity` to see: a timer for each would cost more than many a request.
        let mut http = hyper::server::conn::http1::Builder::new();
        let connection = http.header_read_timeout(None).serve_connection(TokioIo::new(socket), service);
        tokio::pin!(connection);
        tokio::select! {
            biased;
            result = connection.as_mut() => return result,
            ending = &mut ending => match ending {
                Ending::Stop => connection.as_mut().graceful_shutdown(),
                Ending::Idle => return Ok(()),
            },
        }
        tokio::select! {
            result = connection => result,
            () = activity.rests(IDLE_TIMEOUT) => Ok(()),
        }
    }

    /// Runs what may take long (there may be very many queues to tell of) where no connection waits for it.
    async fn aside<R: Send + 'static>(
        &self,
        method: &Method,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Failure> {
        // Nobody closes the semaphore, and `work` ends early only by a panic.
        let failed = || Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be carried out");
        let turns = if method.is_safe() { &self.looks } else { &self.changes };
        let _turn = turns.acquire().await.map_err(|_| failed())?;
        tokio::task::spawn_blocking(work).await.map_err(|_| failed())
    }

    /// The same for what shows something and borrows what it looks at: this thread's connections go to another one.
    async fn in_turn<R>(&self, work: impl FnOnce() -> R) -> Result<R, Failure> {
        let failed = |_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be carried out");
        let _turn = self.looks.acquire().await.map_err(failed)?;
        Ok(tokio::task::block_in_place(work))
    }

    /// Answers a request that is among the frequent ones, if it is as they usually are.
    fn express(self: &Arc<Self>, head: &express::Head<'_>, body: &[u8], peer: Peer) -> Option<express::Verdict> {
        if !request::is_known(request::host_of(head.host), self.address, &self.hosts)
            || !request::text_in_query(head.query)
        {
            return None;
        }
        pages::express(self, head, body, peer)
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Answer {
        let head = request.method() == Method::HEAD;
        let has_body = !request.body().is_end_stream();
        let result = match request.uri().path() {
            "/livez" => health::livez(),
            "/readyz" => health::readyz(&self.node),
            _ if request::has_hosts(&request) => Err(Failure::bad("more than one Host")),
            _ if !request::host_is_ours(&request, self.address, &self.hosts) => {
                Err(Failure::new(StatusCode::FORBIDDEN, "this host or origin is not allowed; see http.allowed_hosts"))
            }
            _ if !request::query_is_text(request.uri()) => Err(Failure::bad("bad escape in the query")),
            "/metrics" => {
                let node = Arc::clone(&self.node);
                Box::pin(self.aside(&Method::GET, move || metrics::page(&node))).await
            }
            _ => pages::answer(self, request, peer).await,
        };
        let mut answer = result.unwrap_or_else(Failure::into_answer);
        // Who was refused before the body was read may find the connection closed behind the answer: said, it is no surprise.
        if has_body && BEFORE_THE_BODY.contains(&answer.status()) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if head {
            *answer.body_mut() = Body::default();
        }
        held::with_room(answer)
    }
}

/// Completes when the node stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A page of text.
fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Body::Whole(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
