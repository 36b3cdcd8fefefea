//! Access control lists, as Kafka has them: who may do what with which topics, groups and transactional ids, from where.
//!
//! Where no list speaks of a name, the users' permissions by regular expression decide. Administrators may do everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::Refusal;

use super::acl_filter::AclFilter;
use super::{Access, Change, NAME_BYTES_MAX, Resource, Topology, definitions};

/// How many rules a node may have. Further ones are refused with 406.
pub const ACLS_MAX: usize = 100_000;
/// The literal name that stands for all.
pub const WILDCARD: &str = "*";
/// What stands in front of a user's name.
const USER: &str = "User:";

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $case:ident = $code:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$about])* $case = $code,)*
        }

        impl $name {
            /// The one of a number of Kafka's.
            #[must_use]
            pub const fn of(code: u8) -> Option<$name> {
                match code {
                    $($code => Some(Self::$case),)*
                    _ => None,
                }
            }

            /// What it is called in the API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$case => $text,)*
                }
            }

            /// All of them.
            pub const EVERY: &'static [$name] = &[$(Self::$case,)*];
        }

        impl std::str::FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                Self::EVERY.iter().copied().find(|one| one.name() == text).ok_or(())
            }
        }
    };
}

codes! {
    /// What a rule is about. The numbers are Kafka's, and in definitions.
    AclResource {
        /// A topic.
        Topic = 2 "topic",
        /// A consumer group.
        Group = 3 "group",
        /// The node as a whole; its one name is `kafka-cluster`.
        Cluster = 4 "cluster",
        /// A transactional id.
        TransactionalId = 5 "transactional_id",
    }
}

codes! {
    /// How a rule names it.
    AclPattern {
        /// By its name; `*` means all.
        Literal = 3 "literal",
        /// By how the name begins.
        Prefixed = 4 "prefixed",
    }
}

codes! {
    /// What somebody wants to do.
    AclOperation {
        /// Everything.
        All = 2 "all",
        /// Fetch, join, commit.
        Read = 3 "read",
        /// Produce.
        Write = 4 "write",
        /// Make.
        Create = 5 "create",
        /// Remove, or records of it.
        Delete = 6 "delete",
        /// Change what it is.
        Alter = 7 "alter",
        /// See that it is there.
        Describe = 8 "describe",
        /// What brokers do among themselves.
        ClusterAction = 9 "cluster_action",
        /// See how it is configured.
        DescribeConfigs = 10 "describe_configs",
        /// Configure it.
        AlterConfigs = 11 "alter_configs",
        /// Produce with idempotence, without any topic to write to.
        IdempotentWrite = 12 "idempotent_write",
    }
}

impl From<Access> for AclOperation {
    fn from(access: Access) -> AclOperation {
        match access {
            Access::Configure => AclOperation::Alter,
            Access::Write => AclOperation::Write,
            Access::Read => AclOperation::Read,
        }
    }
}

codes! {
    /// What a rule says.
    AclEffect {
        /// No, whatever others say.
        Deny = 2 "deny",
        /// Yes.
        Allow = 3 "allow",
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acl {
    /// What it is about.
    pub resource: AclResource,
    /// How that is named.
    pub pattern: AclPattern,
    /// The name, or its beginning.
    pub name: Arc<str>,
    /// `User:NAME`, or `User:*` for everybody.
    pub principal: Arc<str>,
    /// An address, or `*`.
    pub host: Arc<str>,
    /// What is done.
    pub operation: AclOperation,
    /// Whether it may be.
    pub effect: AclEffect,
}

/// Somebody, for whom it is asked.
#[derive(Debug, Clone, Copy)]
pub struct AclSubject<'a> {
    /// The user's name.
    pub user: &'a str,
    /// Where he comes from.
    pub host: &'a str,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    principal: Arc<str>,
    host: Arc<str>,
    operation: AclOperation,
    effect: AclEffect,
}

impl Rule {
    fn of(acl: &Acl) -> Rule {
        let (principal, host) = (Arc::clone(&acl.principal), Arc::clone(&acl.host));
        Rule { principal, host, operation: acl.operation, effect: acl.effect }
    }

    fn named(&self, resource: AclResource, pattern: AclPattern, name: &Arc<str>) -> Acl {
        Acl {
            resource,
            pattern,
            name: Arc::clone(name),
            principal: Arc::clone(&self.principal),
            host: Arc::clone(&self.host),
            operation: self.operation,
            effect: self.effect,
        }
    }

    fn meets(&self, who: AclSubject<'_>) -> bool {
        let user = self.principal.strip_prefix(USER);
        let names = user.is_some_and(|u| u == who.user || u == WILDCARD);
        names && (*self.host == *WILDCARD || *self.host == *who.host)
    }

    fn is_of(&self, operation: AclOperation) -> bool {
        use AclOperation::{All, Alter, AlterConfigs, Delete, Describe, DescribeConfigs, Read, Write};
        let implied = self.effect == AclEffect::Allow
            && match operation {
                Describe => matches!(self.operation, Read | Write | Delete | Alter),
                DescribeConfigs => self.operation == AlterConfigs,
                _ => false,
            };
        self.operation == All || self.operation == operation || implied
    }
}

/// What rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allowed,
    Denied,
    /// No rule speaks of it.
    Unsaid,
}

