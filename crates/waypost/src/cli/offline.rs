//! Subcommands that need no running server, or are one.

use clap::{Args, CommandFactory as _, Subcommand};
use clap_complete::Shell;

use crate::exit::Failure;

/// Those.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server
    Serve(super::serve::ServeArgs),
    /// Check the configuration and print what is in force
    CheckConfig(super::serve::CheckArgs),
    /// Check a data directory that no server has open
    Verify(super::verify::VerifyArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

/// Arguments of `waypost completion`.
#[derive(Debug, Args)]
#[command(after_help = "Example: waypost completion bash > ~/.local/share/bash-completion/completions/waypost")]
pub struct CompletionArgs {
    /// Which shell
    shell: Shell,
}

/// Runs one of them.
///
/// # Errors
/// By the kind of what went wrong, see [`Failure`].
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => super::serve::serve(args),
        Command::CheckConfig(args) => super::serve::check(args),
        Command::Verify(args) => super::verify::run(&args),
        Command::Completion(args) => {
            // Into a buffer first: the generator panics when its output is closed.
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut crate::Cli::command(), "waypost", &mut script);
            std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
            Ok(())
        }
    }
}
