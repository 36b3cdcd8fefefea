//! Groups: where they are looked after, and what their members say.

use std::collections::BTreeSet;

use bytes::Bytes;
use waypost_broker::topology::{AclOperation, AclResource};
use waypost_kafka::messages::groups::*;
use waypost_kafka::wire::Malformed;
use waypost_stream::groups::{
    Described, GroupFault, GroupView, Join, Joined, Kind, Leaving, Listed, MemberView, Sync, Synced, TooLong, Who,
};

use super::portion::{Portion, WHOLE_BYTES_MAX};
use super::{Answer, Ask, NODE_ID, Session, codes};

/// From this version on a new member is given its id before it is one.
const ID_REQUIRED_SINCE: i16 = 4;
/// From this version on leaders know that they may have nothing to deal out.
const SKIPS_SINCE: i16 = 9;

/// What a group takes in a list beside its name and type, about.
const LISTED_BYTES: usize = 32;

impl Session {
    pub(super) fn find_coordinator(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: FindCoordinatorRequest = ask.read()?;
        // Of groups and of transactions; there are others that we do not have.
        let refused = |key: &str| match request.key_type {
            0 if self.may_group(AclOperation::Describe, key) => (codes::NONE, None),
            0 => (codes::GROUP_AUTHORIZATION_FAILED, Some("not permitted")),
            1 if self.transactional_id_code(AclOperation::Describe, key) == codes::NONE => (codes::NONE, None),
            1 => (codes::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, Some("not permitted")),
            _ => (codes::INVALID_REQUEST, Some("no coordinator of this kind")),
        };
        let one = |key: &str| {
            let (error_code, why) = refused(key);
            let (host, error_message) = (self.host.clone(), why.map(Into::into));
            Coordinator { key: key.into(), node_id: NODE_ID, host, port: self.port, error_code, error_message }
        };
        let (error_code, why) = refused(&request.key);
        let response = FindCoordinatorResponse {
            error_code,
            error_message: why.map(Into::into),
            node_id: NODE_ID,
            host: self.host.clone(),
            port: self.port,
            coordinators: request.coordinator_keys.iter().map(|key| one(key)).collect(),
            ..FindCoordinatorResponse::default()
        };
        Ok(ask.now(&response))
    }

    pub(super) async fn join_group(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: JoinGroupRequest = ask.read()?;
        let refused = self.group_code(&request.group_id);
        if refused != codes::NONE {
            return Ok(ask.now(&JoinGroupResponse {
                error_code: refused,
                member_id: request.member_id,
                ..JoinGroupResponse::default()
            }));
        }
        let join = Join {
            member_id: request.member_id,
            instance: request.group_instance_id,
            who: Who { client_id: ask.client_id.into(), host: format!("/{}", self.remote).into() },
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            protocol_type: request.protocol_type,
            protocols: request.protocols.into_iter().map(|p| (p.name, p.metadata.to_vec())).collect(),
            id_required: ask.version >= ID_REQUIRED_SINCE,
            may_skip_assignment: ask.version >= SKIPS_SINCE,
        };
        let joined = self.node.groups.join(&self.vhost, &request.group_id, join, self.node.clock.now());
        self.node.regroup.notify_one();
        Ok(ask.now(&join_answer(joined.await, ask.version)))
    }

    pub(super) async fn sync_group(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: SyncGroupRequest = ask.read()?;
        let refused = self.group_code(&request.group_id);
        if refused != codes::NONE {
            return Ok(ask.now(&SyncGroupResponse { error_code: refused, ..SyncGroupResponse::default() }));
        }
        let sync = Sync {
            member_id: request.member_id,
            instance: request.group_instance_id,
            generation: request.generation_id,
            protocol: request.protocol_type.zip(request.protocol_name),
            assignments: request.assignments.into_iter().map(|a| (a.member_id, a.assignment.to_vec())).collect(),
        };
        let synced = self.node.groups.sync(&self.vhost, &request.group_id, sync, self.node.clock.now());
        self.node.regroup.notify_one();
        let Synced { fault, protocol_type, protocol, assignment } = synced.await;
        let named = fault.is_none();
        Ok(ask.now(&SyncGroupResponse {
            error_code: fault.map_or(codes::NONE, codes::of_group),
            protocol_type: named.then_some(protocol_type),
            protocol_name: named.then_some(protocol),
            assignment: assignment.into(),
            ..SyncGroupResponse::default()
        }))
    }

