//! `/metrics`: Prometheus' text format. RabbitMQ's names where there is one, so that its dashboards work; ours beside.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::StatusCode;

use waypost_broker::broker::admin::Overview;
use waypost_broker::shard::QueueStats;

use super::{Answer, text};
use crate::node::{Node, open_files};
use crate::zmtp::Figures;

const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page.
pub(super) fn page(node: &Node) -> Answer {
    let mut out = Page(String::with_capacity(8 * 1024));
    identity(&mut out);
    counters(node, &mut out);
    // Before anything is formatted, and with no lock held since.
    let overview = node.broker.overview();
    messages(&overview.stats, &mut out);
    gauges(&overview, &mut out);
    machine(node, &mut out);
    storage(node, &mut out);
    devices(node, &mut out);
    streams(node, &mut out);
    text(StatusCode::OK, EXPOSITION, out.0)
}

struct Page(String);

impl Page {
    fn one(&mut self, kind: &str, name: &str, help: &str, value: u64) {
        self.labelled(kind, name, "", help, value);
    }

    fn labelled(&mut self, kind: &str, name: &str, labels: &str, help: &str, value: u64) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}\n");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.one("counter", name, help, value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.one("gauge", name, help, value);
    }
}

fn identity(out: &mut Page) {
    let version = env!("CARGO_PKG_VERSION");
    let build = format!("{{product_name=\"Waypost\",product_version=\"{version}\"}}");
    out.labelled("gauge", "rabbitmq_build_info", &build, "What runs here", 1);
    let node = "{rabbitmq_node=\"waypost\",rabbitmq_cluster=\"waypost\",rabbitmq_endpoint=\"aggregated\"}";
    out.labelled("gauge", "rabbitmq_identity_info", node, "Who this is", 1);
}

fn counters(node: &Node, out: &mut Page) {
    let c = &node.broker.counters;
    let all: [(&str, &str, &AtomicU64); 14] = [
        ("rabbitmq_connections_opened_total", "Connections that came", &c.connections_opened),
        ("rabbitmq_connections_closed_total", "Connections that ended", &c.connections_closed),
        ("rabbitmq_channels_opened_total", "Channels that were opened", &c.channels_opened),
        ("rabbitmq_channels_closed_total", "Channels that ended", &c.channels_closed),
        ("rabbitmq_queues_declared_total", "Queue declarations", &c.queues_declared),
        ("rabbitmq_queues_created_total", "Queues that were made", &c.queues_created),
        ("rabbitmq_queues_deleted_total", "Queues that were deleted", &c.queues_deleted),
        (
            "rabbitmq_global_messages_received_confirm_total",
            "Messages published by who wants a confirm",
            &c.received_confirm,
        ),
        ("rabbitmq_global_messages_confirmed_total", "Messages confirmed to publishers", &c.confirmed),
        ("rabbitmq_global_messages_routed_total", "Messages routed to queues", &c.routed),
        ("rabbitmq_global_messages_unroutable_dropped_total", "Unroutable messages dropped", &c.unroutable_dropped),
        ("rabbitmq_global_messages_unroutable_returned_total", "Unroutable messages returned", &c.unroutable_returned),
        ("waypost_dead_lettered_total", "Messages that went to a dead-letter exchange", &c.dead_lettered),
        ("waypost_authentication_failures_total", "Logins refused", &c.authentication_failures),
    ];
    for (name, help, value) in all {
        out.counter(name, help, value.load(Relaxed));
    }
    let received = c.received_confirm.load(Relaxed).saturating_add(c.received_no_confirm.load(Relaxed));
    out.counter("rabbitmq_global_messages_received_total", "Messages published", received);
}

/// What happened to messages in queues, those included that are gone.
fn messages(s: &QueueStats, out: &mut Page) {
    let (delivered, got) = (s.delivered + s.delivered_no_ack, s.got + s.got_no_ack);
    let all = [
        ("delivered_total", "Messages delivered to consumers or got", delivered + got),
        ("delivered_consume_manual_ack_total", "Messages delivered, to be acknowledged", s.delivered),
        ("delivered_consume_auto_ack_total", "Messages delivered without acknowledgement", s.delivered_no_ack),
        ("delivered_get_manual_ack_total", "Messages got one by one, to be acknowledged", s.got),
        ("delivered_get_auto_ack_total", "Messages got one by one, without acknowledgement", s.got_no_ack),
        ("get_empty_total", "Gets that found nothing", s.got_empty),
        ("redelivered_total", "Of the delivered messages: had been delivered before", s.redelivered),
        ("acknowledged_total", "Messages acknowledged", s.acked),
        ("dead_lettered_expired_total", "Messages that died of their time to live", s.expired),
        ("dead_lettered_maxlen_total", "Messages that died of a limit of their queue", s.dropped),
        ("dead_lettered_rejected_total", "Messages that a consumer rejected", s.rejected),
        ("dead_lettered_delivery_limit_total", "Messages that died of too many deliveries", s.poisoned),
    ];
    for (name, help, value) in all {
        out.counter(&format!("rabbitmq_global_messages_{name}"), help, value);
    }
}

