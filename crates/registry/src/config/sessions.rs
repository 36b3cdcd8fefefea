//! Sessions in the store: they come, are renewed, and end.

use std::sync::Arc;

use waypost_model::{Lsn, Millis};

use super::fault::Fault;
use super::session::{self, Behavior, Live, NewSession, Session};
use super::stage::Stage;
use super::store::{By, Listing, State, Store};

impl Store {
    /// A session.
    #[must_use]
    pub fn session(&self, vhost: &str, id: &str) -> Listing<Arc<Session>> {
        self.sessions_where(vhost, |s| *s.id == *id)
    }

    /// All sessions.
    #[must_use]
    pub fn sessions(&self, vhost: &str) -> Listing<Arc<Session>> {
        self.sessions_where(vhost, |_| true)
    }

    /// Those of which something holds.
    pub fn sessions_where(&self, vhost: &str, holds: impl Fn(&Session) -> bool) -> Listing<Arc<Session>> {
        let state = self.look();
        let space = state.spaces.get(vhost);
        let all = space.into_iter().flat_map(|s| s.sessions.values().map(|live| &live.session));
        let items = all.filter(|s| holds(s)).cloned().collect();
        Listing { items, index: space.map_or(1, |s| s.sessions_changed.max(1)), lsn: state.lsn }
    }

    /// Makes a session. `random` makes its id.
    ///
    /// # Errors
    /// [`Fault::Bad`], [`Fault::Limit`], [`Fault::Append`].
    pub fn create_session(
        &self,
        vhost: &str,
        spec: NewSession,
        random: [u8; 16],
        now: Millis,
    ) -> Result<(Arc<Session>, Lsn), Fault> {
        spec.check()?;
        let mut state = self.change();
        let state = &mut *state;
        if state.spaces.get(vhost).map_or(0, |s| s.sessions.len()) >= self.settings.sessions_max {
            return Err(Fault::Limit("sessions per vhost"));
        }
        let created = state.revision + 1;
        let session = Arc::new(Session { id: session::uuid(random), spec, created });
        let lsn = self.journal.append(vec![session.define(vhost)])?;
        (state.revision, state.lsn) = (created, lsn);
        let space = state.spaces.entry(vhost.into()).or_default();
        space.sessions_changed = created;
        space.sessions.insert(Arc::clone(&session.id), Live::new(Arc::clone(&session), now));
        self.hub.tell_sessions(vhost);
        Ok((session, lsn))
    }

    /// Lets a session live on for its time to live. None if there is no such session. Writes nothing.
    pub fn renew_session(&self, vhost: &str, id: &str, now: Millis) -> Option<Arc<Session>> {
        let mut state = self.change();
        let live = state.spaces.get_mut(vhost)?.sessions.get_mut(id)?;
        live.renew(now);
        Some(Arc::clone(&live.session))
    }

    /// Ends a session: what it holds is unlocked or deleted. That there is none is fine.
    ///
    /// # Errors
    /// [`Fault::Append`].
    pub fn destroy_session(&self, vhost: &str, id: &str, now: Millis) -> Result<Lsn, Fault> {
        let mut state = self.change();
        self.end_session(&mut state, vhost, id, now)
    }

    pub(super) fn end_session(&self, state: &mut State, vhost: &str, id: &str, now: Millis) -> Result<Lsn, Fault> {
        let Some(space) = state.spaces.get(vhost) else { return Ok(state.lsn) };
        let Some(live) = space.sessions.get(id) else { return Ok(state.lsn) };
        let author = format!("session {id}");
        let by = By { author: &author, comment: "" };
        let mut stage = Stage::new(space, by, state.revision + 1, now);
        let (session, held) = (Arc::clone(&live.session), live.held.clone());
        for path in &held {
            match session.spec.behavior {
                Behavior::Release => stage.release(path),
                Behavior::Delete => stage.delete_held(path),
            }
        }
        let (drafts, gone) = (stage.drafts, session::undefine(vhost, id));
        let lsn = self.write(state, vhost, by, drafts, vec![gone], now)?;
        let revision = state.revision;
        if let Some(space) = state.spaces.get_mut(vhost) {
            space.sessions.remove(id);
            space.sessions_changed = revision;
            if session.spec.lock_delay_ms > 0 {
                let until = now.plus(session.spec.lock_delay_ms);
                space.delays.extend(held.into_iter().map(|path| (path, until)));
            }
        }
        self.hub.tell_sessions(vhost);
        Ok(lsn)
    }
}
