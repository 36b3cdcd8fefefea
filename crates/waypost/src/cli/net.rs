//! TCP and TLS, blocking.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::exit::Failure;

/// Where the certificates of authorities lie on common systems, looked at in this order.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/openssl@3/cert.pem",
];

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the bytes are encrypted, and whose certificates are believed then.
#[derive(Clone, Debug)]
pub enum Security {
    /// In the clear.
    Plain,
    /// TLS; authorities from that file, or the system's.
    Tls(Option<PathBuf>),
}

/// A connection to a server.
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Connects to the first address of `host` that answers.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] if there is none; [`Failure::Failed`] if TLS cannot be set up.
    pub fn connect(host: &str, port: u16, security: &Security) -> Result<Self, Failure> {
        let tcp = dial(host, port).map_err(|error| {
            Failure::Unavailable(anyhow::Error::new(error).context(format!("cannot connect to {host}:{port}")))
        })?;
        // A request is one write; waiting for more would only delay it.
        let _ = tcp.set_nodelay(true);
        let Security::Tls(authorities) = security else { return Ok(Self::Plain(tcp)) };
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| anyhow!("{host:?} is no name for a certificate"))?;
        let config = tls_config(authorities.as_deref())?;
        let session = ClientConnection::new(Arc::new(config), name).context("cannot set up TLS")?;
        let mut stream = StreamOwned::new(session, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| {
                Failure::Unavailable(anyhow::Error::new(error).context(format!("TLS with {host}:{port}")))
            })?;
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    /// How long a read waits; `None` is for ever.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        // Zero would be an error, where "do not wait" is meant.
        let timeout = timeout.map(|t| t.max(Duration::from_millis(1)));
        match self {
            Self::Plain(tcp) => tcp.set_read_timeout(timeout),
            Self::Tls(tls) => tls.sock.set_read_timeout(timeout),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(buf),
            Self::Tls(tls) => match tls.read(buf) {
                // The peer closed without the farewell of TLS; both protocols above have one of their own.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                other => other,
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.write(buf),
            Self::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn tls_config(authorities: Option<&Path>) -> Result<ClientConfig, Failure> {
    let file = match authorities {
        Some(file) => file.to_owned(),
        None => system_authorities().ok_or_else(|| {
            Failure::Usage("no certificates of authorities found on this system: name a file with --ca".to_owned())
        })?,
    };
    let mut roots = RootCertStore::empty();
    let wrong = || format!("cannot read certificates from {}", file.display());
    for certificate in CertificateDer::pem_file_iter(&file).with_context(wrong)? {
        // System bundles hold the odd one that rustls does not take.
        let _ = roots.add(certificate.with_context(wrong)?);
    }
    if roots.is_empty() {
        return Err(Failure::Usage(format!("{} holds no usable certificate", file.display())));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn system_authorities() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.or_else(|| SYSTEM_AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists()))
}
