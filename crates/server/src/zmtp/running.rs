//! The devices of a node: those that are declared for its start, and those that come and go while it runs.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::bridge::Place;
use super::spec::DeviceSpec;
use super::stats::{DeviceStats, Figures};
use super::worker::Handle;
use super::{ReservedDevice, name_is_sound};
use crate::error::ServeError;
use crate::node::Node;

/// Devices of a node, each of which has a thread.
const DEVICES_MAX: usize = 256;
/// How long whoever removes a device waits for what it still has to write.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between looks whether it has done so.
const REMOVE_POLL: Duration = Duration::from_millis(5);

/// Devices that run.
#[derive(Default)]
pub(crate) struct Devices {
    /// Held by whoever declares one, so that names and places are given once. Taken before `state`.
    declaring: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Vec<Running>,
    /// The node stops: nothing comes any more.
    over: bool,
}

/// A device with its thread.
pub(super) struct Running {
    pub(super) spec: DeviceSpec,
    pub(super) endpoints: Vec<String>,
    pub(super) stats: Arc<DeviceStats>,
    pub(super) handle: Handle,
    pub(super) thread: JoinHandle<io::Result<()>>,
    pub(super) origin: Origin,
    /// It was told to stop.
    pub(super) stopping: bool,
}

/// Who declared a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The configuration.
    Configuration,
    /// Somebody, while the node ran.
    Request,
}

/// How a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It runs.
    Running,
    /// It was removed, and writes what its peers still take.
    Stopping,
    /// Its thread has ended by itself; the log says why.
    Failed,
}

/// What is told of a device.
pub(crate) struct DeviceView {
    /// As it was declared, with its name.
    pub(crate) spec: DeviceSpec,
    /// Its name.
    pub(crate) name: String,
    /// Where it listens: the front's endpoints, then the back's.
    pub(crate) endpoints: Vec<String>,
    /// Who declared it.
    pub(crate) origin: Origin,
    /// How it is.
    pub(crate) condition: Condition,
    /// What it has done.
    pub(crate) figures: Figures,
}

/// Why a device is not declared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeclareError {
    /// Another one has the name.
    #[error("there is another device named `{0}`: remove it first")]
    Taken(String),
    /// It cannot be made as it is declared.
    #[error(transparent)]
    Unfit(#[from] ServeError),
    /// The name is none.
    #[error("`{0}` is no name of a device: 1 to 64 letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// There are too many.
    #[error("there are {DEVICES_MAX} devices already")]
    TooMany,
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

/// What became of a device that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It is gone.
    Gone,
    /// It still writes what its peers take; it goes by itself.
    Draining,
}

impl Running {
    fn condition(&self) -> Condition {
        match (self.stopping, self.thread.is_finished()) {
            (true, _) => Condition::Stopping,
            (false, true) => Condition::Failed,
            (false, false) => Condition::Running,
        }
    }

    fn view(&self) -> DeviceView {
        DeviceView {
            spec: self.spec.clone(),
            name: self.stats.name.clone(),
            endpoints: self.endpoints.clone(),
            origin: self.origin,
            condition: self.condition(),
            figures: self.stats.figures(),
        }
    }

    /// Lets it write what waits. Does not wait for that.
    fn stop(&mut self) {
        self.stopping = true;
        self.handle.stop();
    }

    /// Waits for its end.
    fn join(self) {
        let device = &self.stats.name;
        match self.thread.join() {
            Ok(Ok(())) => tracing::debug!(device, "the device has stopped"),
            Ok(Err(error)) => tracing::error!(device, %error, "the device had stopped"),
            Err(_) => tracing::error!(device, "the device had panicked"),
        }
    }
}

impl Devices {
    /// Starts those that were declared for the start.
    ///
    /// # Errors
    /// [`ServeError::Device`].
    pub(crate) fn start(&self, reserved: Vec<ReservedDevice>, node: &Node) -> Result<(), ServeError> {
        for device in reserved {
            let place = place(node, device.vhost());
            let running = device.start(node.config.server.connections_max, place, Origin::Configuration)?;
            self.state().running.push(running);
        }
        Ok(())
    }

