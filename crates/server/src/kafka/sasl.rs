//! Who is there.

use waypost_kafka::messages::security::*;
use waypost_kafka::wire::Malformed;

use super::{Answer, Ask, Session, Who, codes};

/// The mechanisms that we speak.
const MECHANISMS: [&str; 1] = ["PLAIN"];

impl Session {
    pub(super) fn sasl_handshake(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: SaslHandshakeRequest = ask.read()?;
        let known = MECHANISMS.contains(&&*request.mechanism);
        // Version 0 goes on with bare tokens behind it, which only clients of before 2018 send.
        let error_code = if known && ask.version > 0 { codes::NONE } else { codes::UNSUPPORTED_SASL_MECHANISM };
        self.mechanism = (error_code == codes::NONE).then_some(request.mechanism);
        // Clients look for theirs also when all is well.
        Ok(ask.now(&SaslHandshakeResponse { error_code, mechanisms: MECHANISMS.map(Into::into).into() }))
    }

    pub(super) fn sasl_authenticate(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: SaslAuthenticateRequest = ask.read()?;
        let failed = |error_code, why: &str| SaslAuthenticateResponse {
            error_code,
            error_message: Some(why.into()),
            ..SaslAuthenticateResponse::default()
        };
        if self.mechanism.take().is_none() {
            return Ok(Answer::Last(ask.bytes(&failed(codes::ILLEGAL_SASL_STATE, "no mechanism was chosen"))));
        }
        match self.plain(&request.auth_bytes) {
            Ok(name) => {
                self.who = Who::User(name);
                Ok(ask.now(&SaslAuthenticateResponse { error_message: None, ..SaslAuthenticateResponse::default() }))
            }
            // Told in words, then closed: clients that are only cut off try again for ever.
            Err(why) => Ok(Answer::Last(ask.bytes(&failed(codes::SASL_AUTHENTICATION_FAILED, &why)))),
        }
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
