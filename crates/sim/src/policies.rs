//! Policies and operator policies that come and go while messages flow: each holds at once, and the stricter of two counts.

use waypost_broker::topology::{ApplyTo, PolicySort, PolicySpec};
use waypost_model::table::{Table, Value};

use crate::ledger::Fate;
use crate::world::{Broken, World};

/// The queue that they are for. It has no limit of its own.
const QUEUE: &str = "q0";
const SORTS: [PolicySort; 2] = [PolicySort::User, PolicySort::Operator];

impl World {
    /// Sets a limit by policy, or takes it away.
    pub(crate) fn policy(&mut self) -> Result<(), Broken> {
        let sort = SORTS[self.rng.below(2)];
        if self.rng.once_in(2) {
            let limit = 1 + self.rng.below(6) as i64;
            let spec = PolicySpec {
                pattern: format!("^{QUEUE}$"),
                apply_to: ApplyTo::Queues,
                priority: 1,
                definition: Table::new().with("max-length", Value::I64(limit)),
            };
            let put = self.broker.put_policy("/", "limit", &spec, sort, self.now);
            self.trace.add(format!("  {sort:?} limit {limit}: {}", put.is_ok()));
        } else {
            let gone = self.broker.delete_policy("/", "limit", sort, self.now);
            self.trace.add(format!("  {sort:?} no limit: {}", gone.is_ok()));
        }
        self.collect()?;
        self.learn_limits()?;
        self.check_limit()
    }

    /// The limit that holds.
    fn limit(&self) -> Option<i64> {
        let of = |sort| self.broker.policy("/", "limit", sort).ok()?.spec.definition.get("max-length")?.as_i64();
        SORTS.into_iter().filter_map(of).min()
    }

    /// Whether messages of the queue may be dropped now: those that are there, and those to come.
    pub(crate) fn learn_limits(&mut self) -> Result<(), Broken> {
        let limited = self.limit().is_some();
        let plan = self.plans.get_mut(QUEUE).ok_or("no such plan")?;
        plan.leaks = limited;
        if limited {
            let copies = self.ledger.copies.iter_mut().filter(|((q, _), c)| *q == QUEUE && c.fate == Fate::Must);
            copies.for_each(|(_, copy)| copy.fate = Fate::May);
        }
        Ok(())
    }

    /// No more messages wait than the stricter policy allows.
    pub(crate) fn check_limit(&self) -> Result<(), Broken> {
        let (Some(limit), Some(id)) = (self.limit(), self.ids.get(QUEUE)) else { return Ok(()) };
        for r in self.broker.queues(None).map_err(|e| e.to_string())? {
            let ready = r.state.counts.ready;
            if r.view.settings.id == *id && ready > limit.unsigned_abs() {
                return Err(format!("{ready} messages wait in {QUEUE}, the policies allow {limit}"));
            }
        }
        Ok(())
    }
}
