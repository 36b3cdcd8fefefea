//! A word in the log when clients are told an address that will not bring them back: they reach us once, and then wonder.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two words about the same listener.
const PAUSE: Duration = Duration::from_secs(60);

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    /// The name that the client asked for, as far as TLS says it.
    pub asked: Option<&'a str>,
    /// Where it comes from.
    pub remote: IpAddr,
    /// Where it is told to come.
    pub told: &'a str,
    /// Whether that was configured.
    pub configured: bool,
}

impl Arrival<'_> {
    /// What is wrong, if anything.
    fn mismatch(&self) -> Option<String> {
        let told_ip: Option<IpAddr> = self.told.parse().ok();
        let told_loopback = told_ip.map_or(self.told.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback());
        if told_loopback && !self.remote.is_loopback() {
            return Some(format!("a client of another machine is told to come to {}, which is its own", self.told));
        }
        let asked = self.asked.filter(|asked| !asked.eq_ignore_ascii_case(self.told))?;
        Some(if self.configured {
            format!("a client that asked for {asked} is told to come to {}", self.told)
        } else {
            format!(
                "a client that asked for {asked} is told to come to {}, which the certificate may not name",
                self.told
            )
        })
    }
}

/// The hints of a listener.
#[derive(Debug, Default)]
pub(super) struct Hints(Mutex<Option<Instant>>);

impl Hints {
    /// Looks at a connection, and says what is wrong, now and then.
    pub(super) fn look(&self, arrival: Arrival<'_>) {
        let Some(why) = arrival.mismatch() else { return };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= PAUSE) {
            *last = Some(Instant::now());
            tracing::warn!(
                remote = %arrival.remote,
                "{why}: Kafka's clients connect anew to the address that they are told; set the listener's option advertise=HOST[:PORT]"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_bring_clients_back_is_said() {
        let far: IpAddr = "10.0.0.7".parse().unwrap();
        let near: IpAddr = "127.0.0.1".parse().unwrap();
        let mismatch = |asked, remote, told, configured| Arrival { asked, remote, told, configured }.mismatch();
        for told in ["localhost", "127.0.0.1", "::1"] {
            assert!(mismatch(None, far, told, true).unwrap().contains("its own"), "{told}");
            assert_eq!(mismatch(None, near, told, true), None);
        }
        assert_eq!(mismatch(None, far, "10.0.0.5", false), None);
        assert_eq!(mismatch(Some("MQ.example"), far, "mq.example", true), None);
        assert!(mismatch(Some("other.example"), far, "mq.example", true).unwrap().contains("other.example"));
        assert!(mismatch(Some("mq.example"), far, "10.0.0.5", false).unwrap().contains("certificate"));
    }
}
