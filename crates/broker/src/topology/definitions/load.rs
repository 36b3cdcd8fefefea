//! Reading definitions back.

use thiserror::Error;
use waypost_model::{QueueId, SHARDS};

use super::{Kind, VERSION};
use crate::settings::QueueKind;
use crate::topology::acl::{Acl, AclEffect, AclOperation, AclPattern, AclResource};
use crate::topology::arguments::{QueueArguments, parse_kind};
use crate::topology::binding::{Bound, DestinationName, canonical};
use crate::topology::exchange::Exchange;
use crate::topology::kinds::{ExchangeKind, Index, Target};
use crate::topology::limits::{ParameterKey, UserLimits, VhostLimits};
use crate::topology::permission::{Permission, PermissionSpec, TopicPermission, TopicPermissionSpec};
use crate::topology::policy::{ApplyTo, Policy, PolicySort, PolicySpec};
use crate::topology::queue::{Asked, Declared};
use crate::topology::quota::{QuotaEntity, QuotaRates};
use crate::topology::scram::{ScramKeys, ScramMechanism};
use crate::topology::user::{HashingAlgorithm, PasswordHash, User, UserSpec};
use crate::topology::vhost::VhostMetadata;
use crate::topology::{Change, Topology, ids};
use waypost_model::record::{Malformed, Read, Reader};

/// Why definitions cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    /// A key begins with a byte that stands for nothing: written by a later release, or damaged.
    #[error("definition of unknown kind 0x{0:02x}")]
    UnknownKind(u8),
    /// Written by another release.
    #[error("definition {what} has format version {version}, this release reads {VERSION}")]
    UnknownVersion {
        /// Which definition.
        what: String,
        /// Its version.
        version: u8,
    },
    /// The bytes are not what the format says.
    #[error("definition {0} is malformed")]
    Malformed(String),
    /// It refers to something that is not there.
    #[error("definition {0} refers to something that is not defined")]
    Dangling(String),
    /// It says something that would be refused today.
    #[error("definition {what}: {why}")]
    Invalid {
        /// Which definition.
        what: String,
        /// What is wrong.
        why: String,
    },
}

/// Why one definition was not taken.
enum Fault {
    Malformed,
    Version(u8),
    Dangling,
    Invalid(String),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Fault {
        Fault::Malformed
    }
}

type Taken = Result<(), Fault>;

impl Topology {
    /// Reads the definitions of a journal, sorted by key. Where there are none at all, the first ones are made: vhost `/`
    /// and user `guest`, for this machine only; they are in the change.
    ///
    /// `seed` is 32 bytes that nobody can guess, different at each start.
    ///
    /// # Errors
    /// [`LoadError`]; nothing is left out in silence.
    pub fn load(definitions: &[(Box<[u8]>, Box<[u8]>)], seed: [u8; 32]) -> Result<(Topology, Change), LoadError> {
        let invalid = |e: waypost_model::Refusal| LoadError::Invalid { what: "of a new node".into(), why: e.text };
        let mut t = Topology::empty(seed).map_err(invalid)?;
        if definitions.is_empty() {
            let first = t.first_definitions().map_err(invalid)?;
            return Ok((t, first));
        }
        for (key, value) in definitions {
            t.take_definition(key, value)?;
        }
        t.assign_mailboxes();
        Ok((t, Change::default()))
    }

    fn take_definition(&mut self, key: &[u8], value: &[u8]) -> Result<(), LoadError> {
        let what = || key.escape_ascii().to_string();
        let Some((&first, rest)) = key.split_first() else {
            return Err(LoadError::Malformed(what()));
        };
        let kind = Kind::of(first).ok_or(LoadError::UnknownKind(first))?;
        self.take(kind, Reader::new(rest), Reader::new(value)).map_err(|fault| match fault {
            Fault::Malformed => LoadError::Malformed(what()),
            Fault::Version(version) => LoadError::UnknownVersion { what: what(), version },
            Fault::Dangling => LoadError::Dangling(what()),
            Fault::Invalid(why) => LoadError::Invalid { what: what(), why },
        })
    }

