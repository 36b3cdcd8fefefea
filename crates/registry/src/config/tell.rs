//! Telling others what has changed.

use super::store::Store;
use super::watch::Changed;

impl Store {
    /// What has changed and was not told to others yet, at most `count` paths. Each is told with its present state, so
    /// that whoever is slow misses steps in between, but never the last one.
    #[must_use]
    pub fn untold(&self, count: usize) -> Vec<Changed> {
        let mut state = self.change();
        let state = &mut *state;
        let count = count.min(state.untold.len());
        let mut changes = Vec::with_capacity(count);
        for key in state.untold.drain(..count) {
            let Some((stable, candidate)) = state.parts.remove(&key) else { continue };
            let (vhost, path) = key;
            let entry = state.spaces.get(&vhost).and_then(|s| s.entries.get(&path));
            let now = entry.map(|e| e.now.clone()).unwrap_or_default();
            let (revision, lsn) = entry.map_or((state.revision, state.lsn), |e| (e.changed, e.lsn));
            changes.push(Changed { vhost, path, stable, candidate, revision, item: now.item, gray: now.gray, lsn });
        }
        changes
    }

    /// Completes once there is something to tell. For one task at a time.
    pub async fn something_to_tell(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.change();
            if state.untold.is_empty() {
                state.teller = Some(cx.waker().clone());
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(())
        })
        .await;
    }
}
