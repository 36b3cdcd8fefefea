//! SCRAM (RFC 5802, RFC 7677): a peer shows that it knows its password, and the server that it knew it too, without either
//! saying it.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};
use waypost_broker::broker::Broker;
use waypost_broker::topology::{ScramKeys, ScramMechanism};
use waypost_model::Millis;

/// Rounds of hashing of the keys that we make: as Kafka's tools do by default.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);
/// Bytes of salt of the keys that we make.
pub(crate) const SALT_BYTES: usize = 16;
/// Bytes of our part of the nonce.
const NONCE_BYTES: usize = 18;
/// Longest message of a peer.
const MESSAGE_MAX: usize = 4096;

/// Why a peer is not let in. The texts are for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramFault {
    /// It is not as the RFC says.
    #[error("a message is not one of SCRAM")]
    Malformed,
    /// It binds to its channel, which we do not do.
    #[error("channel binding is not supported")]
    ChannelBinding,
    /// It would be somebody else.
    #[error("nobody may act for another user")]
    ActsForAnother,
    /// Not the password, or no such user, or one without keys.
    #[error("invalid credentials")]
    Credentials,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

fn algorithms(mechanism: ScramMechanism) -> (pbkdf2::Algorithm, hmac::Algorithm, &'static digest::Algorithm) {
    match mechanism {
        ScramMechanism::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
        ScramMechanism::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, hmac::HMAC_SHA512, &digest::SHA512),
    }
}

fn sign(mechanism: ScramMechanism, key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(algorithms(mechanism).1, key), text)
}

/// Fresh salt.
///
/// # Errors
/// [`ScramFault::Random`].
pub(crate) fn salt() -> Result<[u8; SALT_BYTES], ScramFault> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|_| ScramFault::Random)?;
    Ok(salt)
}

/// The keys of a salted password.
pub(crate) fn keys_of_salted(mechanism: ScramMechanism, iterations: u32, salt: &[u8], salted: &[u8]) -> ScramKeys {
    let client_key = sign(mechanism, salted, b"Client Key");
    let stored_key = digest::digest(algorithms(mechanism).2, client_key.as_ref());
    let server_key = sign(mechanism, salted, b"Server Key");
    ScramKeys {
        mechanism,
        iterations,
        salt: salt.into(),
        stored_key: stored_key.as_ref().into(),
        server_key: server_key.as_ref().into(),
    }
}

/// The keys of a password, for every mechanism. Takes some milliseconds, as it must.
///
/// # Errors
/// [`ScramFault::Random`].
pub(crate) fn keys(password: &[u8]) -> Result<Vec<ScramKeys>, ScramFault> {
    ScramMechanism::ALL.into_iter().map(|m| Ok(keys_with(m, password, &salt()?))).collect()
}

/// The user of a new data directory is made with a password that everybody knows, without keys: he is given some.
pub(crate) fn give_first_user_keys(broker: &Broker, now: Millis) {
    const FIRST: &str = "guest";
    let known = broker.user(FIRST).ok().and_then(|user| user.spec.password);
    let as_made = known.is_some_and(|password| password.verify(FIRST.as_bytes()));
    if !as_made || broker.scram(FIRST, ScramMechanism::Sha256).is_some() {
        return;
    }
    match keys(FIRST.as_bytes()) {
        Ok(all) => {
            for keys in all {
                if let Err(error) = broker.put_scram(FIRST, keys, now) {
                    tracing::warn!(%error, "user guest gets no keys of SCRAM");
                }
            }
        }
        Err(error) => tracing::warn!(%error, "user guest gets no keys of SCRAM"),
    }
}

fn keys_with(mechanism: ScramMechanism, password: &[u8], salt: &[u8]) -> ScramKeys {
    let mut salted = vec![0; mechanism.bytes()];
    pbkdf2::derive(algorithms(mechanism).0, ITERATIONS, salt, password, &mut salted);
    keys_of_salted(mechanism, ITERATIONS.get(), salt, &salted)
}

/// Keys that no password fits, for users who are not there: they are asked like all others, and find out nothing.
pub(crate) fn decoy(mechanism: ScramMechanism, salt: [u8; SALT_BYTES]) -> Result<ScramKeys, ScramFault> {
    let mut salted = vec![0; mechanism.bytes()];
    getrandom::fill(&mut salted).map_err(|_| ScramFault::Random)?;
    Ok(keys_of_salted(mechanism, ITERATIONS.get(), &salt, &salted))
}