fn gauges(o: &Overview, out: &mut Page) {
    out.gauge("rabbitmq_connections", "Connections open now", o.connections);
    out.gauge("rabbitmq_channels", "Channels open now", o.channels);
    out.gauge("rabbitmq_queues", "Queues", o.queues);
    out.gauge("rabbitmq_global_publishers", "Connections that have published", o.publishers);
    out.gauge("rabbitmq_global_consumers", "Consumers", o.consumers);
    out.gauge("rabbitmq_consumers", "Consumers", o.consumers);
    out.gauge("rabbitmq_queue_messages_ready", "Messages that wait for a consumer", o.messages.ready);
    out.gauge("rabbitmq_queue_messages_unacked", "Messages delivered and not yet settled", o.messages.unacknowledged);
    out.gauge(
        "rabbitmq_queue_messages",
        "Messages in all queues",
        o.messages.ready.saturating_add(o.messages.unacknowledged),
    );
    out.gauge("waypost_exchanges", "Exchanges", o.exchanges);
    out.gauge("waypost_bindings", "Bindings", o.bindings);
    out.gauge("waypost_queue_memory_bytes", "Message bytes in memory", o.memory_bytes);
    out.gauge("waypost_queue_memory_budget_bytes", "Message bytes that may be in memory", o.memory_budget_bytes);
    out.gauge("rabbitmq_alarms_memory_used_watermark", "1 while low on memory", u64::from(o.alarm.memory));
    out.gauge("rabbitmq_alarms_free_disk_space_watermark", "1 while low on disk", u64::from(o.alarm.disk));
}

fn machine(node: &Node, out: &mut Page) {
    let g = &node.gauges;
    out.gauge("rabbitmq_process_resident_memory_bytes", "Resident memory", g.resident.load(Relaxed));
    out.gauge("rabbitmq_resident_memory_limit_bytes", "Memory watermark", g.resident_limit);
    out.gauge("rabbitmq_disk_space_available_bytes", "Free disk space", g.disk_free.load(Relaxed));
    out.gauge("rabbitmq_disk_space_available_limit_bytes", "Disk watermark", g.disk_free_limit);
    let (open, max) = open_files();
    out.gauge("rabbitmq_process_open_fds", "Open files", open.unwrap_or(0));
    out.gauge("rabbitmq_process_max_fds", "Files that may be open", max.unwrap_or(0));
    out.gauge("rabbitmq_erlang_uptime_seconds", "Time since the start", node.clock.uptime().as_secs());
}

/// ZeroMQ devices, a line each.
fn devices(node: &Node, out: &mut Page) {
    let all: Vec<_> = node.devices.stats().into_iter().map(|device| (device.figures(), device)).collect();
    if all.is_empty() {
        return;
    }
    let figures: [(&str, &str, &str, fn(&Figures) -> u64); 10] = [
        ("counter", "messages_received_total", "Messages that came", |f| f.counters.received),
        ("counter", "messages_sent_total", "Messages queued for peers, each copy", |f| f.counters.sent),
        ("counter", "messages_dropped_total", "Messages dropped for full queues", |f| f.counters.dropped),
        ("counter", "messages_unroutable_total", "Messages that nobody was there for", |f| f.counters.unroutable),
        ("counter", "messages_discarded_total", "Messages lost with their peer's queue", |f| f.discarded),
        ("counter", "received_bytes_total", "Bytes that came, as they were on the wire", |f| f.received_bytes),
        ("counter", "sent_bytes_total", "Bytes that went, as they were on the wire", |f| f.sent_bytes),
        ("counter", "blocked_total", "How often messages had to wait for room", |f| f.counters.blocked),
        ("counter", "peers_refused_total", "Connections ended by a peer's fault", |f| f.refused),
        ("gauge", "peers", "Peers connected now", |f| f.connections),
    ];
    for (kind, name, help, figure) in figures {
        let _ = write!(out.0, "# HELP waypost_zmtp_{name} {help}\n# TYPE waypost_zmtp_{name} {kind}\n");
        for (f, device) in &all {
            let (name_of, kind_of, value) = (&device.name, device.kind, figure(f));
            let _ = writeln!(out.0, "waypost_zmtp_{name}{{device=\"{name_of}\",kind=\"{kind_of}\"}} {value}");
        }
    }
}

