//! Who is there.

use std::time::{Duration, Instant};

use bytes::Bytes;
use waypost_broker::topology::ScramMechanism;
use waypost_kafka::messages::security::*;
use waypost_kafka::wire::Malformed;

use super::{Answer, Ask, Session, Who, codes};
use crate::scram::{self, Challenge, Hello, ScramFault};

const PLAIN: &str = "PLAIN";

/// How far the authentication is.
#[derive(Debug)]
pub(super) enum Sasl {
    /// Not begun, or over.
    Idle,
    /// PLAIN was chosen.
    Plain,
    /// A mechanism was chosen, and nothing said yet.
    Scram(ScramMechanism),
    /// The peer was asked for its proof.
    Challenged(Box<Challenge>),
}

/// What a step came to.
enum Step {
    /// More is to be said.
    Next(Sasl, String),
    /// It is this user; what we say to that.
    Done(Box<str>, String),
}

impl Session {
    pub(super) fn sasl_handshake(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: SaslHandshakeRequest = ask.read()?;
        let chosen = match &*request.mechanism {
            PLAIN => Some(Sasl::Plain),
            name => ScramMechanism::parse(name).map(Sasl::Scram),
        };
        // Version 0 goes on with bare tokens behind it, which only clients of before 2018 send.
        let chosen = chosen.filter(|_| ask.version > 0);
        let error_code = if chosen.is_some() { codes::NONE } else { codes::UNSUPPORTED_SASL_MECHANISM };
        self.sasl = chosen.unwrap_or(Sasl::Idle);
        // Clients look for theirs also when all is well.
        let mut mechanisms: Vec<Box<str>> = vec![PLAIN.into()];
        mechanisms.extend(ScramMechanism::ALL.map(|m| m.as_str().into()));
        Ok(ask.now(&SaslHandshakeResponse { error_code, mechanisms }))
    }

    pub(super) fn sasl_authenticate(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: SaslAuthenticateRequest = ask.read()?;
        let failed = |error_code, why: &str| {
            let failure = SaslAuthenticateResponse {
                error_code,
                error_message: Some(why.into()),
                ..SaslAuthenticateResponse::default()
            };
            // Told in words, then closed: clients that are only cut off try again for ever.
            Ok(Answer::Last(ask.bytes(&failure)))
        };
        let token = &request.auth_bytes;
        let step = match std::mem::replace(&mut self.sasl, Sasl::Idle) {
            Sasl::Idle => return failed(codes::ILLEGAL_SASL_STATE, "no mechanism was chosen"),
            Sasl::Plain => self.plain(token).map(|user| Step::Done(user, String::new())),
            Sasl::Scram(mechanism) => self.challenge(mechanism, token).map_err(|e| self.scram_failed(e)),
            Sasl::Challenged(challenge) => {
                let proven = challenge.finish(token).map_err(|e| self.scram_failed(e));
                proven.and_then(|(user, ours)| self.admitted(&user).map(|user| Step::Done(user, ours)))
            }
        };
        let (bytes, session_lifetime_ms) = match step {
            Err(why) => return failed(codes::SASL_AUTHENTICATION_FAILED, &why),
            Ok(Step::Next(next, bytes)) => {
                self.sasl = next;
                (bytes, 0)
            }
            Ok(Step::Done(user, bytes)) => {
                if matches!(&self.who, Who::User(before) if *before != user) {
                    let why = "a connection stays with the user who began it";
                    return failed(codes::SASL_AUTHENTICATION_FAILED, why);
                }
                self.who = Who::User(user);
                (bytes, self.begin_session())
            }
        };
        Ok(ask.now(&SaslAuthenticateResponse {
            error_message: None,
            auth_bytes: Bytes::from(bytes.into_bytes()),
            session_lifetime_ms,
            ..SaslAuthenticateResponse::default()
        }))
    }

    /// From now on for as long as a session lasts; in milliseconds, 0 for as long as the connection. KIP-368.
    fn begin_session(&mut self) -> i64 {
        let lifetime = self.node.config.kafka.session_lifetime;
        self.session_until = (lifetime > Duration::ZERO).then(|| Instant::now() + lifetime);
        i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX)
    }

    /// Whether the peer has to say anew who it is.
    pub(super) fn session_is_over(&self) -> bool {
        self.session_until.is_some_and(|until| Instant::now() >= until)
    }

    fn challenge(&self, mechanism: ScramMechanism, token: &[u8]) -> Result<Step, ScramFault> {
        let hello = Hello::read(token)?;
        let keys = match self.node.broker.scram(&hello.user, mechanism) {
            Some(keys) => keys,
            None => {
                tracing::info!(
                    user = hello.user,
                    mechanism = mechanism.as_str(),
                    "no such keys: set the password anew"
                );
                scram::decoy(mechanism, self.node.http.decoy_salt(&hello.user).map_err(|_| ScramFault::Random)?)?
            }
        };
        let challenge = Challenge::new(hello, keys)?;
        let text = challenge.text.clone();
        Ok(Step::Next(Sasl::Challenged(Box::new(challenge)), text))
    }

    fn scram_failed(&self, fault: ScramFault) -> String {
        self.node.broker.note_authentication_failure();
        fault.to_string()
    }

    fn admitted(&self, user: &str) -> Result<Box<str>, String> {
        self.node.broker.admit(user, self.loopback).map(|_| user.into()).map_err(|refusal| refusal.text.to_string())
    }

    /// `[authorize as] NUL user NUL password`.
    fn plain(&self, token: &[u8]) -> Result<Box<str>, String> {
        let mut parts = token.splitn(3, |b| *b == 0);
        let (Some(as_whom), Some(user), Some(password)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("the token is not of the form of PLAIN".to_owned());
        };
        let user = std::str::from_utf8(user).map_err(|_| "the user name is no UTF-8".to_owned())?;
        if !as_whom.is_empty() && as_whom != user.as_bytes() {
            return Err("nobody may act for another user".to_owned());
        }
        match self.node.broker.login(user, password, self.loopback) {
            Ok(_) => Ok(user.into()),
            Err(refusal) => Err(refusal.text.to_string()),
        }
    }
}
