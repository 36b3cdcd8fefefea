//! Listener values: `ADDR:PORT[,option=value…]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::nearest::nearest;
use super::value::{Scalar, Unset};

/// Where to listen, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Certificate and key, for encrypted listeners.
    pub tls: Option<ListenerTls>,
    /// The vhost of what carries none.
    pub vhost: Option<String>,
    /// How clients reach the listener, if not by its address.
    pub advertise: Option<String>,
}

/// The files of an encrypted listener, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of client certificates. When given, clients are asked for one.
    pub client_ca: Option<PathBuf>,
}

impl ListenerSpec {
    /// A plain listener.
    #[must_use]
    pub fn plain(address: SocketAddr) -> ListenerSpec {
        ListenerSpec { address, tls: None, vhost: None, advertise: None }
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.address.ip().is_loopback()
    }
}

impl Unset for ListenerSpec {
    const WORD: Option<&'static str> = Some("off");
}

const OPTIONS: [&str; 4] = ["tls", "client-ca", "vhost", "advertise"];

impl Scalar for ListenerSpec {
    const FORM: &'static str = "listener";

    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let mut spec = ListenerSpec::plain(address(parts.next().unwrap_or_default().trim())?);
        let mut client_ca = None;
        for option in parts {
            let (name, value) =
                option.trim().split_once('=').ok_or_else(|| format!("`{option}` is not option=value"))?;
            if value.is_empty() {
                return Err(format!("option `{name}` has no value"));
            }
            match name {
                "tls" => spec.tls = Some(tls(value)?),
                "client-ca" => client_ca = Some(PathBuf::from(value)),
                "vhost" => spec.vhost = Some(value.to_owned()),
                "advertise" => spec.advertise = Some(value.to_owned()),
                _ => {
                    let hint = nearest(name, OPTIONS).map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
                    return Err(format!("unknown listener option `{name}`{hint}"));
                }
            }
        }
        match (&mut spec.tls, client_ca) {
            (Some(tls), ca) => tls.client_ca = ca,
            (None, Some(_)) => return Err("option `client-ca` needs option `tls`".to_owned()),
            (None, None) => {}
        }
        Ok(spec)
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for ListenerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if let Some(tls) = &self.tls {
            write!(f, ",tls={}:{}", tls.certificate.display(), tls.key.display())?;
            if let Some(ca) = &tls.client_ca {
                write!(f, ",client-ca={}", ca.display())?;
            }
        }
        if let Some(vhost) = &self.vhost {
            write!(f, ",vhost={vhost}")?;
        }
        match &self.advertise {
            Some(advertise) => write!(f, ",advertise={advertise}"),
            None => Ok(()),
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = port.parse().map_err(|_| format!("`{port}` is not a port"))?;
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| format!("`{text}` is not ADDR:PORT with a numeric address, such as 127.0.0.1:5672"))
}

fn tls(value: &str) -> Result<ListenerTls, String> {
    match value.split_once(':') {
        Some((certificate, key)) if !certificate.is_empty() && !key.is_empty() => {
            Ok(ListenerTls { certificate: certificate.into(), key: key.into(), client_ca: None })
        }
        _ => Err(format!("`tls={value}` is not tls=CERT:KEY with two PEM files")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_options() {
        let text = "[::1]:0,tls=a.pem:b.pem,client-ca=c.pem,vhost=shop,advertise=mq.example:5671";
        let spec = ListenerSpec::parse(text).unwrap();
        assert_eq!(spec.to_string(), text);
        assert!(spec.is_loopback());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("5672", "ADDR:PORT"),
            ("127.0.0.1:5672,tsl=a:b", "did you mean `tls`"),
            ("127.0.0.1:5672,tls=a", "CERT:KEY"),
            ("127.0.0.1:5672,client-ca=a", "needs option `tls`"),
            ("127.0.0.1:5672,vhost", "option=value"),
            ("127.0.0.1:99999", "ADDR:PORT"),
        ] {
            let error = ListenerSpec::parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
