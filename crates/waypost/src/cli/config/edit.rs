//! `waypost config edit`.

use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::values::told;
use super::{Comment, Target};
use crate::cli::http::{Api, Content};
use crate::exit::Failure;

/// Arguments of `config edit`.
#[derive(Debug, Args)]
pub struct Edit {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    comment: Comment,
}

/// What is there before.
struct Before {
    value: Vec<u8>,
    content_type: Option<String>,
    /// The condition under which the edited value may replace it.
    condition: (&'static str, String),
}

impl Edit {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let (api, output) = (self.target.place.server.api(), &self.target.place.server.output);
        let before = self.before(&api)?;
        let after = edited(&self.target.path, &before.value)?;
        if after == before.value {
            return output.done(&serde_json::Value::Null, "nothing changed");
        }
        let content = Content { content_type: before.content_type.as_deref(), bytes: &after };
        let path = self.target.change("keys", &self.comment);
        let answer = api.send("PUT", &path, Some(content), &[before.condition])?.json();
        output.done(&answer, &told(&self.target.path, &answer))
    }

    fn before(&self, api: &Api) -> Result<Before, Failure> {
        match api.send("GET", &self.target.page("keys"), None, &[]) {
            Ok(answer) => {
                let tag = answer.header("etag").ok_or_else(|| anyhow!("the answer has no entity tag"))?;
                Ok(Before {
                    condition: ("If-Match", tag.to_owned()),
                    content_type: answer.header("content-type").map(str::to_owned),
                    value: answer.body,
                })
            }
            Err(Failure::NotFound(_)) => {
                let condition = ("If-None-Match", "*".to_owned());
                Ok(Before { value: Vec::new(), content_type: None, condition })
            }
            Err(other) => Err(other),
        }
    }
}

/// Lets the user edit bytes, in a file that nobody else can read.
fn edited(path: &str, value: &[u8]) -> Result<Vec<u8>, Failure> {
    let editor = ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|e| !e.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    // Editors choose how to show a file by its name.
    let name: String = path.rsplit('/').next().unwrap_or_default().chars().filter(|c| is_plain(*c)).collect();
    let directory = Scratch::make()?;
    let file = directory.0.join(if name.is_empty() { "value" } else { &name });
    std::fs::File::create_new(&file)
        .and_then(|mut f| f.write_all(value))
        .with_context(|| format!("cannot write {}", file.display()))?;
    // The variable may hold arguments too: a shell takes it apart as everywhere else.
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(&file)
        .status()
        .with_context(|| format!("cannot run the editor {editor}"))?;
    if !status.success() {
        return Err(anyhow!("the editor {editor} ended with {status}: nothing is changed").into());
    }
    Ok(std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?)
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// A directory of our own that goes when it is dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn make() -> Result<Scratch, Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let path = std::env::temp_dir().join(format!("waypost-{}-{}", std::process::id(), stamp.as_nanos()));
        // Fails if somebody else has made it, with whatever rights.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in the system's directory for what may be left.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
