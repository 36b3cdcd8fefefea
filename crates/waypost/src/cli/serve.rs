//! `waypost serve` and `waypost check-config`: flags come from the server's declaration of its settings.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use waypost_server::config::{KEYS, Loaded, load};
use waypost_server::{ServeError, logging};

use crate::exit::Failure;

/// Where the configuration comes from, beside the environment.
#[derive(Clone, Debug, Default)]
pub struct ConfigArgs {
    file: Option<PathBuf>,
    /// Names without dashes, each with the values given for it.
    flags: Vec<(String, Vec<String>)>,
}

impl ConfigArgs {
    fn load(self) -> Result<Loaded, Failure> {
        // A variable that is not UTF-8 cannot be one of ours with a value that is right.
        let env =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        load(self.file.as_deref(), env, self.flags).map_err(|error| Failure::BadConfig(error.to_string()))
    }
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned();
        for key in KEYS {
            let flag = key.flag();
            if let Some(values) = matches.get_many::<String>(&flag) {
                let values = values.cloned().collect();
                self.flags.push((flag, values));
            }
        }
        Ok(())
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config")
            .long("config")
            .short('c')
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file (TOML)");
        KEYS.iter().fold(command.arg(file), |command, key| {
            let flag = key.flag();
            let doc = key.doc.trim().trim_end_matches('.').replace('\n', " ");
            let action = if key.list { ArgAction::Append } else { ArgAction::Set };
            let default = if key.default.is_empty() { "none" } else { key.default };
            let arg = Arg::new(flag.clone())
                .long(flag)
                .action(action)
                .value_name(key.name.to_uppercase())
                .help(format!("{doc} [{default}; {}]", key.env()))
                .help_heading(format!("Settings: {}", key.section));
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// Arguments of `waypost serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost serve
  waypost serve --data-dir /var/lib/waypost --amqp 0.0.0.0:5672 --http off
  waypost serve --config /etc/waypost.toml

Listeners take ADDR:PORT[,option=value...] or off and may be repeated; given at all, they replace the default. Port 0
takes a free one: the actual addresses stand in listeners.json in the data directory once all listeners are ready.
SIGTERM and SIGINT stop the server in good order. Exit code 78: the configuration is wrong, or a port is taken.")]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Arguments of `waypost check-config`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints all settings as they would be in force, each with where it came from. Exit code 78: wrong."
)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Serves until told to stop.
///
/// # Errors
/// [`Failure::BadConfig`], or whatever kept the server from running.
pub fn serve(args: ServeArgs) -> Result<(), Failure> {
    let loaded = args.config.load()?;
    logging::start(&loaded.config.log).map_err(failure)?;
    waypost_server::run(loaded.config, stop_signal()).map_err(failure)
}

/// Checks the configuration and prints it.
///
/// # Errors
/// [`Failure::BadConfig`].
pub fn check(args: CheckArgs) -> Result<(), Failure> {
    let loaded = args.config.load()?;
    std::io::Write::write_all(&mut std::io::stdout().lock(), loaded.to_toml().as_bytes())?;
    Ok(())
}

fn failure(error: ServeError) -> Failure {
    match error.exit_code() {
        78 => Failure::BadConfig(error.to_string()),
        _ => Failure::Failed(error.into()),
    }
}

/// Completes with the first SIGTERM or SIGINT.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be caught: the process can only be killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Outer {
        #[command(flatten)]
        serve: ServeArgs,
    }

    #[test]
    fn every_setting_is_a_flag() {
        let outer =
            Outer::try_parse_from(["x", "--amqp", "127.0.0.1:0", "--amqp", "[::1]:0", "--data-dir", "/d"]).unwrap();
        let flags = outer.serve.config.flags;
        assert!(flags.contains(&("data-dir".to_owned(), vec!["/d".to_owned()])));
        assert!(flags.iter().any(|(name, values)| name == "amqp" && values.len() == 2));
        assert!(Outer::try_parse_from(["x", "--no-such-setting", "1"]).is_err());
    }
}
