//! Publisher confirms: the core's verdicts come in runs and any order, wait for the disk, and leave in order, as few
//! frames as possible.

use std::collections::VecDeque;

use waypost_model::Lsn;

use crate::codec::frame::encode_method;
use crate::codec::method::basic;

/// The core's verdict on the publishes `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub first: u64,
    pub last: u64,
    /// Must be durable before the peer hears of it.
    pub lsn: Option<Lsn>,
    pub accepted: bool,
}

/// The confirms of one channel. Everything leaves in the order of publishing: what is ready waits for what is before it,
/// which the core has decided as well and the disk will have in a moment; for that, one frame confirms many.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    /// Sequence number of the last publish.
    pub issued: u64,
    /// All up to this one are confirmed.
    settled: u64,
    /// By number, not overlapping, all above `settled`.
    verdicts: VecDeque<Verdict>,
    /// Whether the session will look here at the next flush.
    pub listed: bool,
}

impl Confirms {
    /// Takes note of a verdict.
    pub fn note(&mut self, verdict: Verdict) {
        if let Some(back) = self.verdicts.back_mut() {
            if back.last + 1 == verdict.first && back.accepted == verdict.accepted && back.lsn == verdict.lsn {
                back.last = verdict.last;
                return;
            }
            if back.last >= verdict.first {
                let at = self.verdicts.partition_point(|v| v.first < verdict.first);
                self.verdicts.insert(at, verdict);
                return;
            }
        }
        self.verdicts.push_back(verdict);
    }

    /// Writes what may go. Returns the ticket that the next verdict waits for, if that is what holds it back.
    pub fn emit(&mut self, durable: Lsn, channel: u16, out: &mut Vec<u8>) -> Option<Lsn> {
        let (from, mut waits) = (self.settled, None);
        let mut acked = from;
        while let Some(next) = self.verdicts.front().filter(|v| v.first == self.settled + 1) {
            if let Some(lsn) = next.lsn.filter(|lsn| *lsn > durable) {
                waits = Some(lsn);
                break;
            }
            if !next.accepted {
                ack(acked, self.settled, channel, out);
                let multiple = next.last > next.first;
                let nack = basic::Nack { delivery_tag: next.last, multiple, requeue: false };
                encode_method(out, channel, &nack);
                acked = next.last;
            }
            self.settled = next.last;
            self.verdicts.pop_front();
        }
        ack(acked, self.settled, channel, out);
        waits
    }

    /// Whether nothing is noted and not written.
    pub fn is_idle(&self) -> bool {
        self.verdicts.is_empty()
    }
}

/// Acknowledges the publishes after `from`, through `through`.
fn ack(from: u64, through: u64, channel: u16, out: &mut Vec<u8>) {
    if through > from {
        let ack = basic::Ack { delivery_tag: through, multiple: through - from > 1 };
        encode_method(out, channel, &ack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Frame, Method};

    fn verdict(first: u64, last: u64, lsn: Option<u64>, accepted: bool) -> Verdict {
        Verdict { first, last, lsn: lsn.map(Lsn), accepted }
    }

    fn emit(confirms: &mut Confirms, durable: u64) -> Vec<(char, u64, bool)> {
        let mut out = Vec::new();
        confirms.emit(Lsn(durable), 1, &mut out);
        let (mut rest, mut seen) = (&out[..], Vec::new());
        while let Some(frame) = Frame::parse(rest, 4096).unwrap() {
            seen.push(match Method::decode(frame.payload).unwrap() {
                Method::BasicAck(ack) => ('+', ack.delivery_tag, ack.multiple),
                Method::BasicNack(nack) => ('-', nack.delivery_tag, nack.multiple),
                other => panic!("{other:?}"),
            });
            rest = &rest[frame.wire_len()..];
        }
        seen
    }

    #[test]
    fn runs_become_one_frame() {
        let mut confirms = Confirms::default();
        confirms.note(verdict(1, 1, None, true));
        assert_eq!(emit(&mut confirms, 0), [('+', 1, false)]);
        confirms.note(verdict(2, 9, None, true));
        confirms.note(verdict(10, 20, None, true));
        assert_eq!(emit(&mut confirms, 0), [('+', 20, true)]);
        assert!(confirms.is_idle());
    }

    #[test]
    fn order_is_kept_whatever_the_order_of_verdicts() {
        let mut confirms = Confirms::default();
        confirms.note(verdict(5, 6, None, true));
        confirms.note(verdict(3, 4, None, false));
        assert_eq!(emit(&mut confirms, 0), []);
        confirms.note(verdict(1, 2, None, true));
        assert_eq!(emit(&mut confirms, 0), [('+', 2, true), ('-', 4, true), ('+', 6, true)]);
    }

    #[test]
    fn nothing_leaves_before_the_disk_has_it() {
        let mut confirms = Confirms::default();
        confirms.note(verdict(1, 3, Some(7), true));
        confirms.note(verdict(4, 4, Some(8), true));
        confirms.note(verdict(5, 5, None, true));
        assert_eq!(confirms.emit(Lsn(6), 1, &mut Vec::new()), Some(Lsn(7)));
        assert_eq!(emit(&mut confirms, 7), [('+', 3, true)]);
        assert_eq!(confirms.emit(Lsn(7), 1, &mut Vec::new()), Some(Lsn(8)));
        assert_eq!(emit(&mut confirms, 8), [('+', 5, true)]);
    }
}
