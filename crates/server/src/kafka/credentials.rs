//! Keys of SCRAM, shown and changed.

use std::collections::{BTreeMap, BTreeSet};

use waypost_broker::broker::admin::{NewPassword, UserUpdate};
use waypost_broker::topology::{AclOperation, ScramMechanism};
use waypost_kafka::messages::security::*;
use waypost_kafka::wire::Malformed;
use waypost_model::{Lsn, RefusalKind};

use super::{Answer, Ask, Session, Who, codes};
use crate::scram;

/// Why something is not done: code and words.
type Refused = (i16, String);

/// The mechanism of a number of the protocol's.
fn mechanism(code: i8) -> Result<ScramMechanism, Refused> {
    match code {
        1 => Ok(ScramMechanism::Sha256),
        2 => Ok(ScramMechanism::Sha512),
        _ => Err((codes::UNSUPPORTED_SASL_MECHANISM, "SCRAM-SHA-256 and SCRAM-SHA-512 are known".to_owned())),
    }
}

const fn code(mechanism: ScramMechanism) -> i8 {
    match mechanism {
        ScramMechanism::Sha256 => 1,
        ScramMechanism::Sha512 => 2,
    }
}

impl Session {
    pub(super) fn describe_scram(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeUserScramCredentialsRequest = ask.read()?;
        if !self.may_cluster(AclOperation::Describe) {
            return Ok(ask.now(&DescribeUserScramCredentialsResponse {
                error_code: codes::CLUSTER_AUTHORIZATION_FAILED,
                error_message: Some("not permitted".into()),
                ..DescribeUserScramCredentialsResponse::default()
            }));
        }
        let known = self.node.broker.scram_users();
        let shown = |name: &str, keys: &[(ScramMechanism, u32)]| DescribeUserScramCredentialsResult {
            user: name.into(),
            error_message: None,
            credential_infos: keys
                .iter()
                .map(|(m, iterations)| CredentialInfo {
                    mechanism: code(*m),
                    iterations: i32::try_from(*iterations).unwrap_or(i32::MAX),
                })
                .collect(),
            ..DescribeUserScramCredentialsResult::default()
        };
        let failed = |name: &str, error_code, why: &str| DescribeUserScramCredentialsResult {
            user: name.into(),
            error_code,
            error_message: Some(why.into()),
            ..DescribeUserScramCredentialsResult::default()
        };
        let mut wanted: BTreeMap<Box<str>, usize> = BTreeMap::new();
        for user in request.users.unwrap_or_default() {
            *wanted.entry(user.name).or_default() += 1;
        }
        let results = if wanted.is_empty() {
            known.iter().map(|(name, keys)| shown(name, keys)).collect()
        } else {
            let one = |(name, times): (&str, usize)| {
                if times > 1 {
                    return failed(name, codes::DUPLICATE_RESOURCE, "the user is named twice");
                }
                match known.binary_search_by(|(known, _)| (**known).cmp(name)).ok().and_then(|at| known.get(at)) {
                    Some((_, keys)) => shown(name, keys),
                    None => failed(name, codes::RESOURCE_NOT_FOUND, "the user has no keys of SCRAM"),
                }
            };
            wanted.iter().map(|(name, times)| one((&**name, *times))).collect()
        };
        Ok(ask.now(&DescribeUserScramCredentialsResponse { error_message: None, results, ..Default::default() }))
    }

    pub(super) fn alter_scram(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: AlterUserScramCredentialsRequest = ask.read()?;
        let names = request.deletions.iter().map(|d| (&*d.name, d.mechanism));
        let names: Vec<(&str, i8)> = names.chain(request.upsertions.iter().map(|u| (&*u.name, u.mechanism))).collect();
        let mut faults = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let allowed = self.may_cluster(AclOperation::Alter);
        let administrates = match &self.who {
            Who::Operator => true,
            Who::User(name) => self.is_administrator(name),
            Who::Nobody => false,
        };
        for (name, mechanism) in &names {
            if !allowed {
                faults.insert(*name, (codes::CLUSTER_AUTHORIZATION_FAILED, "not permitted".to_owned()));
            } else if !administrates && self.is_administrator(name) {
                // Who may alter the node may do much, but not become whoever may do everything.
                faults.insert(*name, (codes::CLUSTER_AUTHORIZATION_FAILED, "an administrator's keys".to_owned()));
            } else if !seen.insert((*name, *mechanism)) {
                faults.insert(*name, (codes::DUPLICATE_RESOURCE, "the same keys twice".to_owned()));
            }
        }
        let mut lsn = None;
        for deletion in request.deletions.iter().filter(|_| allowed) {
            if !faults.contains_key(&*deletion.name) {
                self.delete_keys(deletion, &mut lsn).err().map(|e| faults.insert(&*deletion.name, e));
            }
        }
        for upsertion in request.upsertions.iter().filter(|_| allowed) {
            if !faults.contains_key(&*upsertion.name) {
                self.put_keys(upsertion, &mut lsn).err().map(|e| faults.insert(&*upsertion.name, e));
            }
        }
        let users: BTreeSet<&str> = names.iter().map(|(name, _)| *name).collect();
        let result = |user: &str| {
            let (error_code, error_message) = match faults.get(user) {
                Some((code, why)) => (*code, Some(why.as_str().into())),
                None => (codes::NONE, None),
            };
            AlterUserScramCredentialsResult { user: user.into(), error_code, error_message }
        };
        let results = users.into_iter().map(result).collect();
        Ok(ask.after(lsn, &AlterUserScramCredentialsResponse { results, ..Default::default() }))
    }

    fn is_administrator(&self, user: &str) -> bool {
        let tags = self.node.broker.user(user).map(|user| user.spec.tags);
        tags.is_ok_and(|tags| tags.iter().any(|tag| tag == "administrator"))
    }

    fn delete_keys(&self, deletion: &ScramCredentialDeletion, lsn: &mut Option<Lsn>) -> Result<(), Refused> {
        let mechanism = mechanism(deletion.mechanism)?;
        let deleted = self.node.broker.delete_scram(&deletion.name, mechanism, self.node.clock.now());
        *lsn = (*lsn).max(deleted.map_err(|e| (codes::RESOURCE_NOT_FOUND, e.text.to_string()))?);
        Ok(())
    }

    /// A user who is not there yet is made, without a password: Kafka's users are what they have keys for.
    fn put_keys(&self, upsertion: &ScramCredentialUpsertion, lsn: &mut Option<Lsn>) -> Result<(), Refused> {
        let unacceptable = |why: &str| (codes::UNACCEPTABLE_CREDENTIAL, why.to_owned());
        let mechanism = mechanism(upsertion.mechanism)?;
        let iterations = u32::try_from(upsertion.iterations).map_err(|_| unacceptable("too few iterations"))?;
        if upsertion.salted_password.len() != mechanism.bytes() {
            return Err(unacceptable("the salted password has another length than the mechanism's hash"));
        }
        let keys = scram::keys_of_salted(mechanism, iterations, &upsertion.salt, &upsertion.salted_password);
        let (broker, now) = (&self.node.broker, self.node.clock.now());
        let written = match broker.put_scram(&upsertion.name, keys.clone(), now) {
            Err(e) if e.kind == RefusalKind::NotFound => {
                let update = UserUpdate { password: NewPassword::Clear, tags: None, loopback_only: None };
                broker.put_user_with(&upsertion.name, &update, vec![keys], now)
            }
            done => done,
        };
        *lsn = (*lsn).max(written.map_err(|e| unacceptable(&e.text))?);
        Ok(())
    }
}
