//! Which rules are meant, among all of a vhost.

use super::NAME_BYTES_MAX;
use super::acl::{Acl, AclEffect, AclOperation, AclPattern, AclResource, WILDCARD, canonical_host};

/// Which names rules are to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclNames<'a> {
    /// Any.
    All,
    /// Just this, whether rules take it for a name or for the beginning of one.
    Written(&'a str),
    /// Whatever speaks of this name: as it is, by its beginning, or of all.
    Matching(&'a str),
}

/// What is `None` may be anything.
#[derive(Debug, Clone)]
pub struct AclFilter<'a> {
    /// What rules are about.
    pub resource: Option<AclResource>,
    /// Their names.
    pub names: AclNames<'a>,
    /// How they name it.
    pub pattern: Option<AclPattern>,
    /// Whom they mean, as they say it.
    pub principal: Option<&'a str>,
    /// The address, as they say it.
    pub host: Option<&'a str>,
    /// What is done.
    pub operation: Option<AclOperation>,
    /// What they say.
    pub effect: Option<AclEffect>,
}

impl<'a> AclFilter<'a> {
    /// All rules.
    pub const ALL: AclFilter<'static> = AclFilter {
        resource: None,
        names: AclNames::All,
        pattern: None,
        principal: None,
        host: None,
        operation: None,
        effect: None,
    };

    /// Whether a rule is meant.
    #[must_use]
    pub fn matches(&self, acl: &Acl) -> bool {
        let named = match self.names {
            AclNames::All => true,
            AclNames::Written(name) => *acl.name == *name,
            AclNames::Matching(name) => match acl.pattern {
                AclPattern::Literal => *acl.name == *name || *acl.name == *WILDCARD,
                AclPattern::Prefixed => name.starts_with(&*acl.name),
            },
        };
        named
            && self.is_kind(acl.resource, acl.pattern)
            && self.operation.is_none_or(|o| o == acl.operation)
            && self.effect.is_none_or(|e| e == acl.effect)
            && self.principal.is_none_or(|p| *p == *acl.principal)
            && self.host.is_none_or(|h| *h == *acl.host || canonical_host(h).is_some_and(|h| *h == *acl.host))
    }

    pub(super) fn is_kind(&self, resource: AclResource, pattern: AclPattern) -> bool {
        self.resource.is_none_or(|r| r == resource) && self.pattern.is_none_or(|p| p == pattern)
    }

    /// The names under which such rules are found; `None`: any.
    pub(super) fn names(&self, pattern: AclPattern) -> Option<Vec<&'a str>> {
        match (self.names, pattern) {
            (AclNames::All, _) => None,
            (AclNames::Written(name), _) => Some(vec![name]),
            (AclNames::Matching(WILDCARD), AclPattern::Literal) => Some(vec![WILDCARD]),
            (AclNames::Matching(name), AclPattern::Literal) => Some(vec![name, WILDCARD]),
            (AclNames::Matching(name), AclPattern::Prefixed) => {
                let last = name.len().min(NAME_BYTES_MAX + 8);
                Some((1..=last).filter_map(|end| name.get(..end)).collect())
            }
        }
    }

    /// About how many rules are looked at, where there are so many.
    #[must_use]
    pub fn cost(&self, rules: usize) -> usize {
        match self.names {
            AclNames::All => rules.max(1),
            AclNames::Written(_) => 1,
            AclNames::Matching(name) => name.len().clamp(1, NAME_BYTES_MAX),
        }
    }
}
