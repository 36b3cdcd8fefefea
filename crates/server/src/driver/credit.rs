//! Byte credit of consumers: how much a new one gets, and what is given back when bytes have left.

use std::collections::VecDeque;

use waypost_model::command::Sent;
use waypost_model::{Call, Command, Delivery, Turn};

/// The window of a consumer that is alone on its connection, bytes.
pub(super) const WINDOW_BYTES: u64 = 512 * 1024;

/// No window is smaller, bytes.
const WINDOW_BYTES_MIN: u64 = 16 * 1024;

/// Up to so many consumers, each has the full window.
const FULL_WINDOWS: u64 = 8;

/// Follows deliveries from the session to the socket.
#[derive(Debug, Default)]
pub(super) struct Credit {
    /// Consumers started and not cancelled. Those that went with their channel are not noticed; it only sizes windows.
    consumers: u64,
    /// Handed to the session in this round, of which no byte position is known yet.
    fresh: Vec<Sent>,
    /// Encoded: they have left once so many bytes are written.
    under_way: VecDeque<(u64, Sent)>,
    /// Written, not yet given back.
    left: Vec<Sent>,
    left_bytes: u64,
}

impl Credit {
    /// Fills in the windows of consumers that the turn starts.
    pub(super) fn grant(&mut self, turn: &mut Turn) {
        for command in &mut turn.commands {
            if let Command::Call { call, .. } = command {
                match call {
                    Call::Consume(consume) => {
                        self.consumers += 1;
                        consume.window_bytes = window(self.consumers);
                    }
                    Call::Cancel { .. } => self.consumers = self.consumers.saturating_sub(1),
                    _ => {}
                }
            }
        }
    }

    /// A delivery goes to the session.
    pub(super) fn handed(&mut self, delivery: &Delivery) {
        let sent =
            Sent { consumer: delivery.consumer, queue: delivery.queue, messages: delivery.count, bytes: delivery.cost };
        add(&mut self.fresh, sent);
    }

    /// All that was handed over is encoded and ends before byte `position` of the stream.
    pub(super) fn encoded(&mut self, position: u64) {
        self.under_way.extend(self.fresh.drain(..).map(|sent| (position, sent)));
    }

    /// The stream is written up to `position`.
    pub(super) fn written(&mut self, position: u64) {
        while self.under_way.front().is_some_and(|(end, _)| *end <= position) {
            if let Some((_, sent)) = self.under_way.pop_front() {
                self.give_back(sent);
            }
        }
    }

    /// Credit of messages that will never be sent, because they are gone.
    pub(super) fn give_back(&mut self, sent: Sent) {
        self.left_bytes = self.left_bytes.saturating_add(sent.bytes);
        add(&mut self.left, sent);
    }

    /// Whether enough has left to be worth a command before the stream runs dry.
    pub(super) fn half_a_window_left(&self) -> bool {
        self.left_bytes >= WINDOW_BYTES / 2
    }

    /// Puts what has left into the turn.
    pub(super) fn hand_back(&mut self, turn: &mut Turn) {
        self.left_bytes = 0;
        turn.commands.extend(self.left.drain(..).map(Command::Sent));
    }

    /// Gives back memory of a connection that went idle.
    pub(super) fn release(&mut self) {
        self.fresh.shrink_to_fit();
        self.under_way.shrink_to_fit();
        self.left.shrink_to_fit();
    }
}

/// The window of the newest of so many consumers.
fn window(consumers: u64) -> u64 {
    (WINDOW_BYTES * FULL_WINDOWS / consumers.max(FULL_WINDOWS)).max(WINDOW_BYTES_MIN)
}

/// Adds to the entry of the same consumer if that is among the last few; a further entry does no harm.
fn add(list: &mut Vec<Sent>, sent: Sent) {
    const LOOK_BACK: usize = 4;
    for old in list.iter_mut().rev().take(LOOK_BACK) {
        if old.consumer == sent.consumer
            && old.queue == sent.queue
            && let Some(messages) = old.messages.checked_add(sent.messages)
        {
            old.messages = messages;
            old.bytes = old.bytes.saturating_add(sent.bytes);
            return;
        }
    }
    list.push(sent);
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_model::{ConsumerId, QueueId};

    fn sent(consumer: u64, bytes: u64) -> Sent {
        Sent { consumer: ConsumerId(consumer), queue: QueueId(1), messages: 1, bytes }
    }

    #[test]
    fn credit_comes_back_only_when_its_bytes_are_written() {
        let mut credit = Credit::default();
        let mut turn = Turn::default();
        credit.fresh.push(sent(1, 100));
        credit.encoded(50);
        credit.fresh.push(sent(1, 7));
        credit.encoded(80);
        credit.written(49);
        credit.hand_back(&mut turn);
        assert!(turn.commands.is_empty());
        credit.written(79);
        credit.hand_back(&mut turn);
        assert!(matches!(turn.commands[..], [Command::Sent(Sent { bytes: 100, .. })]));
    }

    #[test]
    fn equal_consumers_are_added_up() {
        let mut list = Vec::new();
        for c in [1, 2, 1, 2] {
            add(&mut list, sent(c, 10));
        }
        assert_eq!(
            list.iter().map(|s| (s.consumer.0, s.messages, s.bytes)).collect::<Vec<_>>(),
            [(1, 2, 20), (2, 2, 20)]
        );
    }

    #[test]
    fn windows_shrink_with_many_consumers() {
        assert_eq!(window(1), WINDOW_BYTES);
        assert_eq!(window(16), WINDOW_BYTES / 2);
        assert_eq!(window(100_000), WINDOW_BYTES_MIN);
    }
}
