//! What a bridge has at its ends, of which either may be missing.

use std::sync::Arc;

use waypost_model::Millis;
use waypost_zmtp::device::{Counters, End};

use super::inlet::Inlet;
use super::outlet::{Form, Outlet};

/// Which ends a bridge has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) front: bool,
    pub(crate) back: bool,
}

/// The way into the broker and the way out.
pub(super) struct Sides {
    pub(super) inlet: Option<Inlet>,
    pub(super) outlet: Option<Outlet>,
}

impl Sides {
    /// Whom the broker wakes.
    pub(super) fn wake_by(&mut self, waker: &Arc<mio::Waker>) {
        if let Some(inlet) = &mut self.inlet {
            inlet.link().wake_by(waker);
        }
        if let Some(outlet) = &mut self.outlet {
            outlet.link().wake_by(waker);
        }
    }

    /// Whether peers of this end are to be read.
    pub(super) fn wants(&self, end: End) -> bool {
        end == End::Back || self.inlet.as_ref().is_none_or(Inlet::has_room)
    }

    /// Whether messages wait for peers that have no room.
    pub(super) fn is_blocked(&self) -> bool {
        self.outlet.as_ref().is_some_and(Outlet::has_ready)
    }

    /// Whether all that was read has come to where it belongs. What the broker has for peers may stay there.
    pub(super) fn is_settled(&self) -> bool {
        self.inlet.as_ref().is_none_or(Inlet::is_settled)
    }

    /// The bridge's own counters with what the broker could not route.
    pub(super) fn counters(&self, own: Counters) -> Counters {
        let unroutable = self.inlet.as_ref().map_or(0, |inlet| inlet.unroutable);
        Counters { unroutable: own.unroutable + unroutable, ..own }
    }

    /// Hears what the broker says. Returns whether it said anything.
    pub(super) fn turn(&mut self, now: Millis, form: Form) -> bool {
        let heard = self.inlet.as_mut().is_some_and(|inlet| inlet.turn(now));
        heard | self.outlet.as_mut().is_some_and(|outlet| outlet.turn(form) > 0)
    }

    /// When [`Sides::turn`] has something to do at the latest.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.inlet.as_ref().and_then(Inlet::deadline)
    }
}
