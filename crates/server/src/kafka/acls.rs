//! Access control lists: asked for, made, removed; and what a peer may do.

use waypost_broker::broker::admin::Actor;
use waypost_broker::topology::{Acl, AclEffect, AclFilter, AclNames, AclOperation, AclPattern, AclResource};
use waypost_kafka::messages::security::*;
use waypost_kafka::wire::Malformed;

use super::{Answer, Ask, Session, Who, codes};

/// The node, as rules name it.
const CLUSTER: &str = "kafka-cluster";
/// What means whatever there is, in filters.
const ANY: i8 = 1;
/// Patterns that speak of a name, however they name it.
const MATCH: i8 = 2;
/// Rules that the filters of one request may look at: a filter without a name looks at all of them.
const LOOKED_AT_MAX: usize = 10_000_000;
/// Who comes to a listener that is open, as rules and quotas name it.
pub(super) const ANONYMOUS: &str = "ANONYMOUS";

/// Operations that are asked of each kind of resource.
const OF_TOPICS: &[AclOperation] = &[
    AclOperation::Read,
    AclOperation::Write,
    AclOperation::Create,
    AclOperation::Delete,
    AclOperation::Alter,
    AclOperation::Describe,
    AclOperation::DescribeConfigs,
    AclOperation::AlterConfigs,
];
const OF_GROUPS: &[AclOperation] = &[AclOperation::Read, AclOperation::Delete, AclOperation::Describe];
const OF_THE_CLUSTER: &[AclOperation] = &[
    AclOperation::Create,
    AclOperation::Alter,
    AclOperation::Describe,
    AclOperation::ClusterAction,
    AclOperation::DescribeConfigs,
    AclOperation::AlterConfigs,
    AclOperation::IdempotentWrite,
];

impl Session {
    /// Whether the peer may do something with a topic.
    pub(super) fn may(&self, operation: impl Into<AclOperation>, topic: &str) -> bool {
        self.may_do(AclResource::Topic, operation.into(), topic)
    }

    pub(super) fn may_group(&self, operation: AclOperation, group: &str) -> bool {
        self.may_do(AclResource::Group, operation, group)
    }

    pub(super) fn may_cluster(&self, operation: AclOperation) -> bool {
        self.may_do(AclResource::Cluster, operation, CLUSTER)
    }

    /// Whether the peer may make topics of this name.
    pub(super) fn may_create(&self, topic: &str) -> bool {
        self.may_cluster(AclOperation::Create) || self.may(AclOperation::Create, topic)
    }

    pub(super) fn may_do(&self, resource: AclResource, operation: AclOperation, name: &str) -> bool {
        let actor = match &self.who {
            Who::Nobody => return false,
            Who::Operator => Actor::Operator,
            Who::User(name) => Actor::User(name),
        };
        self.node.broker.allows(actor, &self.host_text, &self.vhost, resource, name, operation)
    }

    /// What the peer may do with something, a bit for each operation. KIP-430.
    pub(super) fn operations(&self, resource: AclResource, name: &str) -> i32 {
        let asked = match resource {
            AclResource::Topic => OF_TOPICS,
            AclResource::Cluster => OF_THE_CLUSTER,
            _ => OF_GROUPS,
        };
        let may = asked.iter().filter(|operation| self.may_do(resource, **operation, name));
        may.fold(0, |bits, operation| bits | 1 << (*operation as u8))
    }

    /// The same of the node.
    pub(super) fn cluster_operations(&self) -> i32 {
        self.operations(AclResource::Cluster, CLUSTER)
    }

