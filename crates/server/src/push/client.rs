//! An HTTP client that knows one endpoint: keeps connections for a while, follows no redirects, takes bounded answers.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::target::{Allowed, Endpoint, resolve};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection without requests is kept so long: less than servers usually do.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// What a client is called.
const AGENT: &str = concat!("waypost/", env!("CARGO_PKG_VERSION"));

/// Sends requests to an endpoint.
pub(crate) struct Client {
    endpoint: Endpoint,
    allow: Arc<[Allowed]>,
    tls: Option<TlsConnector>,
    idle: Mutex<Vec<Idle>>,
    /// Connections that are kept.
    idle_max: usize,
    answer_max: usize,
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    /// A client for an endpoint. `tls` is needed for encrypted ones.
    pub(crate) fn new(
        endpoint: Endpoint,
        allow: Arc<[Allowed]>,
        tls: Option<TlsConnector>,
        idle_max: usize,
        answer_max: usize,
    ) -> Client {
        Client { endpoint, allow, tls, idle: Mutex::default(), idle_max, answer_max }
    }

    /// Posts a body, and takes the answer whole.
    ///
    /// # Errors
    /// When there is no connection, it breaks off, or the answer is too large.
    pub(crate) async fn post(&self, headers: HeaderMap, body: Bytes) -> io::Result<Answered> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.path.clone().into();
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(self.endpoint.authority.as_str()).map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let (mut sender, answer) = self.send(request).await?;
        let answered = self.take(answer).await?;
        if sender.ready().await.is_ok() {
            self.keep(sender);
        }
        Ok(answered)
    }

    /// Over a connection that is there if it still works, else over a new one.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> io::Result<(SendRequest<Full<Bytes>>, Response<Incoming>)> {
        while let Some(mut sender) = self.take_idle() {
            match sender.try_send_request(request).await {
                Ok(answer) => return Ok((sender, answer)),
                // Closed while it was idle: nothing was sent if the request comes back.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(io::Error::other(error.into_error())),
                },
            }
        }
        let mut sender = tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))??;
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        Ok((sender, answer))
    }

    async fn take(&self, answer: Response<Incoming>) -> io::Result<Answered> {
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, self.answer_max).collect().await;
        let body = body.map_err(|e| io::Error::other(format!("the answer cannot be taken: {e}")))?.to_bytes();
        Ok(Answered { status: head.status, headers: head.headers, body })
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|c| c.since.elapsed() < IDLE_TIMEOUT && c.sender.is_ready());
        idle.pop().map(|c| c.sender)
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let Endpoint { host, port, tls, .. } = &self.endpoint;
        let addresses = resolve(host, *port, &self.allow).await?;
        let socket = TcpStream::connect(&addresses[..]).await?;
        socket.set_nodelay(true)?;
        if !tls {
            return handshake(socket).await;
        }
        let connector = self.tls.as_ref().ok_or_else(|| io::Error::other("there is no TLS for this endpoint"))?;
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        handshake(connector.connect(name, socket).await?).await
    }
}

async fn handshake<S>(socket: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    // Ends when its sender is dropped or the peer closes; how it ended, the request will tell.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// TLS that trusts whom this machine trusts.
///
/// # Errors
/// When the machine's certificates cannot be read, or there are none.
pub(crate) fn system_tls() -> io::Result<TlsConnector> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(io::Error::other(format!("this machine has no certificates to trust: {:?}", found.errors)));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