    pub(super) fn heartbeat(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let r: HeartbeatRequest = ask.read()?;
        let mut error_code = self.group_code(&r.group_id);
        if error_code == codes::NONE {
            let (instance, now) = (r.group_instance_id.as_deref(), self.node.clock.now());
            let groups = &self.node.groups;
            let beaten = groups.heartbeat(&self.vhost, &r.group_id, &r.member_id, instance, r.generation_id, now);
            error_code = beaten.err().map_or(codes::NONE, codes::of_group);
        }
        Ok(ask.now(&HeartbeatResponse { error_code, ..HeartbeatResponse::default() }))
    }

    pub(super) fn leave_group(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: LeaveGroupRequest = ask.read()?;
        let refused = self.group_code(&request.group_id);
        if refused != codes::NONE {
            return Ok(ask.now(&LeaveGroupResponse { error_code: refused, ..LeaveGroupResponse::default() }));
        }
        let one = ask.version < 3;
        let leaving: Vec<Leaving> = if one {
            vec![Leaving { member_id: request.member_id, instance: None }]
        } else {
            let named = request.members.into_iter();
            named.map(|m| Leaving { member_id: m.member_id, instance: m.group_instance_id }).collect()
        };
        let left = self.node.groups.leave(&self.vhost, &request.group_id, &leaving, self.node.clock.now());
        let all = match left {
            Ok(all) => all,
            Err(fault) => leaving.iter().map(|_| Err(fault)).collect(),
        };
        let code = |r: &Result<(), GroupFault>| r.err().map_or(codes::NONE, codes::of_group);
        let members = leaving.into_iter().zip(&all).map(|(l, r)| MemberResponse {
            member_id: l.member_id,
            group_instance_id: l.instance,
            error_code: code(r),
        });
        let error_code = if one { all.first().map_or(codes::NONE, code) } else { codes::NONE };
        let members = members.collect();
        Ok(ask.now(&LeaveGroupResponse { error_code, members, ..LeaveGroupResponse::default() }))
    }

