//! Precedence, mistakes, documentation.

use std::path::{Path, PathBuf};

use super::*;

fn strings(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn flags(pairs: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), v.iter().map(|s| (*s).to_owned()).collect())).collect()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("waypost.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn defaults_are_valid_and_loopback() {
    let config = load(None, [], []).unwrap().config;
    assert!(config.listeners.amqp.iter().chain(&config.listeners.http).all(ListenerSpec::is_loopback));
    assert_eq!(config.listeners.http.len(), 2);
    assert_eq!(config, Config::defaults().unwrap());
}

#[test]
fn later_sources_win() {
    let (_dir, path) = file("[log]\nlevel = \"warn\"\nformat = \"json\"\n[amqp]\nchannel_max = 7\n");
    let env = strings(&[("WAYPOST__LOG__LEVEL", "debug"), ("WAYPOST__AMQP__CHANNEL_MAX", "8"), ("HOME", "/")]);
    let loaded = load(Some(&path), env, flags(&[("amqp-channel-max", &["9"])])).unwrap();
    assert_eq!(loaded.config.log.format, LogFormat::Json);
    assert_eq!(loaded.config.log.level, "debug");
    assert_eq!(loaded.config.amqp.channel_max, 9);
    let shown = loaded.to_toml();
    assert!(shown.contains("channel_max = \"9\"  # flag --amqp-channel-max"), "{shown}");
    assert!(shown.contains("level = \"debug\"  # environment WAYPOST__LOG__LEVEL"), "{shown}");
    assert!(shown.contains("heartbeat = \"60s\"  # default"), "{shown}");
}

#[test]
fn what_is_printed_can_be_loaded() {
    let given =
        flags(&[("amqp", &["127.0.0.1:0,vhost=shop", "[::1]:0"]), ("http", &["off"]), ("log-level", &["a\"b"])]);
    let first = load(None, [], given).unwrap();
    let (_dir, path) = file(&first.to_toml());
    assert_eq!(load(Some(&path), [], []).unwrap().config, first.config);
}

#[test]
fn a_list_replaces_the_defaults() {
    let loaded =
        load(None, strings(&[("WAYPOST__LISTENERS__HTTP", "127.0.0.1:1 127.0.0.1:2 127.0.0.1:3")]), []).unwrap();
    assert_eq!(loaded.config.listeners.http.len(), 3);
    assert!(load(None, [], flags(&[("http", &["off"])])).unwrap().config.listeners.http.is_empty());
}

#[test]
fn mistakes_are_explained() {
    let cases: [(&str, &str); 7] = [
        ("[log]\nlevle = \"info\"", "did you mean `log.level`"),
        ("[amqpp]\nchannel_max = 1", "did you mean `amqp.channel_max`"),
        ("[memory]\nqueue_budget = 64", "needs a unit"),
        ("[amqp]\nchannel_max = { a = 1 }", "table does not fit"),
        ("[amqp\n", "waypost.toml"),
        ("[kafka]\noffsets_retention = \"0s\"", "must be 1s to 36500d"),
        ("[kafka]\noffsets_retention = \"36501d\"", "must be 1s to 36500d"),
    ];
    for (text, want) in cases {
        let (_dir, path) = file(text);
        let error = load(Some(&path), [], []).unwrap_err().to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
    let error = load(None, strings(&[("WAYPOST__LOG__LEVLE", "info")]), []).unwrap_err().to_string();
    assert!(error.contains("did you mean `WAYPOST__LOG__LEVEL`"), "{error}");
    let error = load(None, [], flags(&[("data-dri", &["x"])])).unwrap_err().to_string();
    assert!(error.contains("did you mean `data-dir`"), "{error}");
    let error = load(Some(Path::new("/nonexistent/waypost.toml")), [], []).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/waypost.toml"), "{error}");
}

#[test]
fn open_http_stays_on_loopback() {
    let open = |address: &str| load(None, [], flags(&[("http", &[address]), ("http-auth", &["never"])]));
    assert!(open("127.0.0.1:0").is_ok());
    assert!(open("0.0.0.0:0").unwrap_err().to_string().contains("open to other machines"));
}

#[test]
fn names_are_unique() {
    for name in [Key::flag, Key::env, Key::path] {
        let mut all: Vec<String> = KEYS.iter().map(name).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), KEYS.len());
    }
}

#[test]
fn documentation_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, docs::markdown()).unwrap();
    }
    let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(on_disk == docs::markdown(), "docs/configuration.md is not current: run with UPDATE_DOCS=1");
}