    fn take(&mut self, kind: Kind, mut k: Reader<'_>, mut v: Reader<'_>) -> Taken {
        let version = v.u8()?;
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        let (k, v) = (&mut k, &mut v);
        match kind {
            Kind::Ids => self.ids = ids::Ids::new(queue_number(v.varint()?)?),
            Kind::Vhost => self.take_vhost(k, v)?,
            Kind::VhostLimits => {
                let vhost = k.name()?;
                let limits = VhostLimits { max_connections: v.optional()?, max_queues: v.optional()? };
                self.vhosts.get_mut(&vhost).ok_or(Fault::Dangling)?.limits = limits;
            }
            Kind::User => self.take_user(k, v)?,
            Kind::UserLimits => {
                let user = k.name()?;
                let limits = UserLimits { max_connections: v.optional()?, max_channels: v.optional()? };
                self.users.get_mut(&user).ok_or(Fault::Dangling)?.limits = limits;
            }
            Kind::Permission => self.take_permission(k, v)?,
            Kind::TopicPermission => self.take_topic_permission(k, v)?,
            Kind::Scram => self.take_scram(k, v)?,
            Kind::Acl => self.take_acl(k)?,
            Kind::Quota => {
                let entity = QuotaEntity::of_keys(k.bytes()?, k.bytes()?).ok_or(Fault::Malformed)?;
                let [producer, consumer] = [v.optional()?, v.optional()?].map(|rate| rate.map(f64::from_bits));
                let rates = QuotaRates { producer, consumer };
                self.quotas.insert(entity, rates.is_sound().then_some(rates).ok_or(Fault::Malformed)?);
            }
            Kind::Parameter => {
                let vhost = Some(k.name()?).filter(|v| !v.is_empty());
                let key = ParameterKey { vhost, component: k.name()?, name: k.name()? };
                self.parameters.insert(key, v.str()?.into());
            }
            Kind::Policy => self.take_policy(k, v, PolicySort::User)?,
            Kind::OperatorPolicy => self.take_policy(k, v, PolicySort::Operator)?,
            Kind::Exchange => self.take_exchange(k, v)?,
            Kind::Queue => self.take_queue(k, v)?,
            Kind::Binding => self.take_binding(k, v)?,
        }
        k.end()?;
        v.end()?;
        Ok(())
    }

    fn take_vhost(&mut self, k: &mut Reader<'_>, v: &mut Reader<'_>) -> Taken {
        let name = k.name()?;
        let description = v.str()?.to_owned();
        let tags = v.strings()?;
        let default_queue_type = match v.str()? {
            "" => None,
            kind => Some(parse_kind(kind).ok_or(Fault::Malformed)?),
        };
        self.insert_vhost(&name, VhostMetadata { description, tags, default_queue_type });
        Ok(())
    }

    fn take_user(&mut self, k: &mut Reader<'_>, v: &mut Reader<'_>) -> Taken {
        let name = k.name()?;
        let algorithm = match v.u8()? {
            0 => None,
            1 => Some(HashingAlgorithm::Sha256),
            2 => Some(HashingAlgorithm::Sha512),
            _ => return Err(Fault::Malformed),
        };
        let password = match algorithm {
            Some(a) => Some(PasswordHash::from_bytes(a, v.bytes()?).ok_or(Fault::Malformed)?),
            None => None,
        };
        let tags = v.strings()?;
        let [loopback_only] = v.flags()?;
        let user = User::new(&name, UserSpec { password, tags, loopback_only });
        self.users.insert(name, user);
        Ok(())
    }

