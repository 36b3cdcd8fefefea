//! What the ledger says after a restart: promises are held against what is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::{Copy, Fate};
use crate::tap::Image;
use crate::world::{Broken, World};

impl World {
    /// Brings the ledger in line with what was recovered.
    pub(crate) fn resync(&mut self, image: &Image) -> Result<(), Broken> {
        self.learn_ids()?;
        let names: BTreeMap<_, _> = self.ids.iter().map(|(n, id)| (*id, *n)).collect();
        let anywhere: BTreeSet<u64> = image.messages.values().map(|m| m.uid).collect();
        let mut here: BTreeSet<(&'static str, u64)> = BTreeSet::new();
        for ((queue, _), m) in &image.messages {
            if let Some(name) = names.get(queue) {
                here.insert((name, m.uid));
            }
        }
        let rejected: Vec<u64> = self.ledger.rejections.keys().copied().collect();
        self.ledger.unsure.extend(rejected);
        let plans = self.plans.clone();
        let now = self.now.0;
        let buried: BTreeSet<(u64, String)> = self.ledger.buried.keys().map(|(u, q, _)| (*u, q.clone())).collect();
        self.ledger.copies.retain(|(q, _), _| plans[q].durable);
        for (&(queue, uid), copy) in &mut self.ledger.copies {
            let plan = &plans[queue];
            if here.contains(&(queue, uid)) {
                if copy.fate == Fate::Gone {
                    copy.fate = if plan.leaks || copy.repeats { Fate::May } else { Fate::Must };
                }
                (copy.persistent, copy.rejected) = (true, false);
                continue;
            }
            if !copy.persistent {
                (copy.fate, copy.rejected) = (Fate::Gone, false);
                continue;
            }
            let went_on = plan.dead_letters
                && (here.contains(&("dl", uid)) || buried.contains(&(uid, queue.to_owned())))
                || matches!(queue, "w" | "r") && (here.contains(&("w", uid)) || here.contains(&("r", uid)))
                || copy.due.is_some() && anywhere.contains(&uid);
            if went_on {
                copy.repeats = true;
                continue;
            }
            let dead = copy.deadline.is_some_and(|d| d <= now) && !plan.dead_letters;
            let dropped = plan.leaks;
            if (copy.fate == Fate::Must || copy.rejected) && copy.confirmed && !dead && !dropped {
                return Err(format!("lost: uid {uid} of {queue}: {copy:?}"));
            }
            (copy.fate, copy.rejected) = (Fate::Gone, false);
        }
        for key in here {
            self.ledger.copies.entry(key).or_insert(Copy {
                fate: Fate::May,
                persistent: true,
                confirmed: false,
                deadline: None,
                due: None,
                repeats: true,
                rejected: false,
                returns: 0,
            });
        }
        Ok(())
    }
}
