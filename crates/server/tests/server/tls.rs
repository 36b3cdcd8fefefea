//! Encrypted listeners, with certificates made here.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, CertifiedIssuer, CertifiedKey, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Server, ask, get, login, publish, queue};

type Client = StreamOwned<ClientConnection, TcpStream>;

/// A certificate and its key.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, common_name: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().der().clone();
        Identity { certificate, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }
}

/// The files of a server that calls itself localhost, and what its clients are to trust.
struct Site {
    dir: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

impl Site {
    fn new() -> Site {
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
        Site { dir, certificate: cert.der().clone() }
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn listener(&self, client_ca: Option<&Path>) -> String {
        let dir = self.dir.path().display();
        let ca = client_ca.map(|ca| format!(",client-ca={}", ca.display())).unwrap_or_default();
        format!("127.0.0.1:0,tls={dir}/cert.pem:{dir}/key.pem{ca}")
    }

    fn client(&self, address: &str, identity: Option<Identity>) -> Client {
        client(address, &self.certificate, identity)
    }
}

fn client(address: &str, trusted: &CertificateDer<'static>, identity: Option<Identity>) -> Client {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(i) => config.with_client_auth_cert(vec![i.certificate], i.key).unwrap(),
    };
    let name = ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
}

fn start(amqp: &str) -> Server {
    Server::start_in(tempfile::tempdir().unwrap(), &[("amqp", amqp)])
}

/// A user without password, who may do everything in vhost `/`.
fn add_user(server: &Server, name: &str) {
    let put = |path: &str, body: &str| {
        let (status, text) = server.http(&format!("PUT /api/v1/{path}/{name}"), "localhost", body);
        assert_eq!(status, 204, "{text}");
    };
    put("users", r#"{"password_hash":""}"#);
    put("permissions/%2F", r#"{"configure":".*","write":".*","read":".*"}"#);
}

#[test]
fn a_large_message_goes_there_and_back() {
    const BODY: usize = 3 << 20;
    let site = Site::new();
    let server = start(&site.listener(None));
    let mut peer = site.client(&server.amqp, None);
    let mechanisms = login(&mut peer, "PLAIN", b"\0guest\0guest");
    assert!(!mechanisms.contains("EXTERNAL"), "{mechanisms}");
    queue(&mut peer);
    let body: Vec<u8> = (0..BODY).map(|i| u8::try_from(i % 251).unwrap()).collect();
    publish(&mut peer, &body);
    assert!(get(&mut peer).unwrap() == body);
    drop(peer);
    server.stop().0.unwrap();
}

#[test]
fn a_certificate_names_its_user() {
    let (site, authority) = (Site::new(), Authority::new("ours"));
    let ca = site.file("ca.pem", &authority.0.pem());
    let server = start(&site.listener(Some(&ca)));
    add_user(&server, "cart");
    let mut peer = site.client(&server.amqp, Some(authority.issue("cart")));
    let mechanisms = login(&mut peer, "EXTERNAL", b"");
    assert!(mechanisms.split(' ').any(|m| m == "EXTERNAL"), "{mechanisms}");
    let (_, listing) = server.http("GET /api/v1/connections", "localhost", "");
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    assert_eq!((&listing[0]["user"], &listing[0]["tls"]), (&"cart".into(), &true.into()), "{listing}");
    // Without a certificate there are passwords, as before.
    let mut other = site.client(&server.amqp, None);
    let mechanisms = login(&mut other, "PLAIN", b"\0guest\0guest");
    assert!(!mechanisms.contains("EXTERNAL"), "{mechanisms}");
    drop((peer, other));
    server.stop().0.unwrap();
}

#[test]
fn a_certificate_of_a_foreign_authority_is_refused() {
    let (site, authority) = (Site::new(), Authority::new("ours"));
    let ca = site.file("ca.pem", &authority.0.pem());
    let server = start(&site.listener(Some(&ca)));
    add_user(&server, "cart");
    for (authority, why) in [("foreign", "UnknownCA"), ("ours", "DecryptError")] {
        let mut peer = site.client(&server.amqp, Some(Authority::new(authority).issue("cart")));
        // With TLS 1.3 a client is done before the server has looked; it learns when it reads.
        let read = peer.write_all(b"AMQP\0\0\x09\x01").and_then(|()| peer.read_exact(&mut [0; 1]));
        let error = read.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    // It was refused, not the whole listener.
    login(&mut site.client(&server.amqp, Some(authority.issue("cart"))), "EXTERNAL", b"");
    server.stop().0.unwrap();
}

#[test]
fn a_client_that_trusts_somebody_else_goes_away() {
    let site = Site::new();
    let server = start(&site.listener(None));
    let mut peer = client(&server.amqp, &Site::new().certificate, None);
    let error = peer.write_all(b"AMQP\0\0\x09\x01").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    login(&mut site.client(&server.amqp, None), "PLAIN", b"\0guest\0guest");
    server.stop().0.unwrap();
}

#[test]
fn who_speaks_plainly_to_an_encrypted_listener_is_sent_away() {
    let site = Site::new();
    let server = start(&site.listener(None));
    let mut peer = server.connect();
    peer.write_all(b"AMQP\0\0\x09\x01").unwrap();
    let mut said = Vec::new();
    // An alert, then the end.
    let _ = peer.read_to_end(&mut said);
    assert!(said.first().is_none_or(|kind| *kind == 21), "{said:?}");
    server.stop().0.unwrap();
}

#[test]
fn a_handshake_that_nobody_goes_on_with_does_not_hold_up_the_stop() {
    let site = Site::new();
    let server = Server::start_in(
        tempfile::tempdir().unwrap(),
        &[("amqp", &site.listener(None)), ("http", &site.listener(None)), ("server-stop-timeout", "8s")],
    );
    let silent = [TcpStream::connect(&server.amqp).unwrap(), TcpStream::connect(&server.http).unwrap()];
    // Whoever came later and is served shows that the silent ones were accepted.
    login(&mut site.client(&server.amqp, None), "PLAIN", b"\0guest\0guest");
    let from = Instant::now();
    server.stop().0.unwrap();
    assert!(from.elapsed() < Duration::from_secs(4), "{:?}", from.elapsed());
    drop(silent);
}

#[test]
fn https_answers() {
    let site = Site::new();
    let server = Server::start_in(tempfile::tempdir().unwrap(), &[("http", &site.listener(None))]);
    let (status, page) = ask(site.client(&server.http, None), "GET /api/v1/overview", "localhost", "");
    assert_eq!(status, 200, "{page}");
    let mut plain = TcpStream::connect(&server.http).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "answered without encryption");
    server.stop().0.unwrap();
}