    fn take_permission(&mut self, k: &mut Reader<'_>, v: &mut Reader<'_>) -> Taken {
        let (user, vhost) = (k.name()?, k.name()?);
        let [configure, write, read] = [v.str()?, v.str()?, v.str()?].map(str::to_owned);
        let permission = Permission::new(&PermissionSpec { configure, write, read }).map_err(Fault::Invalid)?;
        let vhost = self.vhosts.get(&vhost).map(|v| v.name.clone()).ok_or(Fault::Dangling)?;
        self.users.get_mut(&user).ok_or(Fault::Dangling)?.permissions.insert(vhost, permission);
        Ok(())
    }

    fn take_topic_permission(&mut self, k: &mut Reader<'_>, v: &mut Reader<'_>) -> Taken {
        let (user, vhost, exchange) = (k.name()?, k.name()?, k.name()?);
        let [write, read] = [v.str()?, v.str()?].map(str::to_owned);
        let permission =
            TopicPermission::new(&TopicPermissionSpec { write, read }, &user, &vhost).map_err(Fault::Invalid)?;
        let vhost = self.vhosts.get(&vhost).map(|v| v.name.clone()).ok_or(Fault::Dangling)?;
        let u = self.users.get_mut(&user).ok_or(Fault::Dangling)?;
        u.topic_permissions.entry(vhost).or_default().insert(exchange, permission);
        Ok(())
    }

    fn take_scram(&mut self, k: &mut Reader<'_>, v: &mut Reader<'_>) -> Taken {
        let (user, mechanism) = (k.name()?, ScramMechanism::parse(k.str()?).ok_or(Fault::Malformed)?);
        let iterations = v.number()?;
        let [salt, stored_key, server_key] = [v.bytes()?, v.bytes()?, v.bytes()?].map(Box::from);
        let keys = ScramKeys { mechanism, iterations, salt, stored_key, server_key };
        if !keys.is_sound() {
            return Err(Fault::Malformed);
        }
        self.users.get_mut(&user).ok_or(Fault::Dangling)?.scram.push(keys);
        Ok(())
    }

    fn take_acl(&mut self, k: &mut Reader<'_>) -> Taken {
        let (vhost, name, principal, host) = (k.name()?, k.name()?, k.name()?, k.name()?);
        let &[resource, pattern, operation, effect] = k.bytes()? else { return Err(Fault::Malformed) };
        let acl = Acl {
            resource: AclResource::of(resource).ok_or(Fault::Malformed)?,
            pattern: AclPattern::of(pattern).ok_or(Fault::Malformed)?,
            name,
            principal,
            host,
            operation: AclOperation::of(operation).ok_or(Fault::Malformed)?,
            effect: AclEffect::of(effect).ok_or(Fault::Malformed)?,
        };
        let vhost = self.vhosts.get(&vhost).map(|v| v.name.clone()).ok_or(Fault::Dangling)?;
        self.insert_acl(vhost, &acl);
        Ok(())
    }

    fn take_policy(&mut self, k: &mut Reader<'_>, v: &mut Reader<'_>, sort: PolicySort) -> Taken {
        let (vhost, name) = (k.name()?, k.name()?);
        let spec = PolicySpec {
            pattern: v.str()?.to_owned(),
            apply_to: ApplyTo::parse(v.str()?).ok_or(Fault::Malformed)?,
            priority: v.signed()?,
            definition: v.table()?,
        };
        let policy = Policy::new(&name, &spec, sort == PolicySort::Operator).map_err(Fault::Invalid)?;
        self.vhosts.get_mut(&vhost).ok_or(Fault::Dangling)?.policies_of(sort).put(policy);
        Ok(())
    }