    /// Declares a device and starts it. Blocks. What is there already in the same form stays as it is.
    ///
    /// # Errors
    /// [`DeclareError`].
    pub(crate) fn declare(&self, mut spec: DeviceSpec, node: &Node) -> Result<DeviceView, DeclareError> {
        let _turn = self.declaring.lock().unwrap_or_else(PoisonError::into_inner);
        let name = match spec.name.take() {
            Some(name) if !name_is_sound(&name) => return Err(DeclareError::Name(name)),
            Some(name) => name,
            None => self.free_name(spec.kind.name()),
        };
        // One of that name that failed is made anew; others that failed stay to be seen.
        self.reap(|device| device.thread.is_finished() && (device.stopping || device.stats.name == name));
        spec.name = Some(name.clone());
        {
            let state = self.state();
            if let Some(other) = state.running.iter().find(|other| other.stats.name == name) {
                let same = other.spec.is_same(&spec) && other.condition() == Condition::Running;
                return if same { Ok(other.view()) } else { Err(DeclareError::Taken(name)) };
            }
            if state.running.len() >= DEVICES_MAX {
                return Err(DeclareError::TooMany);
            }
        }
        // The broker may let us wait for room in its log: nobody who only looks should wait with us.
        let device = ReservedDevice::new(&spec, name)?;
        let place = place(node, device.vhost());
        let mut running = device.start(node.config.server.connections_max, place, Origin::Request)?;
        let mut state = self.state();
        if state.over {
            drop(state);
            running.stop();
            running.join();
            return Err(DeclareError::Stopping);
        }
        tracing::info!(device = running.stats.name, %spec, "device declared");
        let view = running.view();
        state.running.push(running);
        Ok(view)
    }

    /// Stops a device and waits for its end, but not for ever. None if there is no such device. Blocks.
    pub(crate) fn remove(&self, name: &str) -> Option<Removed> {
        {
            let mut state = self.state();
            let device = state.running.iter_mut().find(|device| device.stats.name == name)?;
            if !device.stopping {
                tracing::info!(device = name, "device removed");
                device.stop();
            }
        }
        let since = Instant::now();
        loop {
            self.reap(|device| device.stopping && device.thread.is_finished());
            if !self.state().running.iter().any(|device| device.stats.name == name && device.stopping) {
                return Some(Removed::Gone);
            }
            if since.elapsed() >= REMOVE_TIMEOUT {
                return Some(Removed::Draining);
            }
            std::thread::sleep(REMOVE_POLL);
        }
    }

    /// All of them, as they were declared.
    pub(crate) fn views(&self) -> Vec<DeviceView> {
        self.reap(|device| device.stopping && device.thread.is_finished());
        self.state().running.iter().map(Running::view).collect()
    }

    /// The figures of all of them.
    pub(crate) fn stats(&self) -> Vec<Arc<DeviceStats>> {
        self.state().running.iter().map(|device| Arc::clone(&device.stats)).collect()
    }

    /// Lets them write what waits, for as long as their peers take it, and ends them. Blocks.
    pub(crate) fn stop(&self) {
        let all = {
            let mut state = self.state();
            state.over = true;
            std::mem::take(&mut state.running)
        };
        let stopped = all.into_iter().map(|mut device| {
            device.stop();
            device
        });
        // All are told before one is waited for.
        stopped.collect::<Vec<_>>().into_iter().for_each(Running::join);
    }

    /// Forgets those that have ended.
    fn reap(&self, ended: impl Fn(&Running) -> bool) {
        let gone: Vec<Running> = {
            let mut state = self.state();
            state.running.extract_if(.., |device| ended(device)).collect()
        };
        gone.into_iter().for_each(Running::join);
    }

    /// The kind with the first number that is free.
    fn free_name(&self, kind: &str) -> String {
        let state = self.state();
        let taken = |name: &String| state.running.iter().any(|device| device.stats.name == *name);
        (1..).map(|n: u32| format!("{kind}-{n}")).find(|name| !taken(name)).unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(node: &Node, vhost: &str) -> Place {
    Place { core: node.core(), clock: node.clock, vhost: vhost.into() }
}
