//! Loads over DNS.

use super::load::{deregister, register};
use super::{Goal, LoadArgs, Outcome, Target, resolve};
use crate::bench::amqp::fault::Fault;
use crate::exit::Failure;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RecordType {
    /// Addresses
    A,
    /// Addresses and ports
    Srv,
}

/// Arguments of `dns`.
#[derive(Clone, Debug, Args)]
pub struct DnsArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    load: LoadArgs,
    /// The server's DNS address
    #[arg(long, default_value = "127.0.0.1:8600", value_name = "ADDRESS", value_parser = resolve)]
    dns: SocketAddr,
    /// What to ask for
    #[arg(long = "type", value_enum, default_value = "a", value_name = "TYPE")]
    kind: RecordType,
    /// Instances of the service
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    instances: u64,
}

/// A query that is not answered by then is counted as lost, and another one takes its place.
const ANSWER_TIME: Duration = Duration::from_millis(500);

impl DnsArgs {
    /// Measures it.
    pub fn run(&self) -> Result<(), Failure> {
        let service = format!("bench-dns-{}", self.instances);
        register(&self.target, &service, self.instances, "")?;
        let name = format!("{service}.service.consul");
        let (kind, text) = match self.kind {
            RecordType::A => (1, "A"),
            RecordType::Srv => (33, "SRV"),
        };
        let setup = json!({ "name": name, "type": text, "instances": self.instances, "queries_under_way": self.load.connections });
        let query = query(&name, kind);
        let measured = self
            .target
            .measure("dns", setup, || drive(self.dns, self.load.connections().min(512), self.load.goal(), &query));
        deregister(&self.target, &service, self.instances)?;
        measured
    }
}

/// A query for a name, with EDNS and the id 0.
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    out
}

/// Keeps so many queries under way over one socket.
pub fn drive(address: SocketAddr, under_way: usize, goal: Goal, query: &[u8]) -> Result<Outcome, Fault> {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).and_then(|socket| socket.connect(address).map(|()| socket));
    let socket = socket.map_err(|source| Fault::Unavailable { address: address.to_string(), source })?;
    socket.set_read_timeout(Some(ANSWER_TIME)).map_err(Fault::io("set up a socket"))?;
    let mut outcome = Outcome::default();
    let begin = Instant::now();
    let more = |sent: u64| match goal {
        Goal::Time(time) => begin.elapsed() < time,
        Goal::Count(count) => sent < count,
    };
    let mut times = vec![None; under_way];
    let (mut message, mut answer, mut sent, mut open) = (query.to_vec(), [0; 4096], 0_u64, 0_usize);
    let mut send = |slot: usize, times: &mut Vec<Option<Instant>>| -> Result<(), Fault> {
        message[..2].copy_from_slice(&u16::try_from(slot).unwrap_or(0).to_be_bytes());
        times[slot] = Some(Instant::now());
        socket.send(&message).map(|_| ()).map_err(Fault::io("send a query"))
    };
    for slot in 0..under_way {
        if more(sent) {
            send(slot, &mut times)?;
            (sent, open) = (sent + 1, open + 1);
        }
    }
    while open > 0 {
        match socket.recv(&mut answer) {
            Ok(len) => {
                let slot = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
                let Some(started) = times.get_mut(slot).and_then(Option::take) else { continue };
                open -= 1;
                outcome.note_dns(&answer[..len], started.elapsed());
                if more(sent) {
                    send(slot, &mut times)?;
                    (sent, open) = (sent + 1, open + 1);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                outcome.failed += open as u64;
                outcome.first_failure.get_or_insert_with(|| format!("no answer within {ANSWER_TIME:?}"));
                open = 0;
            }
            Err(error) => return Err(Fault::io("read an answer")(error)),
        }
    }
    outcome.seconds = begin.elapsed().as_secs_f64();
    Ok(outcome)
}

impl Outcome {
    fn note_dns(&mut self, answer: &[u8], took: Duration) {
        self.bytes += answer.len() as u64;
        match answer {
            [_, _, _, rcode, _, _, high, low, ..] if rcode & 15 == 0 && (*high, *low) != (0, 0) => {
                self.done += 1;
                self.times.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            }
            _ => {
                self.failed += 1;
                let rcode = answer.get(3).map_or(0, |flags| flags & 15);
                self.first_failure.get_or_insert_with(|| format!("an answer without records, rcode {rcode}"));
            }
        }
    }
}