/// What a peer has said first.
#[derive(Debug)]
pub(crate) struct Hello {
    /// Who it says it is.
    pub user: String,
    gs2: String,
    bare: String,
    nonce: String,
}

impl Hello {
    /// Reads the first message of a client.
    ///
    /// # Errors
    /// [`ScramFault`].
    pub(crate) fn read(message: &[u8]) -> Result<Hello, ScramFault> {
        if message.len() > MESSAGE_MAX {
            return Err(ScramFault::Malformed);
        }
        let text = std::str::from_utf8(message).map_err(|_| ScramFault::Malformed)?;
        let mut parts = text.splitn(3, ',');
        let (binding, acts_for) = (parts.next().unwrap_or_default(), parts.next().ok_or(ScramFault::Malformed)?);
        let bare = parts.next().ok_or(ScramFault::Malformed)?;
        match binding {
            "n" | "y" => {}
            other if other.starts_with("p=") => return Err(ScramFault::ChannelBinding),
            _ => return Err(ScramFault::Malformed),
        }
        let mut fields = bare.split(',');
        let user = fields.next().and_then(|f| f.strip_prefix("n=")).and_then(unescaped).ok_or(ScramFault::Malformed)?;
        let nonce = fields.next().and_then(|f| f.strip_prefix("r=")).filter(|n| !n.is_empty());
        let nonce = nonce.ok_or(ScramFault::Malformed)?.to_owned();
        // Extensions may be left aside, but for those that must not.
        if fields.any(|f| f.starts_with("m=") || f == "tokenauth=true") {
            return Err(ScramFault::Malformed);
        }
        let acts_for = match acts_for {
            "" => None,
            name => Some(name.strip_prefix("a=").and_then(unescaped).ok_or(ScramFault::Malformed)?),
        };
        if acts_for.is_some_and(|name| name != user) {
            return Err(ScramFault::ActsForAnother);
        }
        let gs2 = text.get(..text.len() - bare.len()).unwrap_or_default().to_owned();
        Ok(Hello { user, gs2, bare: bare.to_owned(), nonce })
    }
}

/// `=2C` for a comma and `=3D` for an equals sign; no other `=` is there.
fn unescaped(name: &str) -> Option<String> {
    let plain = name.replace("=2C", ",").replace("=3D", "=");
    let legal = name.split('=').skip(1).all(|rest| rest.starts_with("2C") || rest.starts_with("3D"));
    (legal && !plain.is_empty()).then_some(plain)
}

/// A peer that has been asked for its proof.
#[derive(Debug)]
pub(crate) struct Challenge {
    keys: ScramKeys,
    hello: Hello,
    nonce: String,
    /// What the peer is sent.
    pub text: String,
}

impl Challenge {
    /// Asks a peer for its proof.
    ///
    /// # Errors
    /// [`ScramFault::Random`].
    pub(crate) fn new(hello: Hello, keys: ScramKeys) -> Result<Challenge, ScramFault> {
        let mut ours = [0; NONCE_BYTES];
        getrandom::fill(&mut ours).map_err(|_| ScramFault::Random)?;
        Ok(Challenge::with_nonce(hello, keys, &STANDARD.encode(ours)))
    }

    fn with_nonce(hello: Hello, keys: ScramKeys, ours: &str) -> Challenge {
        let nonce = format!("{}{ours}", hello.nonce);
        let text = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        Challenge { keys, hello, nonce, text }
    }

