//! Encryption of listeners.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::config::ListenerTls;
use crate::error::ServeError;

/// A listener's certificate and key, which can be read anew.
pub struct Tls {
    files: ListenerTls,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`ServeError::Tls`].
    pub fn load(files: ListenerTls) -> Result<Tls, ServeError> {
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Tls { files, current })
    }

    /// Reads the files again. Connections that are there keep what they have; so does everybody, if the files are bad.
    ///
    /// # Errors
    /// [`ServeError::Tls`].
    pub fn reload(&self) -> Result<(), ServeError> {
        let fresh = Arc::new(read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What accepts a handshake now.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(files: &ListenerTls) -> Result<ServerConfig, ServeError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| bad(&files.key, e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&files.certificate, e))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|e| bad(ca, e))?;
            }
            // A peer without certificate may still come with a password.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| bad(ca, e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    builder.with_single_cert(chain, key).map_err(|e| bad(&files.certificate, e))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|e| bad(path, e))?;
    if all.is_empty() { Err(bad(path, "it holds no certificate")) } else { Ok(all) }
}

fn bad(path: &Path, why: impl ToString) -> ServeError {
    ServeError::Tls { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs::write;

    use rcgen::CertifiedKey;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, ServerConnection};

    use super::*;

    /// A fresh certificate in the files.
    fn renew(files: &ListenerTls) -> CertificateDer<'static> {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        write(&files.certificate, cert.pem()).unwrap();
        write(&files.key, signing_key.serialize_pem()).unwrap();
        cert.der().clone()
    }

    /// Whether a client that trusts this certificate alone gets through its handshake.
    fn serves(tls: &Tls, trusted: &CertificateDer<'static>) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::clone(tls.acceptor().config())).unwrap();
        while client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut &wire[..]).unwrap();
            server.process_new_packets().unwrap();
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut &wire[..]).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
        true
    }

    fn files(dir: &Path) -> ListenerTls {
        ListenerTls { certificate: dir.join("cert.pem"), key: dir.join("key.pem"), client_ca: None }
    }

    #[test]
    fn a_new_certificate_is_served_once_it_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let old = renew(&files);
        let tls = Tls::load(files.clone()).unwrap();
        let new = renew(&files);
        assert!(serves(&tls, &old) && !serves(&tls, &new));
        tls.reload().unwrap();
        assert!(serves(&tls, &new) && !serves(&tls, &old));
    }

    #[test]
    fn files_of_no_use_leave_the_old_ones_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let old = renew(&files);
        let tls = Tls::load(files.clone()).unwrap();
        let key = std::fs::read(&files.key).unwrap();
        for (path, content) in [(&files.certificate, &b""[..]), (&files.certificate, b"-----BEGIN"), (&files.key, b"?")]
        {
            renew(&files);
            write(path, content).unwrap();
            let error = tls.reload().unwrap_err();
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        // A certificate that came before its key.
        renew(&files);
        write(&files.key, key).unwrap();
        assert!(tls.reload().is_err());
        assert!(serves(&tls, &old));
    }

    #[test]
    fn an_authority_that_is_none_ends_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let files = ListenerTls { client_ca: Some(dir.path().join("key.pem")), ..files(dir.path()) };
        renew(&files);
        let error = Tls::load(files).err().unwrap();
        assert!(error.to_string().contains("no certificate"), "{error}");
        assert_eq!(error.exit_code(), 78);
    }
}
