//! A consumer group that settles, and settles again after a member left and came back.

use super::Report;
use super::args::Target;
use super::client::{Client, check};
use super::topic::Topic;
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::outcome::UseReport;
use crate::bench::amqp::times::Times;
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use waypost_kafka::messages::groups::{
    FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest,
    JoinGroupRequestProtocol, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest,
    SyncGroupRequestAssignment, SyncGroupResponse,
};

const FIND_COORDINATOR: (i16, i16) = (10, 2);
const JOIN_GROUP: (i16, i16) = (11, 5);
const HEARTBEAT: (i16, i16) = (12, 3);
const LEAVE_GROUP: (i16, i16) = (13, 2);
const SYNC_GROUP: (i16, i16) = (14, 3);
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const UNKNOWN_MEMBER_ID: i16 = 25;
const ILLEGAL_GENERATION: i16 = 22;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
/// How long a group may take to settle.
const PATIENCE: Duration = Duration::from_secs(60);
const SESSION_MS: i32 = 30_000;
const REBALANCE_MS: i32 = 60_000;

/// Arguments of `waypost bench kafka group`.
#[derive(Clone, Debug, Args)]
pub struct GroupArgs {
    #[command(flatten)]
    pub target: Target,
    /// Members, each with a connection
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    members: u32,
    /// How often one of them leaves and comes back
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Milliseconds between heartbeats, by which members learn that they have to join again
    #[arg(long, default_value_t = 100, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    heartbeat: u64,
}

#[derive(Debug, Default)]
struct State {
    generation: i32,
    /// How many members have their assignment of that generation.
    settled: u32,
    last_join: Option<Instant>,
    last_settled: Option<Instant>,
    /// How often the first member is to have left.
    leaves: u32,
    stop: bool,
}

#[derive(Debug, Default)]
struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until all members have their assignment of a generation above `after`; when the last one asked for it,
    /// and when the last one had it.
    fn settled(&self, members: u32, after: i32) -> Result<(i32, Duration), Fault> {
        let pending = |s: &mut State| !s.stop && (s.generation <= after || s.settled < members);
        let guard = self.changed.wait_timeout_while(self.lock(), PATIENCE, pending);
        let (state, timeout) = guard.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() || state.stop {
            return Err(Fault::Silent { seconds: PATIENCE.as_secs(), doing: "waiting for the group to settle" });
        }
        let took = state.last_settled.zip(state.last_join).map(|(s, j)| s.saturating_duration_since(j));
        Ok((state.generation, took.unwrap_or_default()))
    }
}

impl GroupArgs {
    pub fn run(&self) -> Result<Report, Fault> {
        let topic = Topic::make(&self.target, 1)?;
        let coordinator = self.coordinator(&topic)?;
        let board = Board::default();
        let watch = self.target.watch()?;
        let begun = Instant::now();
        let (first, times) = thread::scope(|scope| {
            let mut joined = Vec::new();
            for n in 0..self.members {
                let (board, coordinator) = (&board, &coordinator);
                let group = topic.name.as_str();
                joined.push(scope.spawn(move || {
                    let done = Member::open(coordinator, group).and_then(|m| m.run(self, board, n == 0));
                    if done.is_err() {
                        board.update(|s| s.stop = true);
                    }
                    done
                }));
            }
            let settled = self.rounds(&board, begun);
            board.update(|s| s.stop = true);
            for thread in joined {
                thread.join().map_err(|_| Fault::Panicked)??;
            }
            settled
        })?;
        let used = watch.finish()?;
        let seconds = begun.elapsed().as_secs_f64();
        let report = Report::new("group")
            .with("setup", json!({"members": self.members, "rounds": self.rounds, "heartbeat_ms": self.heartbeat}))?
            .with("first_settled_ms", first.as_millis() as u64)?
            .times("settled_after_last_join_us", &times)?
            .with("broker_use", used.map(|u| UseReport::new(u, u64::from(self.rounds), "round", seconds)))?;
        topic.clear()?;
        Ok(report)
    }

    fn coordinator(&self, topic: &Topic) -> Result<String, Fault> {
        let mut client = Client::open(&self.target.bootstrap)?;
        let request = FindCoordinatorRequest { key: topic.name.as_str().into(), ..FindCoordinatorRequest::default() };
        let begun = Instant::now();
        loop {
            let found: FindCoordinatorResponse = client.call(FIND_COORDINATOR.0, FIND_COORDINATOR.1, &request)?;
            if found.error_code == COORDINATOR_NOT_AVAILABLE && begun.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            check("find the coordinator", found.error_code)?;
            return Ok(format!("{}:{}", found.host, found.port));
        }
    }

