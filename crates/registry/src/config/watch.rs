//! Waiting for changes: a waiter is told only of what it waits for, and costs nothing until then.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// One path.
    Path(Arc<str>),
    /// All paths that begin so.
    Below(Arc<str>),
    /// Sessions that come and go.
    Sessions,
}

/// A change to be told to others: the state that a path has now. Changes that follow each other fast are told as one.
#[derive(Debug, Clone)]
pub struct Changed {
    /// In which vhost.
    pub vhost: Arc<str>,
    /// Which path.
    pub path: Arc<str>,
    /// Whether what everybody sees has changed.
    pub stable: bool,
    /// Whether the candidate has changed.
    pub candidate: bool,
    /// The revision of the last change.
    pub revision: u64,
    /// What is in force.
    pub item: Option<Arc<super::Item>>,
    /// The candidate.
    pub gray: Option<Arc<super::Gray>>,
    /// When it is durable; it must not be told before.
    pub lsn: waypost_model::Lsn,
}

#[derive(Debug, Default)]
struct Slot {
    fired: bool,
    waker: Option<Waker>,
}

type Place = Arc<Mutex<Slot>>;
type Places = HashMap<u64, Place>;

#[derive(Debug, Default)]
struct Vhost {
    exact: HashMap<Arc<str>, Places>,
    below: HashMap<Arc<str>, Places>,
    /// How long the prefixes are that somebody waits for, bytes, and how many of each length.
    lengths: BTreeMap<usize, usize>,
    sessions: Places,
}

/// All waiters.
#[derive(Debug, Default)]
pub(super) struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    vhosts: HashMap<Arc<str>, Vhost>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fire(place: &Place, woken: &mut Vec<Waker>) {
    let mut slot = lock(place);
    slot.fired = true;
    woken.extend(slot.waker.take());
}

impl Hub {
    /// Begins to watch. What changes from now on is not missed.
    pub fn watch(self: &Arc<Self>, vhost: &str, what: What) -> Watch {
        let mut inner = lock(&self.inner);
        inner.next += 1;
        let id = inner.next;
        let place = Place::default();
        let vhost: Arc<str> = vhost.into();
        let v = inner.vhosts.entry(Arc::clone(&vhost)).or_default();
        let places = match &what {
            What::Path(path) => v.exact.entry(Arc::clone(path)).or_default(),
            What::Below(prefix) => {
                *v.lengths.entry(prefix.len()).or_default() += 1;
                v.below.entry(Arc::clone(prefix)).or_default()
            }
            What::Sessions => &mut v.sessions,
        };
        places.insert(id, Arc::clone(&place));
        Watch { hub: Arc::clone(self), id, vhost, what, place }
    }

    /// Tells all who wait for one of these paths.
    pub fn tell<'a>(&self, vhost: &str, paths: impl Iterator<Item = &'a Arc<str>>) {
        let mut woken = Vec::new();
        {
            let inner = lock(&self.inner);
            let Some(v) = inner.vhosts.get(vhost) else { return };
            for path in paths {
                v.exact.get(path).into_iter().flat_map(|p| p.values()).for_each(|p| fire(p, &mut woken));
                for prefix in v.lengths.keys().map_while(|n| path.get(..*n).or(char_cut(path, *n))) {
                    v.below.get(prefix).into_iter().flat_map(|p| p.values()).for_each(|p| fire(p, &mut woken));
                }
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }

    /// Tells all who wait for sessions.
    pub fn tell_sessions(&self, vhost: &str) {
        let mut woken = Vec::new();
        if let Some(v) = lock(&self.inner).vhosts.get(vhost) {
            v.sessions.values().for_each(|p| fire(p, &mut woken));
        }
        woken.into_iter().for_each(Waker::wake);
    }

    fn forget(&self, watch: &Watch) {
        let mut inner = lock(&self.inner);
        let Some(v) = inner.vhosts.get_mut(&watch.vhost) else { return };
        match &watch.what {
            What::Path(path) => remove(&mut v.exact, path, watch.id),
            What::Below(prefix) => {
                remove(&mut v.below, prefix, watch.id);
                if let Some(count) = v.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        v.lengths.remove(&prefix.len());
                    }
                }
            }
            What::Sessions => drop(v.sessions.remove(&watch.id)),
        }
        if v.exact.is_empty() && v.below.is_empty() && v.sessions.is_empty() {
            inner.vhosts.remove(&watch.vhost);
        }
    }
}

/// A length inside a character is nobody's prefix; the next longer one may be. The empty text is a stand-in that only
/// matches if somebody waits for everything, who is told anyway.
fn char_cut(path: &str, n: usize) -> Option<&str> {
    (n < path.len()).then_some("")
}

fn remove(map: &mut HashMap<Arc<str>, Places>, key: &Arc<str>, id: u64) {
    if let Some(places) = map.get_mut(key) {
        places.remove(&id);
        if places.is_empty() {
            map.remove(key);
        }
    }
}

/// Somebody who waits. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    hub: Arc<Hub>,
    id: u64,
    vhost: Arc<str>,
    what: What,
    place: Place,
}

impl Watch {
    /// Completes once something has changed since the watch began, or since this completed last. Several changes count
    /// as one.
    ///
    /// # Cancel safety
    /// What has changed is not lost when the future is dropped.
    pub async fn changed(&mut self) {
        poll_fn(|cx| {
            let mut slot = lock(&self.place);
            if std::mem::take(&mut slot.fired) {
                return Poll::Ready(());
            }
            slot.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let hub = Arc::clone(&self.hub);
        hub.forget(self);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn fired(watch: &mut Watch) -> bool {
        pin!(watch.changed()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    use std::future::Future;

    fn told(hub: &Hub, paths: &[&str]) {
        let paths: Vec<Arc<str>> = paths.iter().map(|p| (*p).into()).collect();
        hub.tell("/", paths.iter());
    }

    #[test]
    fn only_what_is_waited_for_wakes() {
        let hub = Arc::new(Hub::default());
        let whats = [What::Path("a/b".into()), What::Below("a/".into()), What::Below("".into()), What::Sessions];
        let mut all = whats.map(|what| hub.watch("/", what));
        let mut other = hub.watch("other", What::Below("".into()));
        let mut look = || all.iter_mut().map(fired).collect::<Vec<_>>();
        assert_eq!(look(), [false, false, false, false]);
        told(&hub, &["a/b"]);
        assert_eq!(look(), [true, true, true, false]);
        told(&hub, &["a/c", "a/d"]);
        assert_eq!(look(), [false, true, true, false]);
        told(&hub, &["a"]);
        assert_eq!(look(), [false, false, true, false]);
        hub.tell_sessions("/");
        assert_eq!(look(), [false, false, false, true]);
        assert!(!fired(&mut other));
    }

    #[test]
    fn a_length_inside_a_character_hides_no_longer_prefix() {
        let hub = Arc::new(Hub::default());
        let _inside = hub.watch("/", What::Below("a".into()));
        let mut long = hub.watch("/", What::Below("üb".into()));
        told(&hub, &["über"]);
        assert!(fired(&mut long));
    }

    #[test]
    fn whoever_is_gone_leaves_nothing_behind() {
        let hub = Arc::new(Hub::default());
        drop([What::Path("a".into()), What::Below("b".into()), What::Sessions].map(|w| hub.watch("/", w)));
        assert!(lock(&hub.inner).vhosts.is_empty());
    }
}