    fn take_exchange(&mut self, k: &mut Reader<'_>, v: &mut Reader<'_>) -> Taken {
        let (vhost, name) = (k.name()?, k.name()?);
        let kind = ExchangeKind::parse(v.str()?).ok_or(Fault::Malformed)?;
        let [auto_delete, internal, delayed] = v.flags()?;
        let delay_queue = if delayed { Some(self.take_queue_id(v)?) } else { None };
        let mut x = Exchange::predeclared(self.next_exchange_id(), &name, kind, internal, self.seeded);
        x.auto_delete = auto_delete;
        x.arguments = v.table()?;
        x.index = Index::new(kind, &x.arguments, self.seeded);
        x.delay_queue = delay_queue;
        let there = self.vhosts.get(&vhost).ok_or(Fault::Dangling)?.exchange(&name).is_some();
        if there {
            return Err(Fault::Malformed);
        }
        self.insert_exchange(&vhost, x).map(|_| ()).map_err(|e| Fault::Invalid(e.text))
    }

    fn take_queue(&mut self, k: &mut Reader<'_>, v: &mut Reader<'_>) -> Taken {
        let (vhost, name) = (k.name()?, k.name()?);
        let id = QueueId(v.varint()?);
        let kind = parse_kind(v.str()?).ok_or(Fault::Malformed)?;
        if id.is_stream() != (kind == QueueKind::Stream) {
            return Err(Fault::Malformed);
        }
        self.check_queue_id(id)?;
        let [auto_delete, implicit, adopted, durable, as_asked] = v.flags()?;
        let arguments = v.table()?;
        let vhost = self.vhosts.get(&vhost).ok_or(Fault::Dangling)?.name.clone();
        let declared =
            Declared { id, vhost, name, durable: true, exclusive: None, auto_delete, kind, service: None, implicit };
        let parsed = QueueArguments::read(&arguments);
        let settings = self.insert_queue(declared, parsed, arguments).map_err(|e| Fault::Invalid(e.text))?;
        let v = self.vhosts.get_mut(&settings.vhost).ok_or(Fault::Dangling)?;
        let q = v.queues.get_mut(&settings.name).ok_or(Fault::Dangling)?;
        q.asked = adopted.then_some(Asked { durable, auto_delete: as_asked });
        Ok(())
    }

    /// A queue's id; two queues never have the same.
    fn take_queue_id(&mut self, v: &mut Reader<'_>) -> Result<QueueId, Fault> {
        let id = QueueId(v.varint()?);
        self.check_queue_id(id)?;
        Ok(id)
    }

    fn check_queue_id(&mut self, id: QueueId) -> Taken {
        if self.queues.contains_key(&id) {
            return Err(Fault::Malformed);
        }
        // Streams are numbered by their keeper.
        if !id.is_stream() {
            queue_number(id.0 / SHARDS as u64)?;
            self.ids.skip(id);
        }
        Ok(())
    }

    fn take_binding(&mut self, k: &mut Reader<'_>, v: &mut Reader<'_>) -> Taken {
        let (vhost, source, sort, destination) = (k.name()?, k.name()?, k.bytes()?, k.name()?);
        let key = k.bytes()?.into();
        let hashed = k.bytes()?;
        let arguments = v.table()?;
        let there = self.vhosts.get_mut(&vhost).ok_or(Fault::Dangling)?;
        let x = there.exchange(&source).ok_or(Fault::Dangling)?;
        let (destination, target) = match sort {
            b"q" => {
                let q = there.queues.get(&destination).ok_or(Fault::Dangling)?;
                (DestinationName::Queue(q.settings.name.clone()), Target::Queue(q.settings.id))
            }
            b"e" => {
                let to = there.exchange(&destination).ok_or(Fault::Dangling)?;
                (DestinationName::Exchange(to.name.clone()), Target::Exchange(to.id))
            }
            _ => return Err(Fault::Malformed),
        };
        let canonical = canonical(&arguments);
        if hashed.is_empty() != canonical.is_empty() {
            return Err(Fault::Malformed);
        }
        let (source, id) = (x.name.clone(), x.id);
        there.link(id, Bound { source, destination, key, arguments, canonical, target, durable: true });
        Ok(())
    }
}

/// A number that leaves room for as many queues as anybody will ever declare.
fn queue_number(n: u64) -> Read<u64> {
    if n < 1 << 56 { Ok(n) } else { Err(Malformed("number")) }
}
