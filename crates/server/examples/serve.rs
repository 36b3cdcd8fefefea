fn main() {
    let mut args = std::env::args().skip(1).collect::<Vec<_>>();
    let mut flags = Vec::new();
    while args.len() >= 2 {
        let name = args.remove(0).trim_start_matches("--").to_owned();
        flags.push((name, vec![args.remove(0)]));
    }
    let loaded = match waypost_server::config::load(None, std::env::vars(), flags) { Ok(l) => l, Err(e) => { eprintln!("{e}"); std::process::exit(78) } };
    let _ = waypost_server::logging::start(&loaded.config.log);
    if let Err(e) = waypost_server::run(loaded.config, waypost_server::signals()) { eprintln!("{e}"); std::process::exit(e.exit_code().into()); }
}
