//! Finds whole messages in what has come, without looking at more than their headers.

use std::ops::Range;

use super::Event;
use crate::fault::Fault;
use crate::wire::chunk::{Chunk, Slice};
use crate::wire::frame::{self, COMMAND, MORE};
use crate::wire::pool::Pool;

/// Commands that may stand between the frames of one message. The specification has none there; libzmq may send a ping.
const COMMANDS_INSIDE_MAX: u32 = 16;

/// Something whole, by its place in the buffer.
#[derive(Debug, Clone)]
pub(super) enum Mark {
    Messages(Range<usize>, u32),
    /// A command's body.
    Command(Range<usize>),
    /// A prefix.
    Subscribe(Range<usize>),
    /// A prefix.
    Cancel(Range<usize>),
}

/// Clear frames, as they came or as they were decrypted.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    buffer: Vec<u8>,
    /// Where the first message begins that is not whole.
    message: usize,
    /// Where the first frame begins that is not whole.
    frame: usize,
    inside: u32,
    marks: Vec<Mark>,
}

impl Scanner {
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    pub(super) fn has_partial(&self) -> bool {
        self.message < self.buffer.len()
    }

    pub(super) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    pub(super) fn mark(&mut self, i: usize, mark: Mark) {
        if let Some(place) = self.marks.get_mut(i) {
            *place = mark;
        }
    }

    pub(super) fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.buffer.get(range.clone()).unwrap_or_default()
    }

    /// Marks what is whole.
    pub(super) fn scan(&mut self, message_bytes_max: u64) -> Result<(), Fault> {
        loop {
            let from = self.message;
            let limit = usize::try_from(message_bytes_max).unwrap_or(usize::MAX).min(SHORT_MESSAGE_MAX);
            let (run, at) = short_run(&self.buffer, self.message, self.frame, limit);
            (self.message, self.frame) = (run.end, at);
            let mut messages = run.messages;
            let mut step = Step::Incomplete;
            // Long frames go on with the same run; only a command interrupts it.
            while let Some(rest) = self.buffer.get(self.frame..) {
                step = next(rest, self.frame - self.message, message_bytes_max)?;
                let Step::Frame { flags, len, .. } = step else { break };
                if flags & COMMAND != 0 {
                    break;
                }
                self.frame += len;
                if flags & MORE == 0 {
                    (self.message, self.inside) = (self.frame, 0);
                    messages += 1;
                    break;
                }
            }
            if messages > 0 {
                self.mark_messages(from..self.message, messages);
            }
            match step {
                Step::Incomplete => return Ok(()),
                Step::Frame { flags, len, body } if flags & COMMAND != 0 => self.command(len, body)?,
                Step::Frame { .. } => {}
            }
        }
    }

    /// Adds to the last run if it ends here.
    fn mark_messages(&mut self, range: Range<usize>, messages: u32) {
        if let Some(Mark::Messages(last, count)) = self.marks.last_mut()
            && last.end == range.start
            && let Some(sum) = count.checked_add(messages)
        {
            last.end = range.end;
            *count = sum;
            return;
        }
        self.marks.push(Mark::Messages(range, messages));
    }

    fn command(&mut self, len: usize, body: usize) -> Result<(), Fault> {
        let at = self.frame;
        if at == self.message {
            self.marks.push(Mark::Command(at + len - body..at + len));
            self.frame += len;
            self.message = self.frame;
            return Ok(());
        }
        self.inside += 1;
        if self.inside > COMMANDS_INSIDE_MAX {
            return Err(Fault::Malformed("message: too many commands inside"));
        }
        // The frames of the message must stand together: the command moves before them.
        let Some(both) = self.buffer.get_mut(self.message..at + len) else { return Ok(()) };
        both.rotate_right(len);
        let end = self.message + len;
        self.marks.push(Mark::Command(end - body..end));
        self.message = end;
        self.frame = at + len;
        Ok(())
    }

    /// Hands out what is marked. The rest moves to the front of a buffer of its own.
    pub(super) fn seal(&mut self, pool: &mut Pool, events: &mut Vec<Event>) {
        let kept = self.message;
        self.frame -= kept;
        self.message = 0;
        if self.marks.iter().all(|mark| matches!(mark, Mark::Command(_))) {
            self.marks.clear();
            self.buffer.drain(..kept);
            if self.buffer.is_empty() {
                pool.give(std::mem::take(&mut self.buffer));
            }
            return;
        }
        let mut data = std::mem::take(&mut self.buffer);
        if kept < data.len() {
            let tail = data.get(kept..).unwrap_or_default();
            self.buffer = pool.take(tail.len());
            self.buffer.extend_from_slice(tail);
            data.truncate(kept);
        }
        let data = pool.share(data);
        events.extend(self.marks.drain(..).filter_map(|mark| match mark {
            Mark::Messages(range, messages) => Some(Event::Messages(Chunk::new(data.clone(), range, messages))),
            Mark::Subscribe(range) => Some(Event::Subscribe(Slice::new(data.clone(), range))),
            Mark::Cancel(range) => Some(Event::Cancel(Slice::new(data.clone(), range))),
            Mark::Command(_) => None,
        }));
    }
}

struct Run {
    /// Where the messages end.
    end: usize,
    messages: u32,
}

/// Passes over short frames that are no commands, which is what nearly all frames are, in messages up to `limit`. Also
/// says where the first frame begins that is not such.
fn short_run(buffer: &[u8], mut message: usize, mut at: usize, limit: usize) -> (Run, usize) {
    let mut messages = 0;
    while let Some([flags @ (0 | MORE), len, rest @ ..]) = buffer.get(at..)
        && rest.len() >= usize::from(*len)
    {
        let end = at + 2 + usize::from(*len);
        if end - message > limit {
            break;
        }
        at = end;
        if *flags == 0 {
            message = at;
            messages += 1;
        }
    }
    (Run { end: message, messages }, at)
}

/// Messages of short frames up to this size need no closer look.
const SHORT_MESSAGE_MAX: usize = 4 * 1024;

enum Step {
    Incomplete,
    /// `len` octets in all, of which `body` are the body.
    Frame {
        flags: u8,
        len: usize,
        body: usize,
    },
}

/// The frame at the front of `rest`, with `before` octets of its message before it.
fn next(rest: &[u8], before: usize, max: u64) -> Result<Step, Fault> {
    let Some(h) = frame::header(rest)? else { return Ok(Step::Incomplete) };
    let bytes = (before as u64).saturating_add(h.header_len as u64).saturating_add(h.body_len);
    if bytes > max {
        return Err(Fault::TooLarge { what: "message", bytes, max });
    }
    Ok(match frame::first(rest) {
        Some(f) => Step::Frame { flags: f.flags, len: f.len, body: f.body.len() },
        None => Step::Incomplete,
    })
}