/// The rules of a vhost.
#[derive(Debug, Default)]
pub(crate) struct Acls(BTreeMap<(AclResource, AclPattern), BTreeMap<Arc<str>, BTreeSet<Rule>>>);

impl Acls {
    fn put(&mut self, acl: &Acl) -> bool {
        let named = self.0.entry((acl.resource, acl.pattern)).or_default();
        named.entry(Arc::clone(&acl.name)).or_default().insert(Rule::of(acl))
    }

    fn has(&self, acl: &Acl) -> bool {
        let named = self.0.get(&(acl.resource, acl.pattern)).and_then(|named| named.get(&acl.name));
        named.is_some_and(|rules| rules.contains(&Rule::of(acl)))
    }

    fn all(&self) -> impl Iterator<Item = Acl> {
        self.0.iter().flat_map(|((resource, pattern), named)| {
            named.iter().flat_map(|(name, rules)| rules.iter().map(|r| r.named(*resource, *pattern, name)))
        })
    }

    /// Drops rules; those that went.
    fn remove(&mut self, filter: &AclFilter<'_>) -> Vec<Acl> {
        let mut gone = Vec::new();
        for ((resource, pattern), named) in self.0.iter_mut().filter(|((r, p), _)| filter.is_kind(*r, *p)) {
            let mut drop_from = |name: &Arc<str>, rules: &mut BTreeSet<Rule>| {
                let before = gone.len();
                gone.extend(rules.iter().map(|r| r.named(*resource, *pattern, name)).filter(|acl| filter.matches(acl)));
                if gone.len() - before == rules.len() {
                    return false;
                }
                for acl in gone.iter().skip(before) {
                    rules.remove(&Rule::of(acl));
                }
                true
            };
            match filter.names(*pattern) {
                None => named.retain(drop_from),
                Some(names) => {
                    for name in names {
                        let Some((name, mut rules)) = named.remove_entry(name) else { continue };
                        if drop_from(&name, &mut rules) {
                            named.insert(name, rules);
                        }
                    }
                }
            }
        }
        gone
    }

    /// The rules that speak of a name.
    fn of<'a>(&'a self, resource: AclResource, name: &'a str) -> impl Iterator<Item = &'a Rule> {
        let literal = self.0.get(&(resource, AclPattern::Literal));
        let literal = literal.into_iter().flat_map(move |named| [named.get(name), named.get(WILDCARD)]);
        let prefixed = self.0.get(&(resource, AclPattern::Prefixed));
        let prefixes = (0..=name.len()).filter_map(move |end| name.get(..end));
        let prefixed = prefixed.into_iter().flat_map(move |named| prefixes.clone().map(|prefix| named.get(prefix)));
        literal.chain(prefixed).flatten().flatten()
    }

    fn decide(&self, resource: AclResource, name: &str, operation: AclOperation, who: AclSubject<'_>) -> Verdict {
        let mut verdict = Verdict::Unsaid;
        for rule in self.of(resource, name) {
            let applies = rule.meets(who) && rule.is_of(operation);
            match rule.effect {
                AclEffect::Deny if applies => return Verdict::Denied,
                AclEffect::Allow if applies => verdict = Verdict::Allowed,
                // Somebody has thought of this name: who is not named has nothing to do with it.
                _ if verdict == Verdict::Unsaid => verdict = Verdict::Denied,
                _ => {}
            }
        }
        verdict
    }
}

/// A host of a rule in the one form in which addresses are compared: the same address can be written in several ways.
pub(super) fn canonical_host(host: &str) -> Option<Arc<str>> {
    if host == WILDCARD {
        return Some(host.into());
    }
    let address = host.parse::<std::net::IpAddr>().ok()?;
    Some(address.to_canonical().to_string().into())
}

