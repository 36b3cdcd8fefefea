//! A server in a program of one's own: `cargo run -p waypost-server --example serve -- --amqp 127.0.0.1:0`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flags = arguments.chunks(2).map(|pair| {
        let name = pair[0].trim_start_matches("--").to_owned();
        (name, pair[1..].to_vec())
    });
    let result = waypost_server::config::load(None, std::env::vars(), flags).map_err(Into::into).and_then(|loaded| {
        waypost_server::logging::start(&loaded.config.log)?;
        waypost_server::run(loaded.config, waypost_server::signals())
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