    pub(super) fn describe_acls(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeAclsRequest = ask.read()?;
        let filter = Filter {
            resource: request.resource_type_filter,
            name: request.resource_name_filter.as_deref(),
            pattern: request.pattern_type_filter,
            principal: request.principal_filter.as_deref(),
            host: request.host_filter.as_deref(),
            operation: request.operation,
            effect: request.permission_type,
        };
        let failed = |error_code, why: &str| DescribeAclsResponse {
            error_code,
            error_message: Some(why.into()),
            ..DescribeAclsResponse::default()
        };
        if !self.may_cluster(AclOperation::Describe) {
            return Ok(ask.now(&failed(codes::CLUSTER_AUTHORIZATION_FAILED, "not permitted")));
        }
        let filter = match filter.known() {
            Ok(filter) => filter,
            Err(why) => return Ok(ask.now(&failed(codes::INVALID_REQUEST, why))),
        };
        let meant = |acl: &Acl| filter.as_ref().is_some_and(|filter| filter.matches(acl));
        let mut resources: Vec<DescribeAclsResource> = Vec::new();
        // In order of what they are about.
        for acl in self.node.broker.acls(&self.vhost).into_iter().filter(meant) {
            let (resource_type, pattern_type) = (acl.resource as i8, acl.pattern as i8);
            let description = AclDescription {
                principal: (*acl.principal).into(),
                host: (*acl.host).into(),
                operation: acl.operation as i8,
                permission_type: acl.effect as i8,
            };
            let same = |r: &&mut DescribeAclsResource| {
                (r.resource_type, r.pattern_type, &*r.resource_name) == (resource_type, pattern_type, &*acl.name)
            };
            match resources.last_mut().filter(same) {
                Some(resource) => resource.acls.push(description),
                None => resources.push(DescribeAclsResource {
                    resource_type,
                    resource_name: (*acl.name).into(),
                    pattern_type,
                    acls: vec![description],
                }),
            }
        }
        Ok(ask.now(&DescribeAclsResponse { error_message: None, resources, ..DescribeAclsResponse::default() }))
    }

    pub(super) fn create_acls(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: CreateAclsRequest = ask.read()?;
        let allowed = self.may_cluster(AclOperation::Alter);
        let mut lsn = None;
        let mut one = |creation: &AclCreation| {
            let made = match rule(creation) {
                _ if !allowed => Err((codes::CLUSTER_AUTHORIZATION_FAILED, "not permitted".to_owned())),
                Err(why) => Err((codes::INVALID_REQUEST, why.to_owned())),
                Ok(acl) => self
                    .node
                    .broker
                    .put_acl(&self.vhost, &acl, self.node.clock.now())
                    .map_err(|e| (codes::INVALID_REQUEST, e.text)),
            };
            match made {
                Ok(written) => {
                    lsn = lsn.max(written);
                    AclCreationResult { error_code: codes::NONE, error_message: None }
                }
                Err((error_code, why)) => AclCreationResult { error_code, error_message: Some(why.into()) },
            }
        };
        let results = request.creations.iter().map(&mut one).collect();
        Ok(ask.after(lsn, &CreateAclsResponse { results, ..CreateAclsResponse::default() }))
    }

    pub(super) fn delete_acls(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DeleteAclsRequest = ask.read()?;
        let allowed = self.may_cluster(AclOperation::Alter);
        let mut lsn = None;
        let (rules, mut looked_at) = (self.node.broker.acl_count(), 0_usize);
        let mut one = |f: &DeleteAclsFilter| {
            let failed = |error_code, why: &str| DeleteAclsFilterResult {
                error_code,
                error_message: Some(why.into()),
                ..DeleteAclsFilterResult::default()
            };
            let filter = Filter {
                resource: f.resource_type_filter,
                name: f.resource_name_filter.as_deref(),
                pattern: f.pattern_type_filter,
                principal: f.principal_filter.as_deref(),
                host: f.host_filter.as_deref(),
                operation: f.operation,
                effect: f.permission_type,
            };
            if !allowed {
                return failed(codes::CLUSTER_AUTHORIZATION_FAILED, "not permitted");
            }
            let filter = match filter.known() {
                Ok(Some(filter)) => filter,
                Ok(None) => return DeleteAclsFilterResult { error_message: None, ..DeleteAclsFilterResult::default() },
                Err(why) => return failed(codes::INVALID_REQUEST, why),
            };
            looked_at = looked_at.saturating_add(filter.cost(rules));
            if looked_at > LOOKED_AT_MAX {
                return failed(codes::INVALID_REQUEST, "too many filters at once for so many rules");
            }
            match self.node.broker.remove_acls(&self.vhost, &filter, self.node.clock.now()) {
                Err(e) => failed(codes::KAFKA_STORAGE_ERROR, &e.text),
                Ok((gone, written)) => {
                    lsn = lsn.max(written);
                    let matching_acls = gone.iter().map(removed).collect();
                    DeleteAclsFilterResult { error_message: None, matching_acls, ..DeleteAclsFilterResult::default() }
                }
            }
        };
        let filter_results = request.filters.iter().map(&mut one).collect();
        Ok(ask.after(lsn, &DeleteAclsResponse { filter_results, ..DeleteAclsResponse::default() }))
    }
}

