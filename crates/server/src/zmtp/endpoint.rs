//! Where a device binds or connects: `tcp://HOST:PORT` and `ipc://PATH`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// A transport address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An address of TCP.
    Tcp(SocketAddr),
    /// A name and a port, looked up at each connect.
    TcpName(String, u16),
    /// A socket in the file system.
    Ipc(PathBuf),
}

/// Who calls whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Peers connect to us.
    Bind,
    /// We connect to a peer, again and again.
    Connect,
}

/// `bind:tcp://…` or `connect:tcp://…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Who calls whom.
    pub direction: Direction,
    /// Where.
    pub endpoint: Endpoint,
}

impl Attachment {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Attachment, String> {
        let (direction, rest) = match text.split_once(':') {
            Some(("bind", rest)) => (Direction::Bind, rest),
            Some(("connect", rest)) => (Direction::Connect, rest),
            _ => return Err(format!("`{text}` is neither bind:ENDPOINT nor connect:ENDPOINT")),
        };
        let endpoint = Endpoint::parse(rest)?;
        match (direction, &endpoint) {
            (Direction::Bind, Endpoint::TcpName(name, _)) => {
                Err(format!("`{text}`: bind needs an address of this machine, not the name `{name}`"))
            }
            (Direction::Connect, Endpoint::Tcp(address)) if address.port() == 0 || address.ip().is_unspecified() => {
                Err(format!("`{text}`: nobody can be reached at {address}"))
            }
            (Direction::Connect, Endpoint::TcpName(_, 0)) => Err(format!("`{text}`: port 0 is for bind")),
            _ => Ok(Attachment { direction, endpoint }),
        }
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Endpoint, String> {
        if let Some(path) = text.strip_prefix("ipc://") {
            return match path {
                "" => Err("`ipc://` needs a path".to_owned()),
                // 108 octets with a null at the end is all that the system has room for.
                path if path.len() > 107 => Err(format!("`{text}`: the path is longer than 107 bytes")),
                path => Ok(Endpoint::Ipc(path.into())),
            };
        }
        let Some(rest) = text.strip_prefix("tcp://") else {
            return Err(format!("`{text}` is neither tcp://HOST:PORT nor ipc://PATH"));
        };
        if let Ok(address) = rest.parse() {
            return Ok(Endpoint::Tcp(address));
        }
        let wrong = || format!("`{text}` is not tcp://HOST:PORT");
        let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let port = if port == "*" { 0 } else { port.parse().map_err(|_| wrong())? };
        match host {
            "" => Err(wrong()),
            "*" => Ok(Endpoint::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))),
            "localhost" => Ok(Endpoint::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))),
            _ if host.contains([':', '/', '[']) => Err(wrong()),
            _ => Ok(Endpoint::TcpName(host.to_owned(), port)),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::TcpName(host, port) => write!(f, "tcp://{host}:{port}"),
            Self::Ipc(path) => write!(f, "ipc://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (text, shown) in [
            ("bind:tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
            ("bind:tcp://*:*", "tcp://0.0.0.0:0"),
            ("bind:tcp://[::1]:0", "tcp://[::1]:0"),
            ("connect:tcp://localhost:5555", "tcp://127.0.0.1:5555"),
            ("connect:tcp://worker.example:5555", "tcp://worker.example:5555"),
            ("bind:ipc:///tmp/a.sock", "ipc:///tmp/a.sock"),
        ] {
            assert_eq!(Attachment::parse(text).unwrap().endpoint.to_string(), shown);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("tcp://127.0.0.1:1", "neither bind:"),
            ("bind:udp://127.0.0.1:1", "neither tcp://"),
            ("bind:tcp://example:1", "address of this machine"),
            ("connect:tcp://127.0.0.1:0", "nobody can be reached"),
            ("connect:tcp://*:5", "nobody can be reached"),
            ("connect:tcp://name:0", "port 0"),
            ("bind:tcp://127.0.0.1", "HOST:PORT"),
            ("bind:tcp://127.0.0.1:99999", "HOST:PORT"),
            ("bind:ipc://", "needs a path"),
        ] {
            let error = Attachment::parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        assert!(Attachment::parse(&format!("bind:ipc:///{}", "x".repeat(107))).is_err());
    }
}
