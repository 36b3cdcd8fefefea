//! `amqp://user:password@host:port/vhost`.

use std::str::FromStr;

use crate::cli::address::Address;

/// Where a broker is and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmqpUri {
    /// Host name or address.
    pub host: String,
    /// TCP port; by default 5672, with TLS 5671.
    pub port: u16,
    /// Whether by TLS.
    pub tls: bool,
    /// User name, `guest` by default.
    pub user: String,
    /// Password, `guest` by default.
    pub password: String,
    /// Virtual host, `/` by default; `amqp://host/` names the empty one, as RabbitMQ's URI specification has it.
    pub vhost: String,
}

impl FromStr for AmqpUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = Address::parse(text)?;
        let tls = match address.scheme.as_str() {
            "amqp" => false,
            "amqps" => true,
            other => return Err(format!("scheme {other} is not supported, only amqp and amqps")),
        };
        let (user, password) = address.login.unwrap_or_else(|| ("guest".to_owned(), "guest".to_owned()));
        Ok(Self {
            host: if address.host.is_empty() { "127.0.0.1".to_owned() } else { address.host },
            port: address.port.unwrap_or(if tls { 5671 } else { 5672 }),
            tls,
            user,
            password,
            vhost: address.path.unwrap_or_else(|| "/".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_rabbitmqs() {
        let uri: AmqpUri = "amqp://localhost".parse().unwrap();
        assert_eq!((uri.port, uri.tls, uri.user.as_str(), uri.vhost.as_str()), (5672, false, "guest", "/"));
        let uri: AmqpUri = "amqps://me:x@h/%2Fteam".parse().unwrap();
        assert_eq!((uri.port, uri.tls, uri.user.as_str(), uri.vhost.as_str()), (5671, true, "me", "/team"));
        assert_eq!("amqp://h/".parse::<AmqpUri>().unwrap().vhost, "");
        assert!("http://h".parse::<AmqpUri>().is_err());
    }
}
