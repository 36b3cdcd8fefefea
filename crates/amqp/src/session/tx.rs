//! Transactions (§1.9): publishes and settlements are kept back until they are committed.

use std::sync::Arc;

use waypost_model::command::Outcome;
use waypost_model::{BatchBuilder, ChannelId, Command, Publish, Refusal};

use super::fault::Result;
use super::settle::settle_command;
use super::unsettled::TagRun;

/// Most publishes and settlements of a transaction. More are refused with 506.
const COMMANDS_MAX: usize = 262_144;

/// What a transactional channel keeps back.
#[derive(Debug, Default)]
pub(super) struct Tx {
    commands: Vec<Command>,
    bodies: BatchBuilder,
    taken: Vec<TagRun>,
}

impl Tx {
    /// Keeps a publish; its message is copied, so that no read buffer is held.
    pub fn publish(&mut self, mut publish: Publish, props: &[u8], body: &[u8], max: u64) -> Result<()> {
        self.check_room()?;
        let bytes = props.len() + body.len();
        if !self.bodies.fits(bytes) || (self.bodies.bytes() + bytes) as u64 > max {
            return Err(Refusal::resource_error(format!("transaction is larger than {max} bytes")));
        }
        publish.from = self.bodies.len() as u32;
        publish.to = publish.from + 1;
        self.bodies.push(props, body);
        self.commands.push(Command::Publish(publish));
        Ok(())
    }

    /// Keeps a settlement.
    pub fn settle(&mut self, channel: ChannelId, run: TagRun, outcome: Outcome) -> Result<()> {
        self.check_room()?;
        self.taken.push(run);
        self.commands.push(settle_command(channel, run, outcome));
        Ok(())
    }

    /// Everything kept, to be committed.
    pub fn commit(&mut self) -> Vec<Command> {
        self.taken.clear();
        let batch = Arc::new(std::mem::take(&mut self.bodies).finish());
        let mut commands = std::mem::take(&mut self.commands);
        for command in &mut commands {
            if let Command::Publish(publish) = command {
                publish.batch = Some(Arc::clone(&batch));
            }
        }
        commands
    }

    /// Forgets everything; what was settled is unsettled again.
    pub fn rollback(&mut self) -> Vec<TagRun> {
        self.commands.clear();
        self.bodies = BatchBuilder::default();
        std::mem::take(&mut self.taken)
    }

    fn check_room(&self) -> Result<()> {
        if self.commands.len() >= COMMANDS_MAX {
            return Err(Refusal::resource_error(format!("transaction of more than {COMMANDS_MAX} steps")));
        }
        Ok(())
    }
}