fn removed(acl: &Acl) -> DeleteAclsMatchingAcl {
    DeleteAclsMatchingAcl {
        error_message: None,
        resource_type: acl.resource as i8,
        resource_name: (*acl.name).into(),
        pattern_type: acl.pattern as i8,
        principal: (*acl.principal).into(),
        host: (*acl.host).into(),
        operation: acl.operation as i8,
        permission_type: acl.effect as i8,
        ..DeleteAclsMatchingAcl::default()
    }
}

/// The code of the wire, if it is one of definitions: none is negative.
fn code<T>(code: i8, of: impl Fn(u8) -> Option<T>) -> Option<T> {
    u8::try_from(code).ok().and_then(of)
}

fn rule(c: &AclCreation) -> Result<Acl, &'static str> {
    Ok(Acl {
        resource: code(c.resource_type, AclResource::of)
            .ok_or("rules are about topics, groups, transactional ids and the cluster")?,
        pattern: code(c.resource_pattern_type, AclPattern::of).ok_or("a name is literal or prefixed")?,
        name: (&*c.resource_name).into(),
        principal: (&*c.principal).into(),
        host: (&*c.host).into(),
        operation: code(c.operation, AclOperation::of).ok_or("no such operation")?,
        effect: code(c.permission_type, AclEffect::of).ok_or("a rule allows or denies")?,
    })
}

/// Which rules are meant.
struct Filter<'a> {
    resource: i8,
    name: Option<&'a str>,
    pattern: i8,
    principal: Option<&'a str>,
    host: Option<&'a str>,
    operation: i8,
    effect: i8,
}

impl<'a> Filter<'a> {
    /// The filter of ours; none if there can be no such rules: kinds that we do not have are no mistake.
    fn known(&self) -> Result<Option<AclFilter<'a>>, &'static str> {
        let known = |code: i8, last: i8| (ANY..=last).contains(&code);
        match () {
            () if !known(self.resource, 7) => return Err("no such kind of resource"),
            () if !known(self.pattern, 4) => return Err("no such kind of pattern"),
            () if !known(self.operation, 15) => return Err("no such operation"),
            () if !known(self.effect, 3) => return Err("a rule allows or denies"),
            () => {}
        }
        let pattern = if self.pattern == MATCH { ANY } else { self.pattern };
        let kinds = (
            ours(self.resource, AclResource::of),
            ours(pattern, AclPattern::of),
            ours(self.operation, AclOperation::of),
            ours(self.effect, AclEffect::of),
        );
        let (Some(resource), Some(pattern), Some(operation), Some(effect)) = kinds else { return Ok(None) };
        let names = match self.name {
            None => AclNames::All,
            Some(name) if self.pattern == MATCH => AclNames::Matching(name),
            Some(name) => AclNames::Written(name),
        };
        let (principal, host) = (self.principal, self.host);
        Ok(Some(AclFilter { resource, names, pattern, principal, host, operation, effect }))
    }
}

/// The code of a filter: `None`, if there is no such thing here.
#[allow(clippy::option_option, reason = "outside: whether there is such a thing; inside: whether it matters")]
fn ours<T>(asked: i8, of: impl Fn(u8) -> Option<T>) -> Option<Option<T>> {
    if asked == ANY { Some(None) } else { code(asked, of).map(Some) }
}
