//! The seam to the storage engine.

use std::path::PathBuf;
use std::sync::Arc;

use waypost_model::journal::{BodyStore, Journal, Recovered};
use waypost_storage::{Engine, EngineConfig, MetricsSnapshot, RealDisk};

use crate::config::Config;
use crate::error::ServeError;

/// What a node needs of its storage.
pub trait Store: Send + Sync {
    /// The log.
    fn journal(&self) -> Arc<dyn Journal>;

    /// Where bodies are loaded from.
    fn bodies(&self) -> Arc<dyn BodyStore>;

    /// Begins to commit; `advanced` is called after each commit.
    ///
    /// # Errors
    /// If threads cannot be started.
    fn start(&self, advanced: Box<dyn Fn() + Send + Sync>) -> Result<(), ServeError>;

    /// Whether a write or a sync has failed.
    fn failed(&self) -> bool;

    /// Whether messages are refused for want of room.
    fn full(&self) -> bool;

    /// The engine's figures, if there is an engine.
    fn metrics(&self) -> Option<MetricsSnapshot>;

    /// Makes durable what is under way and notes the clean end.
    ///
    /// # Errors
    /// If that does not work.
    fn close(&self) -> Result<(), ServeError>;
}

/// A store, and what it held.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What it held.
    pub recovered: Recovered,
}

/// The engine on the disk of the data directory.
struct Local {
    engine: Arc<Engine>,
    path: PathBuf,
}

/// Opens the data directory.
pub(super) fn open(config: &Config) -> Result<Opened, ServeError> {
    let path = config.server.data_dir.clone();
    let failed = |why: String| ServeError::Storage { path: path.clone(), why };
    let disk = RealDisk::open_or_create(&path).map_err(|e| failed(e.to_string()))?;
    let defaults = EngineConfig::default();
    let engine_config = EngineConfig {
        segment_bytes: config.disk.segment_bytes.0,
        // Below the limit of the alarm, so that publishers are held back before they are refused.
        disk_free_min: defaults.disk_free_min.min(config.disk.free_limit.0 / 2),
        ..defaults
    };
    let (engine, recovered) = Engine::open(Arc::new(disk), engine_config).map_err(|e| failed(e.to_string()))?;
    if engine.cut_bytes() > 0 {
        tracing::warn!(
            bytes = engine.cut_bytes(),
            "the last write before the stop was torn: it was cut, nothing in it had been confirmed"
        );
    }
    engine.on_stop(|what| tracing::error!(what, "storage failed"));
    Ok(Opened { store: Arc::new(Local { engine: Arc::new(engine), path }), recovered })
}

impl Store for Local {
    fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(&self.engine) as _
    }

    fn bodies(&self) -> Arc<dyn BodyStore> {
        Arc::clone(&self.engine) as _
    }

    fn start(&self, advanced: Box<dyn Fn() + Send + Sync>) -> Result<(), ServeError> {
        self.engine.start_committer(move |_| advanced()).map_err(ServeError::io("cannot start the committer"))
    }

    fn failed(&self) -> bool {
        self.engine.is_stopped()
    }

    fn full(&self) -> bool {
        self.engine.is_full()
    }

    fn metrics(&self) -> Option<MetricsSnapshot> {
        Some(self.engine.metrics())
    }

    fn close(&self) -> Result<(), ServeError> {
        let failed = |e: std::io::Error| ServeError::Storage { path: self.path.clone(), why: e.to_string() };
        self.engine.close().map_err(failed)
    }
}
