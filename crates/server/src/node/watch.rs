//! Watches memory, disk and journal, and raises alarms.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use waypost_broker::broker::Alarm;

use super::{Gauges, Node};

/// How often the machine is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// Runs until the journal has failed.
pub(super) async fn run(node: &Arc<Node>) {
    let mut alarm = Alarm::default();
    loop {
        if node.store.failed() {
            tracing::error!("the journal has stopped after an i/o error; nothing more can be made durable");
            return;
        }
        node.gauges.look(&node.config.server.data_dir);
        let now = judge(&node.gauges, alarm);
        if now != alarm {
            report(&node.gauges, alarm, now);
            alarm = now;
            node.broker.set_alarm(now);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The alarms that are due. They are cleared only when there is some room again, so that they do not flutter.
fn judge(gauges: &Gauges, before: Alarm) -> Alarm {
    let (used, limit) = (gauges.resident.load(Relaxed), gauges.resident_limit);
    let (free, least) = (gauges.disk_free.load(Relaxed), gauges.disk_free_limit);
    let memory = if before.memory { used > limit / 100 * 95 } else { used > limit };
    let disk = if before.disk { free < least.saturating_add(least / 10) } else { free < least };
    Alarm {
        // What cannot be measured raises no alarm.
        memory: memory && limit > 0,
        disk: disk && free > 0,
    }
}

fn report(gauges: &Gauges, before: Alarm, now: Alarm) {
    let (used, limit) = (gauges.resident.load(Relaxed), gauges.resident_limit);
    let (free, least) = (gauges.disk_free.load(Relaxed), gauges.disk_free_limit);
    match (before.memory, now.memory) {
        (false, true) => tracing::warn!(used, limit, "low on memory: publishers are held back"),
        (true, false) => tracing::info!(used, limit, "enough memory again"),
        _ => {}
    }
    match (before.disk, now.disk) {
        (false, true) => tracing::warn!(free, least, "low on disk: publishers are held back"),
        (true, false) => tracing::info!(free, least, "enough disk again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauges(resident: u64, disk_free: u64) -> Gauges {
        Gauges { resident: resident.into(), resident_limit: 1000, disk_free: disk_free.into(), disk_free_limit: 1000 }
    }

    #[test]
    fn alarms_do_not_flutter() {
        let calm = Alarm::default();
        assert_eq!(judge(&gauges(1000, 1000), calm), calm);
        let low = judge(&gauges(1001, 999), calm);
        assert_eq!(low, Alarm { memory: true, disk: true });
        assert_eq!(judge(&gauges(960, 1050), low), low);
        assert_eq!(judge(&gauges(940, 1100), low), calm);
    }

    #[test]
    fn what_is_unknown_is_no_alarm() {
        let unknown = Gauges { resident_limit: 0, ..gauges(5000, 0) };
        assert_eq!(judge(&unknown, Alarm::default()), Alarm::default());
    }
}
