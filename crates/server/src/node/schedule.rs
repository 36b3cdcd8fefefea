//! Sleeps until the broker's next deadline, and has it do what is due.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;

use super::Node;

/// How often the broker is looked at when nothing is due: memory is given back, what found no room is tried again.
const IDLE_TICK_MS: u64 = 1_000;

/// Runs until `stop` says so.
pub(super) async fn run(node: Arc<Node>, mut stop: watch::Receiver<bool>) {
    let earlier = Arc::new(Notify::new());
    node.broker.on_earlier_deadline(Box::new({
        let earlier = Arc::clone(&earlier);
        move |_| earlier.notify_one()
    }));
    loop {
        let next = node.broker.tick(node.clock.now());
        let sleep = async {
            let latest = node.clock.now().plus(IDLE_TICK_MS);
            sleep_until(node.clock.instant(next.map_or(latest, |at| at.min(latest))).into()).await;
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = earlier.notified() => {}
            () = sleep => {}
        }
    }
}