    /// Looks at the proof: who it is, and what proves ourselves to him.
    ///
    /// # Errors
    /// [`ScramFault`].
    pub(crate) fn finish(self, message: &[u8]) -> Result<(String, String), ScramFault> {
        if message.len() > MESSAGE_MAX {
            return Err(ScramFault::Malformed);
        }
        let text = std::str::from_utf8(message).map_err(|_| ScramFault::Malformed)?;
        let (signed, proof) = text.rsplit_once(",p=").ok_or(ScramFault::Malformed)?;
        let proof = STANDARD.decode(proof).map_err(|_| ScramFault::Malformed)?;
        let mut fields = signed.split(',');
        let binding = fields.next().and_then(|f| f.strip_prefix("c=")).and_then(|c| STANDARD.decode(c).ok());
        let nonce = fields.next().and_then(|f| f.strip_prefix("r="));
        // librdkafka before 2.6.1 says its own part of the nonce twice, as brokers that did not look let it. What it signs
        // holds our part all the same.
        let twice = format!("{}{}", self.hello.nonce, self.nonce);
        let fresh = nonce.is_some_and(|nonce| nonce == self.nonce || nonce == twice);
        if binding.as_deref() != Some(self.hello.gs2.as_bytes()) || !fresh {
            return Err(ScramFault::Malformed);
        }
        let mechanism = self.keys.mechanism;
        let exchange = format!("{},{},{signed}", self.hello.bare, self.text);
        let signature = sign(mechanism, &self.keys.stored_key, exchange.as_bytes());
        if proof.len() != signature.as_ref().len() {
            return Err(ScramFault::Credentials);
        }
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let given = digest::digest(algorithms(mechanism).2, &client_key);
        let difference = given.as_ref().iter().zip(&*self.keys.stored_key).fold(0, |d, (a, b)| d | (a ^ b));
        if std::hint::black_box(difference) != 0 {
            return Err(ScramFault::Credentials);
        }
        let ours = sign(mechanism, &self.keys.server_key, exchange.as_bytes());
        Ok((self.hello.user, format!("v={}", STANDARD.encode(ours))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677 §3.
    const HELLO: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const OURS: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const PROOF: &[u8] =
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn challenge(password: &[u8]) -> Challenge {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = keys_with(ScramMechanism::Sha256, password, &salt);
        Challenge::with_nonce(Hello::read(HELLO).unwrap(), keys, OURS)
    }

    #[test]
    fn rfc7677_s3_the_example() {
        let challenge = challenge(b"pencil");
        assert_eq!(
            challenge.text,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let (user, ours) = challenge.finish(PROOF).unwrap();
        assert_eq!((&*user, &*ours), ("user", "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn another_password_or_nobody_is_refused_alike() {
        assert_eq!(challenge(b"pen").finish(PROOF).unwrap_err(), ScramFault::Credentials);
        let nobody = decoy(ScramMechanism::Sha256, [7; SALT_BYTES]).unwrap();
        let refused = Challenge::with_nonce(Hello::read(HELLO).unwrap(), nobody, OURS).finish(PROOF);
        assert_eq!(refused.unwrap_err(), ScramFault::Credentials);
    }

    #[test]
    fn what_is_not_of_the_exchange_is_refused() {
        for other in [&b"c=biws,r=rOprNGfwEbeRWgbNEkqO,p=dHzb"[..], b"c=eSws,r=x,p=dHzb", b"c=biws", b"", b"\xff,p="] {
            assert_eq!(challenge(b"pencil").finish(other).unwrap_err(), ScramFault::Malformed);
        }
        let short = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzb";
        assert_eq!(challenge(b"pencil").finish(short).unwrap_err(), ScramFault::Credentials);
    }

    #[test]
    fn a_nonce_that_is_said_twice_by_old_clients_is_taken_and_signed() {
        let password = b"pencil";
        let challenge = challenge(password);
        let signed = "c=biws,r=rOprNGfwEbeRWgbNEkqOrOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let mut salted = [0; 32];
        let (by, salt) = (algorithms(ScramMechanism::Sha256).0, STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap());
        pbkdf2::derive(by, ITERATIONS, &salt, password, &mut salted);
        let client_key = sign(ScramMechanism::Sha256, &salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let exchange = format!("n=user,r=rOprNGfwEbeRWgbNEkqO,{},{signed}", challenge.text);
        let signature = sign(ScramMechanism::Sha256, stored_key.as_ref(), exchange.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let message = format!("{signed},p={}", STANDARD.encode(proof));
        assert_eq!(challenge.finish(message.as_bytes()).unwrap().0, "user");
    }

    #[test]
    fn rfc5802_s5_1_names_and_what_is_not_taken() {
        assert_eq!(Hello::read(b"y,a=a=2Cb,n=a=2Cb,r=x").unwrap().user, "a,b");
        assert_eq!(Hello::read(b"n,a=eve,n=ann,r=x").unwrap_err(), ScramFault::ActsForAnother);
        assert_eq!(Hello::read(b"p=tls-unique,,n=ann,r=x").unwrap_err(), ScramFault::ChannelBinding);
        for bad in [
            &b"n,,n=a=b,r=x"[..],
            b"n,,n=,r=x",
            b"n,,n=ann,r=",
            b"n,,m=1,n=ann,r=x",
            b"n,,n=ann,r=x,m=1",
            b"n",
            b"q,,n=a,r=x",
        ] {
            assert_eq!(Hello::read(bad).unwrap_err(), ScramFault::Malformed, "{}", bad.escape_ascii());
        }
        assert_eq!(Hello::read(&[b'n'; MESSAGE_MAX + 1]).unwrap_err(), ScramFault::Malformed);
    }
}
