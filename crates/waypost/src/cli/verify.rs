//! `waypost verify`: checks a data directory that no server has open.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::present::{Format, OutputArgs};
use crate::exit::Failure;

/// Arguments of `waypost verify`.
#[derive(Debug, Args)]
#[command(after_help = "Reads all of it, computes every checksum and writes nothing. Exit code 1: something is wrong.")]
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
    let report = waypost_storage::verify_dir(&args.dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Failure::Conflict(format!("{dir} is in use by a server: stop it first")),
        _ => Failure::Failed(anyhow::Error::new(error).context(format!("cannot read {dir}"))),
    })?;
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
