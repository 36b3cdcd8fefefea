//! `amqp://user:password@host:port/vhost`.

use std::str::FromStr;

/// Where a broker is and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port, 5672 by default.
    pub port: u16,
    /// User name, `guest` by default.
    pub user: String,
    /// Password, `guest` by default.
    pub password: String,
    /// Virtual host, `/` by default; `amqp://host/` names the empty one, as RabbitMQ's URI specification has it.
    pub vhost: String,
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some(("amqp", rest)) => rest,
            Some((scheme, _)) => {
                return Err(format!("scheme {scheme} is not supported, only amqp"));
            }
            None => return Err("expected amqp://user:password@host:port/vhost".to_owned()),
        };
        if rest.contains('?') {
            return Err("query parameters are not supported".to_owned());
        }
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) => (authority, decode(vhost)?),
            None => (rest, "/".to_owned()),
        };
        let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = split_address(address)?;
        let or_guest = |text: String| {
            if login.is_empty() { "guest".to_owned() } else { text }
        };
        Ok(Self { host, port, user: or_guest(decode(user)?), password: or_guest(decode(password)?), vhost })
    }
}

fn split_address(address: &str) -> Result<(String, u16), String> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("unclosed bracket in the host")?;
            (host, after.strip_prefix(':'))
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        None | Some("") => 5672,
        Some(port) => port.parse().map_err(|_| format!("port {port:?} is not a port"))?,
    };
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    Ok((host.to_owned(), port))
}

fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?')),
            _ => return Err(format!("bad percent escape in {text:?}")),
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn defaults_are_rabbitmqs() {
        let uri = parse("amqp://localhost");
        assert_eq!((uri.host.as_str(), uri.port), ("localhost", 5672));
        assert_eq!((uri.user.as_str(), uri.password.as_str(), uri.vhost.as_str()), ("guest", "guest", "/"));
    }

    #[test]
    fn every_part_is_taken_and_decoded() {
        let uri = parse("amqp://me%40x:p%3Aw@[::1]:1234/%2Fteam");
        assert_eq!((uri.host.as_str(), uri.port), ("::1", 1234));
        assert_eq!((uri.user.as_str(), uri.password.as_str(), uri.vhost.as_str()), ("me@x", "p:w", "/team"));
        assert_eq!(parse("amqp://h/").vhost, "");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["localhost", "amqps://h", "amqp://h:x", "amqp://h/%2", "amqp://h/?heartbeat=1"] {
            assert!(text.parse::<Uri>().is_err(), "{text}");
        }
    }
}