impl Acl {
    fn check(&self) -> Result<(), Refusal> {
        let bad = |why: &str| Err(Refusal::precondition_failed(why.to_owned()));
        let texts = [&self.name, &self.principal, &self.host];
        if texts.iter().any(|t| t.is_empty() || t.len() > NAME_BYTES_MAX + USER.len()) {
            return bad("a rule has a name, a principal and a host of at most 255 bytes each");
        }
        if self.principal.strip_prefix(USER).is_none_or(str::is_empty) {
            return bad("a principal is `User:NAME` or `User:*`");
        }
        if canonical_host(&self.host).is_none() {
            return bad("a host is an IP address or `*`");
        }
        if self.resource == AclResource::Cluster
            && (*self.name != *"kafka-cluster" || self.pattern != AclPattern::Literal)
        {
            return bad("the cluster's only name is `kafka-cluster`");
        }
        Ok(())
    }
}

impl Topology {
    /// Whether somebody may do something: by the rules of the vhost, and where none speaks of the name, by permissions.
    #[must_use]
    pub fn allows(
        &self,
        who: AclSubject<'_>,
        vhost: &str,
        resource: AclResource,
        name: &str,
        operation: AclOperation,
    ) -> bool {
        if who.user == Self::OPERATOR || self.has_tag(who.user, "administrator") {
            return true;
        }
        let verdict = self.acls.get(vhost).map_or(Verdict::Unsaid, |a| a.decide(resource, name, operation, who));
        match verdict {
            Verdict::Allowed => self.users.contains_key(who.user),
            Verdict::Denied => false,
            Verdict::Unsaid if resource == AclResource::Cluster => {
                operation == AclOperation::Describe && self.has_tag(who.user, "monitoring")
            }
            Verdict::Unsaid => self.permits(who.user, vhost, name, operation),
        }
    }

    fn permits(&self, user: &str, vhost: &str, name: &str, operation: AclOperation) -> bool {
        let access = match operation {
            AclOperation::Read => Access::Read,
            AclOperation::Write | AclOperation::IdempotentWrite => Access::Write,
            AclOperation::Describe | AclOperation::DescribeConfigs => {
                return self.check_any(user, vhost, Resource::Queue, name).is_ok();
            }
            _ => Access::Configure,
        };
        self.check(user, vhost, access, Resource::Queue, name).is_ok()
    }

    /// All rules of a vhost, in order.
    #[must_use]
    pub fn acls(&self, vhost: &str) -> Vec<Acl> {
        self.acls.get(vhost).into_iter().flat_map(Acls::all).collect()
    }

    /// How many rules there are in all vhosts.
    #[must_use]
    pub fn acl_count(&self) -> usize {
        self.acl_count
    }

    /// Adds a rule. That it is there already is fine.
    ///
    /// # Errors
    /// 404 (vhost), 406.
    pub fn put_acl(&mut self, vhost: &str, acl: &Acl) -> Result<Change, Refusal> {
        acl.check()?;
        let acl = &Acl { host: canonical_host(&acl.host).unwrap_or_else(|| Arc::clone(&acl.host)), ..acl.clone() };
        let Some(name) = self.vhosts.get(vhost).map(|v| Arc::clone(&v.name)) else {
            return Err(Refusal::not_found(format!("no vhost '{vhost}'")));
        };
        if self.acl_count >= ACLS_MAX && !self.acls.get(vhost).is_some_and(|acls| acls.has(acl)) {
            return Err(Refusal::precondition_failed(format!("there are {ACLS_MAX} rules already")));
        }
        if !self.insert_acl(name, acl) {
            return Ok(Change::default());
        }
        self.touch();
        Ok(Change::define(definitions::put_acl(vhost, acl)))
    }

    /// Whether it is new.
    pub(crate) fn insert_acl(&mut self, vhost: Arc<str>, acl: &Acl) -> bool {
        let new = self.acls.entry(vhost).or_default().put(acl);
        self.acl_count += usize::from(new);
        new
    }

    /// Removes rules of a vhost; those that went.
    pub fn remove_acls(&mut self, vhost: &str, filter: &AclFilter<'_>) -> (Vec<Acl>, Change) {
        let gone = self.acls.get_mut(vhost).map(|acls| acls.remove(filter)).unwrap_or_default();
        self.acl_count -= gone.len();
        let mut change = Change::default();
        change.ops.extend(gone.iter().map(|acl| definitions::remove_acl(vhost, acl)));
        if !gone.is_empty() {
            self.touch();
        }
        (gone, change)
    }

    /// Removes all rules of a vhost.
    pub(crate) fn forget_acls(&mut self, vhost: &str, change: &mut Change) {
        change.merge(self.remove_acls(vhost, &AclFilter::ALL).1);
        self.acls.remove(vhost);
    }
}
