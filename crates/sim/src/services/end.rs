//! The end of a world of services: everybody is there, everything flows off, and the accounts are made up.

use waypost_model::Call;
use waypost_model::command::{Consume, Outcome};
use waypost_model::table::Table;

use super::check::everybody;
use super::peer::{Fate, INSTANCES, Mode, SERVICES};
use super::world::Services;
use crate::world::Broken;

/// Rounds after which a world that does not come to rest is stuck.
const ROUNDS_MAX: usize = 400;

/// How long recipients have to come back after a start, and what it takes until everybody is well again, ms.
const LATE_MS: usize = 40_000;

impl Services {
    /// Those who are there take what they can have; then everybody comes, and takes the rest.
    ///
    /// # Errors
    /// A broken rule.
    pub fn end(&mut self) -> Result<(), Broken> {
        self.trace.add("end".into());
        self.flow()?;
        self.nobody_could_have_it()?;
        for (service, instance) in everybody() {
            let (services, name) = (self.registry.services("/"), INSTANCES[instance].0);
            services.undrain(SERVICES[service], name, self.now).map_err(|e| format!("undrain is refused: {e}"))?;
        }
        for at in everybody() {
            self.serve_as(at.0, at.1, 0)?;
        }
        for _ in 0..4 {
            self.flow()?;
            self.now = self.now.plus(LATE_MS as u64);
            self.pass(10)?;
        }
        self.flow()?;
        self.dig()?;
        self.audit()
    }

    /// Everything that is held is accepted, until nothing comes any more.
    fn flow(&mut self) -> Result<(), Broken> {
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            self.commit_all()?;
            self.sent(usize::MAX)?;
            let held: Vec<_> = self.peers.iter().flat_map(|(id, p)| p.held.keys().map(|at| (*id, *at))).collect();
            quiet = if held.is_empty() { quiet + 1 } else { 0 };
            for (id, at) in held {
                self.settle_one(id, at, Outcome::Accepted)?;
            }
            self.pass(30)?;
            if quiet > 6 {
                return self.commit_all();
            }
        }
        Err("it never comes to rest".into())
    }

    /// Dead letters come out.
    fn dig(&mut self) -> Result<(), Broken> {
        let id = self.connect()?;
        let (queue, tag, arguments) = ("dl".into(), "dl".into(), Table::new());
        let consume = Consume { queue, tag, no_ack: false, exclusive: false, arguments, window_bytes: 1 << 30 };
        self.call(id, Call::Consume(consume))?;
        self.flow()
    }

    fn audit(&mut self) -> Result<(), Broken> {
        for (uid, message) in &self.messages {
            let fates: Vec<Fate> = match message.mode {
                Mode::All => message.copies.values().copied().collect(),
                Mode::One | Mode::Key(_) => vec![message.fate],
            };
            for fate in fates {
                let buried = self.buried.contains(uid);
                match fate {
                    Fate::Must => return Err(format!("lost: {uid}: {message:?}")),
                    Fate::Either | Fate::Rejected if !buried => {
                        return Err(format!("no dead letter: {uid}: {message:?}"));
                    }
                    _ => {}
                }
            }
        }
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.part(id, "goodbye")?;
        }
        self.commit_all()?;
        for r in self.broker.queues(None).map_err(|e| e.to_string())? {
            let c = r.state.counts;
            let waiting = c.ready + c.unsettled + c.unsent + c.leaving + c.ready_bytes + c.ready_payload;
            if waiting + u64::from(c.consumers) > 0 || r.state.memory > 0 {
                return Err(format!("{} is not empty: {c:?}, {} bytes", r.view.settings.name, r.state.memory));
            }
        }
        match self.broker.memory().used() {
            0 => Ok(()),
            used => Err(format!("{used} bytes are still counted")),
        }
    }
}
