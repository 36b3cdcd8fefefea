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

/// What is read behind the head of an answer that nobody wants, so that its connection can be used again, bytes.
const REST_MAX: usize = 64 * 1024;

/// How long that is waited for.
const REST_TIMEOUT: Duration = Duration::from_millis(100);

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

    /// Posts a body. The answer of a success is taken whole if it is `wanted`; else its head says all, and what comes behind
    /// it is not waited for.
    ///
    /// # Errors
    /// When there is no connection, it breaks off, or a wanted answer is too large.
    pub(crate) async fn post(&self, headers: HeaderMap, body: Bytes, wanted: bool) -> io::Result<Answered> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.path.clone().into();
        *request.headers_mut() = headers;
        let host = HeaderValue::from_str(self.endpoint.authority.as_str()).map_err(io::Error::other)?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let (mut sender, answer) = self.send(request).await?;
        if wanted && answer.status().is_success() {
            let answered = self.take(answer).await?;
            if sender.ready().await.is_ok() {
                self.keep(sender);
            }
            return Ok(answered);
        }
        let (head, body) = answer.into_parts();
        // A connection with much behind its answer is not worth keeping.
        let rest = tokio::time::timeout(REST_TIMEOUT, Limited::new(body, REST_MAX).collect()).await;
        if matches!(rest, Ok(Ok(_))) && sender.ready().await.is_ok() {
            self.keep(sender);
        }
        Ok(Answered { status: head.status, headers: head.headers, body: Bytes::new() })
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What a client makes of an endpoint that says this and then nothing more.
    async fn posted(said: Vec<u8>, wanted: bool) -> Option<io::Result<Answered>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let endpoint = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.write_all(&said).await;
            std::future::pending::<()>().await;
        });
        let client = Client::new(Endpoint::parse(&url, &[]).unwrap(), Arc::from([]), None, 1, 1 << 20);
        let post = client.post(HeaderMap::new(), Bytes::from_static(b"x"), wanted);
        let answered = tokio::time::timeout(Duration::from_secs(2), post).await.ok();
        endpoint.abort();
        answered
    }

    fn head(status: &str, length: usize) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n").into_bytes()
    }

    #[tokio::test]
    async fn a_body_that_nobody_wants_takes_nothing_back() {
        let endless = [head("200 OK", 100 << 20), vec![b'x'; 4 << 20]].concat();
        for (said, status) in [(head("200 OK", 10), 200), (endless.clone(), 200), (head("400 Bad Request", 10), 400)] {
            let answered = posted(said, false).await.unwrap().unwrap();
            assert_eq!((answered.status.as_u16(), answered.body.len()), (status, 0));
        }
        let refused = posted(head("503 Service Unavailable", 10), true).await.unwrap().unwrap();
        assert_eq!(refused.status.as_u16(), 503);
        assert!(posted(endless, true).await.unwrap().is_err(), "too large to be a reply");
        assert!(posted(head("200 OK", 10), true).await.is_none(), "a reply is waited for");
    }
}
