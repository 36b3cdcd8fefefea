//! `scheme://user:password@host:port/path`, as both AMQP and HTTP write it.

/// The parts of a URL, percent-decoded, without defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// What stands before `://`.
    pub scheme: String,
    /// User and password, if there is an `@`.
    pub login: Option<(String, String)>,
    /// Host name or address, without brackets; may be empty.
    pub host: String,
    /// The port, if there is one.
    pub port: Option<u16>,
    /// What follows the first slash after the host, without it.
    pub path: Option<String>,
}

impl Address {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("{text:?} has no scheme"))?;
        if rest.contains(['?', '#']) {
            return Err("parameters behind ? or # are not supported".to_owned());
        }
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(decode(path)?)),
            None => (rest, None),
        };
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => {
                let (user, password) = login.split_once(':').unwrap_or((login, ""));
                (Some((decode(user)?, decode(password)?)), host)
            }
            None => (None, authority),
        };
        let (host, port) = split_host(host)?;
        Ok(Self { scheme: scheme.to_ascii_lowercase(), login, host, port, path })
    }
}

fn split_host(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("unclosed bracket in the host")?;
            match after.strip_prefix(':') {
                None if !after.is_empty() => return Err(format!("unexpected {after:?} after the host")),
                port => (host, port),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None | Some("") => None,
        Some(port) => Some(port.parse().map_err(|_| format!("{port:?} is not a port"))?),
    };
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
        let mut digit =
            || rest.next().and_then(|byte| char::from(byte).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(format!("bad percent escape in {text:?}"));
        };
        bytes.push(high << 4 | low);
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8"))
}

/// One segment of a URL's path, percent-encoded.
pub fn encode_segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts() {
        let a = Address::parse("AMQP://me%40x:p%3Aw@[::1]:1234/%2Fteam").unwrap();
        assert_eq!(a.scheme, "amqp");
        assert_eq!(a.login, Some(("me@x".to_owned(), "p:w".to_owned())));
        assert_eq!((a.host.as_str(), a.port, a.path.as_deref()), ("::1", Some(1234), Some("/team")));
    }

    #[test]
    fn absent_parts_stay_absent() {
        let a = Address::parse("http://localhost").unwrap();
        assert_eq!((a.login, a.port, a.path), (None, None, None));
        assert_eq!(Address::parse("amqp://h/").unwrap().path.as_deref(), Some(""));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "localhost",
            "http://h:x",
            "http://h:99999",
            "amqp://h/%2",
            "amqp://h/?a=1",
            "http://[::1",
            "http://[::1]x",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_segment_survives_the_way_there_and_back() {
        for text in ["/", "a b", "käse%2F", "", "q.1-2_3~"] {
            assert_eq!(decode(&encode_segment(text)).unwrap(), text);
            assert!(!encode_segment(text).contains('/'));
        }
    }
}
