//! Where the server itself connects to when somebody has it do so: never to link-local addresses, where clouds keep
//! credentials for whoever asks from this machine, and only to what the allow-list names, if there is one.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery};

/// An entry of the allow-list: a network such as `10.0.0.0/8`, an address, or a host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// Addresses that begin with these bits.
    Network(IpAddr, u8),
    /// A host of this name, whatever its addresses.
    Host(String),
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Allowed, String> {
        let wrong = || format!("`{text}` is no network (10.0.0.0/8), address or host name");
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let bits: u8 = bits.parse().map_err(|_| wrong())?;
            let all = if address.is_ipv4() { 32 } else { 128 };
            return if bits <= all { Ok(Allowed::Network(address, bits)) } else { Err(wrong()) };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Allowed::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-' || b == b'_';
        if text.is_empty() || !text.bytes().all(is_name) {
            return Err(wrong());
        }
        Ok(Allowed::Host(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Network(address, bits) => write!(f, "{address}/{bits}"),
            Allowed::Host(name) => f.write_str(name),
        }
    }
}

impl Allowed {
    fn has(&self, host: &str, address: IpAddr) -> bool {
        match (self, address) {
            (Allowed::Host(name), _) => name.eq_ignore_ascii_case(host),
            (Allowed::Network(IpAddr::V4(net), bits), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(*bits);
                net.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (Allowed::Network(IpAddr::V6(net), bits), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(*bits);
                net.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// Whether an address may be connected to.
///
/// # Errors
/// Why not.
pub(crate) fn permitted(host: &str, address: IpAddr, allow: &[Allowed]) -> Result<(), String> {
    let address = address.to_canonical();
    let never = match address {
        IpAddr::V4(a) => a.is_link_local() || a.is_unspecified() || a.is_multicast() || a == Ipv4Addr::BROADCAST,
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_unspecified() || a.is_multicast() || a == CLOUD_METADATA_V6,
    };
    if never {
        return Err(format!("{address} is link-local or no address of one host: never connected to"));
    }
    if !allow.is_empty() && !allow.iter().any(|a| a.has(host, address)) {
        return Err(format!("{host} ({address}) is not in targets.allow"));
    }
    Ok(())
}

/// Where a large cloud keeps credentials beside 169.254.169.254; not link-local by its form.
const CLOUD_METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254);

/// The addresses of a host that may be connected to, at least one.
///
/// # Errors
/// When the name leads nowhere, or where nobody may go. Names are looked up anew each time, so that none can be pointed
/// elsewhere after it was checked.
pub(crate) async fn resolve(host: &str, port: u16, allow: &[Allowed]) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => tokio::net::lookup_host((host, port)).await?.collect(),
    };
    let mut refused = None;
    let mut good = Vec::new();
    for address in found {
        match permitted(host, address.ip(), allow) {
            Ok(()) => good.push(address),
            Err(why) => refused = Some(why),
        }
    }
    match (good.is_empty(), refused) {
        (false, _) => Ok(good),
        (true, Some(why)) => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
        (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"))),
    }
}

/// An endpoint, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// `Host` of requests.
    pub authority: Authority,
    /// Path and query.
    pub path: PathAndQuery,
}

impl Endpoint {
    /// Reads `http://…` or `https://…`, and checks what can be checked without looking names up.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn parse(url: &str, allow: &[Allowed]) -> Result<Endpoint, String> {
        let uri: Uri = url.parse().map_err(|e| format!("`{url}` is no URL: {e}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("`{url}` does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| format!("`{url}` names no host"))?.clone();
        if authority.as_str().contains('@') {
            return Err("a URL must hold no credentials; use a secret, which signs what is sent".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(format!("`{url}` names no host"));
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            permitted(&host, address, allow)?;
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if port == 0 {
            return Err("port 0 is none to connect to".to_owned());
        }
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Endpoint { tls, host, port, authority, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<Allowed> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn link_local_is_never_a_target() {
        for bad in [
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://0.0.0.0:80/",
            "http://[::]/",
            "http://224.0.0.1/",
            "http://[fd00:ec2::254]/",
        ] {
            assert!(Endpoint::parse(bad, &[]).is_err(), "{bad}");
            assert!(Endpoint::parse(bad, &list(&["0.0.0.0/0", "::/0"])).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints_are_read() {
        let e = Endpoint::parse("https://shop.example/hook?a=b", &[]).unwrap();
        assert_eq!((e.tls, &*e.host, e.port, e.path.as_str()), (true, "shop.example", 443, "/hook?a=b"));
        let e = Endpoint::parse("http://[::1]:8080", &[]).unwrap();
        assert_eq!((e.tls, &*e.host, e.port, e.path.as_str()), (false, "::1", 8080, "/"));
        for bad in ["ftp://x/", "/path", "x", "http://", "http://u:p@x/", "http://x:0/"] {
            assert!(Endpoint::parse(bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_list_says_who_else() {
        let allow = list(&["10.0.0.0/8", "192.168.1.7", "Hook.Example", "2001:db8::/32"]);
        let ok = |host: &str, address: &str| permitted(host, address.parse().unwrap(), &allow).is_ok();
        assert!(
            ok("a", "10.1.2.3") && ok("a", "192.168.1.7") && ok("hook.example", "1.2.3.4") && ok("a", "2001:db8::1")
        );
        assert!(!ok("a", "11.0.0.1") && !ok("a", "192.168.1.8") && !ok("other.example", "1.2.3.4") && !ok("a", "::1"));
        assert!(permitted("a", "1.2.3.4".parse().unwrap(), &list(&["0.0.0.0/0"])).is_ok());
        for bad in ["10.0.0.0/33", "x/8", "a b", ""] {
            assert!(bad.parse::<Allowed>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn names_are_looked_up_and_checked() {
        assert!(!resolve("localhost", 80, &[]).await.unwrap().is_empty());
        let refused = resolve("localhost", 80, &list(&["10.0.0.0/8"])).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
