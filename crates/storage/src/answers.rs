//! What the log makes of frames, and what the store makes of that.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use waypost_model::Lsn;

use crate::commit::Writer;
use crate::disk::{DiskFile, read_exact};
use crate::engine::Shared;
use crate::log::{Answer, LogFrame, Outcome, Position};
use crate::segment::SEGMENT_HEADER;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Durable,
    Failed,
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub at: Position,
    /// Where the frame before ends.
    pub follows: Position,
    /// In the same segment.
    pub end: Position,
}

/// A frame that the log was given.
pub struct UnderWay {
    span: Span,
    /// The last ticket in it.
    pub last: Lsn,
    state: State,
    since: Instant,
}

impl UnderWay {
    pub fn new(span: Span, last: Lsn) -> UnderWay {
        UnderWay { span, last, state: State::Waiting, since: Instant::now() }
    }

    pub fn has_failed(&self) -> bool {
        self.state == State::Failed
    }
}

impl Shared {
    /// Takes the answers that are there; returns the last ticket up to which all is durable, if that has moved.
    ///
    /// # Errors
    /// Whatever leaves it open what the log holds, or that it is not ours any more: the store must be opened again.
    pub fn take_answers(&self, writer: &mut Writer) -> io::Result<Option<Lsn>> {
        while let Some(Answer { at, outcome }) = self.log.answer() {
            let waiting = writer.under_way.iter_mut().find(|f| f.span.at == at && f.state == State::Waiting);
            let Some(frame) = waiting else {
                return Err(io::Error::other(format!("it answers for a frame at {at:?}, which it was not given")));
            };
            frame.state = match outcome {
                Outcome::Durable => State::Durable,
                Outcome::Failed(_) => State::Failed,
                Outcome::Unknown(e) => return Err(e),
                Outcome::Fenced(epoch) => {
                    self.inbox.fence();
                    return Err(io::Error::other(format!("epoch {epoch} has taken it over from {}", writer.epoch)));
                }
            };
        }
        let mut last = None;
        while let Some(frame) = writer.under_way.pop_front_if(|f| f.state == State::Durable) {
            if frame.span.end.segment == writer.active.id {
                writer.synced = frame.span.end.offset;
            }
            self.metrics.synced(frame.since.elapsed());
            last = Some(frame.last);
        }
        self.append_again(writer)?;
        Ok(last)
    }

    /// Hands in again what the log has refused, once it has answered for everything behind it.
    fn append_again(&self, writer: &mut Writer) -> io::Result<()> {
        let frames = &mut writer.under_way;
        if !frames.iter().any(UnderWay::has_failed) || frames.iter().any(|f| f.state == State::Waiting) {
            return Ok(());
        }
        if frames.iter().any(|f| f.state == State::Durable) {
            return Err(io::Error::other("it has a frame, but not the one before"));
        }
        for frame in frames {
            let segment = self.index.segment(frame.span.at.segment.0).ok_or(io::ErrorKind::NotFound)?;
            self.append_stored(frame.span, writer.epoch, &segment.file)?;
            frame.state = State::Waiting;
        }
        Ok(())
    }

    fn append_stored(&self, Span { at, follows, end }: Span, epoch: u32, file: &Arc<dyn DiskFile>) -> io::Result<()> {
        let mut segment_header = [0; SEGMENT_HEADER];
        read_exact(&**file, 0, &mut segment_header)?;
        let mut bytes = vec![0; (end.offset - at.offset) as usize];
        read_exact(&**file, at.offset, &mut bytes)?;
        let segment_header = &segment_header;
        self.log.append(&LogFrame { epoch, at, follows, segment_header, bytes: &[&bytes] }, file);
        Ok(())
    }
}
