//! `waypost verify`: checks a data directory that no server has open.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use waypost_storage::{Disk as _, LockError, RealDisk};

use super::present::{Format, OutputArgs};
use crate::exit::Failure;

/// Arguments of `waypost verify`.
#[derive(Debug, Args)]
#[command(after_help = "Reads all of it and computes every checksum; what is wrong is told, not mended.
Exit codes: 1 something is wrong, 4 no such directory, 6 a server has it open.")]
pub struct VerifyArgs {
    /// The data directory; stop its server first
    #[arg(default_value = "./waypost-data")]
    dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs it.
///
/// # Errors
/// [`Failure::NotFound`] if there is no such directory, [`Failure::Failed`] if something is wrong.
pub fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let dir = args.dir.display();
    if !args.dir.is_dir() {
        return Err(Failure::NotFound(format!("no directory {dir}")));
    }
    let unreadable =
        |error: std::io::Error| Failure::Failed(anyhow::Error::new(error).context(format!("cannot read {dir}")));
    let disk = RealDisk::open_existing(&args.dir).map_err(unreadable)?;
    // Where nobody ever locked, nothing is made; and a directory on a read-only file system can be checked too.
    let _held = match args.dir.join("LOCK").exists().then(|| disk.lock()) {
        Some(Err(held @ LockError::Held { .. })) => return Err(Failure::Conflict(format!("{dir} is {held}"))),
        Some(Ok(held)) => Some(held),
        Some(Err(LockError::Io(_))) | None => None,
    };
    let report = waypost_storage::verify(&disk).map_err(unreadable)?;
    let value = json!({
        "segments": report.segments,
        "frames": report.frames,
        "chunks": report.chunks,
        "bytes": report.bytes,
        "messages": report.messages,
        "queues": report.queues,
        "definitions": report.definitions,
        "cut_bytes": report.cut_bytes,
        "clean": report.clean,
        "problems": report.problems,
    });
    args.output.item(&value)?;
    if report.problems.is_empty() {
        return Ok(());
    }
    if args.output.format() != Format::Json {
        report.problems.iter().for_each(|problem| eprintln!("{problem}"));
    }
    Err(Failure::Failed(anyhow::anyhow!("{} problems in {dir}", report.problems.len())))
}