/// Groups and topics whose lag has a line of its own: those that are furthest behind.
const LAGS_MAX: usize = 1000;

/// Topics, and how far groups are behind.
fn streams(node: &Node, out: &mut Page) {
    let topics = node.streams.topics_beginning("");
    let (mut partitions, mut bytes, mut records) = (0_u64, 0_u64, 0_u64);
    for cell in topics.iter().flat_map(|t| t.partitions().to_vec()) {
        let (offsets, held) = cell.with(|p| (p.offsets(), p.bytes()));
        partitions += 1;
        bytes += held;
        records += offsets.high_watermark.saturating_sub(offsets.start);
    }
    out.gauge("waypost_topics", "Topics", topics.len() as u64);
    out.gauge("waypost_topic_partitions", "Partitions of all topics", partitions);
    out.gauge("waypost_topic_records", "Records in all topics", records);
    out.gauge("waypost_topic_bytes", "Bytes of all topics", bytes);
    let mut lags: BTreeMap<(Arc<str>, Arc<str>, Arc<str>), u64> = BTreeMap::new();
    let mut groups = 0;
    for vhost in node.broker.vhosts() {
        for group in node.streams.groups_with_offsets(&vhost.name) {
            groups += 1;
            for place in super::api::groups::places(node, &vhost.name, &group) {
                let key = (Arc::clone(&vhost.name), Arc::clone(&group), Arc::clone(&place.topic));
                *lags.entry(key).or_default() += place.lag();
            }
        }
    }
    out.gauge("waypost_consumer_groups", "Consumer groups that have committed", groups);
    let (kept, expired) = (node.streams.offsets_kept() as u64, node.streams.offsets_expired());
    out.gauge("waypost_consumer_group_offsets", "Offsets that consumer groups have committed", kept);
    out.counter("waypost_consumer_group_offsets_expired_total", "Committed offsets that have expired", expired);
    let mut worst: Vec<_> = lags.into_iter().collect();
    worst.sort_by_key(|(_, lag)| std::cmp::Reverse(*lag));
    let left_out = worst.len().saturating_sub(LAGS_MAX);
    out.gauge("waypost_consumer_group_lag_left_out", "Groups and topics without a line of their own", left_out as u64);
    let head = "# HELP waypost_consumer_group_lag Records that a group has not done yet\n# TYPE waypost_consumer_group_lag gauge";
    let _ = writeln!(out.0, "{head}");
    for ((vhost, group, topic), lag) in worst.into_iter().take(LAGS_MAX) {
        let (vhost, group) = (label(&vhost), label(&group));
        let labels = format!("vhost=\"{vhost}\",group=\"{group}\",topic=\"{topic}\"");
        let _ = writeln!(out.0, "waypost_consumer_group_lag{{{labels}}} {lag}");
    }
}

/// A label's value, as the format wants it.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn storage(node: &Node, out: &mut Page) {
    let Some(m) = node.store.metrics() else { return };
    out.counter("waypost_journal_commits_total", "Group commits", m.commits);
    out.counter("waypost_journal_appends_total", "Appends", m.appends);
    out.counter("waypost_journal_syncs_total", "Syncs of the disk", m.syncs);
    out.counter("waypost_journal_written_bytes_total", "Bytes written to the journal", m.written_bytes);
    out.counter("waypost_journal_rewritten_bytes_total", "Bytes of it that were survivors", m.rewritten_bytes);
    out.counter("waypost_journal_checkpoints_total", "Checkpoints", m.checkpoints);
    out.counter("waypost_store_loads_total", "Loads of bodies", m.loads);
    out.counter("waypost_store_cache_hits_total", "Loads that the cache answered", m.cache_hits);
    out.gauge("waypost_store_segments", "Segments", m.segments);
    out.gauge("waypost_store_segment_bytes", "Bytes of all segments", m.segment_bytes);
    out.gauge("waypost_store_live_bytes", "Bytes of them that are needed", m.live_bytes);
    out.gauge("waypost_store_scratch_bytes", "Bytes of transient messages on disk", m.scratch_bytes);
    out.gauge("waypost_journal_queued_bytes", "Bytes that wait for the committer", m.queued_bytes);
}