    pub(super) fn describe_groups(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeGroupsRequest = ask.read()?;
        let mut portion = Portion::new(&self.node.kafka_room);
        let mut one = |name: &str| {
            let failed = |error_code| DescribedGroup { error_code, group_id: name.into(), ..DescribedGroup::default() };
            let error_code = self.group_code_for(AclOperation::Describe, name);
            if error_code != codes::NONE {
                return failed(error_code);
            }
            match self.node.groups.describe(&self.vhost, name, portion.left()) {
                Ok(Some(Described { view, bytes })) => portion.add(bytes).map_or_else(failed, |()| described(view)),
                Err(TooLong(bytes)) => failed(portion.refusal(bytes)),
                // One that has only committed offsets is empty; others never were, or are forgotten.
                Ok(None) => {
                    // Of the newer protocol: another API describes it.
                    let consumers = self.node.groups.has_members(&self.vhost, name);
                    let known = !consumers && self.streams().has_committed(&self.vhost, name);
                    let missing = !known && ask.version >= 6;
                    DescribedGroup {
                        error_code: if missing { codes::GROUP_ID_NOT_FOUND } else { codes::NONE },
                        error_message: missing.then(|| "there is no such group".into()),
                        group_id: name.into(),
                        group_state: if known { "Empty" } else { "Dead" }.into(),
                        ..DescribedGroup::default()
                    }
                }
            }
        };
        let mut seen = BTreeSet::new();
        let once = request.groups.iter().filter(|name| seen.insert(&***name));
        let mut groups: Vec<DescribedGroup> = once.map(|name| one(name)).collect();
        let held = portion.held();
        if request.include_authorized_operations {
            for group in groups.iter_mut().filter(|g| g.error_code == codes::NONE) {
                group.authorized_operations = self.operations(AclResource::Group, &group.group_id);
            }
        }
        self.held = Some(held);
        Ok(ask.now(&DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() }))
    }

    pub(super) fn list_groups(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: ListGroupsRequest = ask.read()?;
        let listed = |group_id: &str, protocol_type: Box<str>, state: &str| ListedGroup {
            group_id: group_id.into(),
            protocol_type,
            group_state: state.into(),
            group_type: Kind::Classic.as_str().into(),
        };
        let mut groups = std::collections::BTreeMap::new();
        for group in self.streams().groups_with_offsets(&self.vhost) {
            groups.insert(Box::<str>::from(&*group), listed(&group, "".into(), "Empty"));
        }
        for Listed { id, kind, protocol_type, state } in self.node.groups.list(&self.vhost) {
            let group_type = kind.as_str().into();
            groups.insert((*id).into(), ListedGroup { group_type, ..listed(&id, protocol_type, state) });
        }
        let among =
            |filter: &[Box<str>], word: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(word));
        let all = self.may_cluster(AclOperation::Describe);
        let wanted = |g: &ListedGroup| {
            among(&request.states_filter, &g.group_state)
                && among(&request.types_filter, &g.group_type)
                && (all || self.may_group(AclOperation::Describe, &g.group_id))
        };
        let groups: Vec<ListedGroup> = groups.into_values().filter(wanted).collect();
        let bytes = |g: &ListedGroup| LISTED_BYTES + g.group_id.len() + g.protocol_type.len();
        if groups.iter().map(bytes).sum::<usize>() > WHOLE_BYTES_MAX {
            // A list cannot be told in parts, and of a part nobody would see that it is one.
            return Ok(ask.now(&ListGroupsResponse { error_code: codes::POLICY_VIOLATION, ..Default::default() }));
        }
        Ok(ask.now(&ListGroupsResponse { groups, ..ListGroupsResponse::default() }))
    }

    pub(super) fn delete_groups(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DeleteGroupsRequest = ask.read()?;
        let mut lsn = None;
        let mut one = |name: &str| {
            let refused = self.group_code_for(AclOperation::Delete, name);
            if refused != codes::NONE {
                return refused;
            }
            let known = self.streams().has_committed(&self.vhost, name);
            match self.node.groups.forget(&self.vhost, name) {
                Err(GroupFault::UnknownGroup) if known => {}
                Err(fault) => return codes::of_group(fault),
                Ok(()) => {}
            }
            match self.streams().forget_offsets(&self.vhost, name, None) {
                Ok(written) => {
                    lsn = lsn.max(written);
                    codes::NONE
                }
                Err(fault) => codes::of_offsets(&fault),
            }
        };
        let results: Vec<DeletableGroupResult> = request
            .groups_names
            .iter()
            .map(|name| DeletableGroupResult { group_id: name.clone(), error_code: one(name) })
            .collect();
        Ok(ask.after(lsn, &DeleteGroupsResponse { results, ..DeleteGroupsResponse::default() }))
    }
}

fn join_answer(joined: Joined, version: i16) -> JoinGroupResponse {
    let Joined { fault, member_id, generation, protocol_type, protocol, leader, members, skip_assignment } = joined;
    let member = |(member_id, group_instance_id, metadata): (Box<str>, Option<Box<str>>, Vec<u8>)| {
        JoinGroupResponseMember { member_id, group_instance_id, metadata: metadata.into() }
    };
    let named = fault.is_none();
    JoinGroupResponse {
        error_code: fault.map_or(codes::NONE, codes::of_group),
        generation_id: generation,
        protocol_type: named.then_some(protocol_type),
        // Null only since version 7.
        protocol_name: if named || version < 7 { Some(protocol) } else { None },
        leader,
        skip_assignment,
        member_id,
        members: members.into_iter().map(member).collect(),
        ..JoinGroupResponse::default()
    }
}

fn described(view: GroupView) -> DescribedGroup {
    let member = |m: MemberView| DescribedGroupMember {
        member_id: m.id,
        group_instance_id: m.instance,
        client_id: m.who.client_id,
        client_host: m.who.host,
        member_metadata: Bytes::from(m.metadata),
        member_assignment: Bytes::from(m.assignment),
    };
    DescribedGroup {
        group_id: (*view.id).into(),
        group_state: view.state.as_str().into(),
        protocol_type: view.protocol_type,
        protocol_data: view.protocol.unwrap_or_default(),
        members: view.members.into_iter().map(member).collect(),
        ..DescribedGroup::default()
    }
}