    /// The group settles, then once more for each time that its first member leaves and comes back.
    fn rounds(&self, board: &Board, begun: Instant) -> Result<(Duration, Times), Fault> {
        let (mut generation, _) = board.settled(self.members, 0)?;
        let (first, mut times) = (begun.elapsed(), Times::default());
        for round in 1..=self.rounds {
            board.update(|s| s.leaves = round);
            let (next, took) = board.settled(self.members, generation)?;
            generation = next;
            times.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
        Ok((first, times))
    }
}

struct Member {
    client: Client,
    group: Box<str>,
    id: Box<str>,
}

impl Member {
    fn open(coordinator: &str, group: &str) -> Result<Member, Fault> {
        Ok(Member { client: Client::open(coordinator)?, group: group.into(), id: "".into() })
    }

    fn run(mut self, args: &GroupArgs, board: &Board, may_leave: bool) -> Result<(), Fault> {
        let mut left = 0;
        loop {
            let generation = self.join(board)?;
            if let Some(generation) = generation {
                board.update(|s| {
                    if generation > s.generation {
                        (s.generation, s.settled) = (generation, 0);
                    }
                    if generation == s.generation {
                        s.settled += 1;
                        s.last_settled = Some(Instant::now());
                    }
                });
            }
            // Heartbeats until there is something to do.
            loop {
                let state = board.lock();
                let wait = Duration::from_millis(args.heartbeat);
                let idle = |s: &mut State| !(s.stop || may_leave && s.leaves > left);
                let (state, _) =
                    board.changed.wait_timeout_while(state, wait, idle).unwrap_or_else(PoisonError::into_inner);
                let (stop, leaves) = (state.stop, state.leaves);
                drop(state);
                if stop || (may_leave && leaves > left) {
                    self.leave()?;
                    if stop {
                        return Ok(());
                    }
                    left = leaves;
                    break;
                }
                if self.heartbeat(generation.unwrap_or(-1))? {
                    break;
                }
            }
        }
    }

    /// Joins and takes the assignment; none if the group began anew meanwhile.
    fn join(&mut self, board: &Board) -> Result<Option<i32>, Fault> {
        let joined = loop {
            let protocol = JoinGroupRequestProtocol { name: "bench".into(), metadata: Bytes::from_static(b"\0\0") };
            let request = JoinGroupRequest {
                group_id: self.group.clone(),
                session_timeout_ms: SESSION_MS,
                rebalance_timeout_ms: REBALANCE_MS,
                member_id: self.id.clone(),
                protocol_type: "consumer".into(),
                protocols: vec![protocol],
                ..JoinGroupRequest::default()
            };
            board.update(|s| s.last_join = Some(Instant::now()));
            let joined: JoinGroupResponse = self.client.call(JOIN_GROUP.0, JOIN_GROUP.1, &request)?;
            match joined.error_code {
                0 => break joined,
                MEMBER_ID_REQUIRED => self.id = joined.member_id,
                UNKNOWN_MEMBER_ID => self.id = "".into(),
                REBALANCE_IN_PROGRESS => {}
                code => check("join the group", code)?,
            }
        };
        self.id = joined.member_id.clone();
        let assign = |m: &waypost_kafka::messages::groups::JoinGroupResponseMember| SyncGroupRequestAssignment {
            member_id: m.member_id.clone(),
            assignment: Bytes::from_static(b"\0\0"),
        };
        let request = SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: joined.generation_id,
            member_id: self.id.clone(),
            // Only the leader is told of the others.
            assignments: joined.members.iter().map(assign).collect(),
            ..SyncGroupRequest::default()
        };
        let synced: SyncGroupResponse = self.client.call(SYNC_GROUP.0, SYNC_GROUP.1, &request)?;
        match synced.error_code {
            0 => Ok(Some(joined.generation_id)),
            REBALANCE_IN_PROGRESS | ILLEGAL_GENERATION => Ok(None),
            code => check("take the assignment", code).map(|()| None),
        }
    }

    /// Whether the group begins anew.
    fn heartbeat(&mut self, generation: i32) -> Result<bool, Fault> {
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: generation,
            member_id: self.id.clone(),
            ..HeartbeatRequest::default()
        };
        let answer: HeartbeatResponse = self.client.call(HEARTBEAT.0, HEARTBEAT.1, &request)?;
        match answer.error_code {
            0 => Ok(false),
            REBALANCE_IN_PROGRESS | ILLEGAL_GENERATION | UNKNOWN_MEMBER_ID => Ok(true),
            code => check("send a heartbeat", code).map(|()| false),
        }
    }

    fn leave(&mut self) -> Result<(), Fault> {
        let request = LeaveGroupRequest {
            group_id: self.group.clone(),
            member_id: std::mem::take(&mut self.id),
            ..LeaveGroupRequest::default()
        };
        let _: LeaveGroupResponse = self.client.call(LEAVE_GROUP.0, LEAVE_GROUP.1, &request)?;
        Ok(())
    }
}
