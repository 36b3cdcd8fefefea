//! Running a program on a message: the body is its input, what it prints the answer.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::exit::Failure;

/// Largest answer that a program may print.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What a program made of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended well, with this answer.
    Answer(Vec<u8>),
    /// It ended otherwise; how.
    Failed(String),
}

/// Runs it, with variables that tell of the message.
///
/// # Errors
/// It cannot be started.
pub fn run(program: &[String], variables: &[(&str, String)], body: &[u8]) -> Result<Outcome, Failure> {
    let Some((name, arguments)) = program.split_first() else {
        return Err(Failure::Usage("there is no program to run".to_owned()));
    };
    let mut child = Command::new(name)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let input = child.stdin.take();
    let answer = std::thread::scope(|threads| {
        // It may print before it has read everything, so both go on at once.
        threads.spawn(move || input.map(|mut input| input.write_all(body)));
        let mut answer = Vec::new();
        let output = child.stdout.take().map(|out| out.take(ANSWER_BYTES_MAX + 1));
        output.map_or(Ok(0), |mut out| out.read_to_end(&mut answer)).map(|_| answer)
    })?;
    if answer.len() as u64 > ANSWER_BYTES_MAX {
        let _ = child.kill();
        let _ = child.wait();
        return Ok(Outcome::Failed(format!("it printed more than {ANSWER_BYTES_MAX} bytes")));
    }
    let status = child.wait()?;
    Ok(if status.success() { Outcome::Answer(answer) } else { Outcome::Failed(status.to_string()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, body: &[u8]) -> Outcome {
        let program = ["sh", "-c", script].map(str::to_owned);
        run(&program, &[("WAYPOST_SERVICE", "cart".to_owned())], body).unwrap()
    }

    #[test]
    fn the_body_goes_in_and_the_answer_comes_out() {
        assert_eq!(sh("printf %s: \"$WAYPOST_SERVICE\"; cat", b"hello"), Outcome::Answer(b"cart:hello".to_vec()));
        let much = vec![b'x'; 1 << 20];
        assert_eq!(sh("cat", &much), Outcome::Answer(much.clone()));
    }

    #[test]
    fn what_goes_wrong() {
        assert!(matches!(sh("exit 3", b""), Outcome::Failed(_)));
        assert_eq!(sh("exec 0<&-; echo done", &vec![0; 1 << 20]), Outcome::Answer(b"done\n".to_vec()));
        assert!(run(&["/no/such/program".to_owned()], &[], b"").is_err());
        assert!(matches!(sh("yes", b""), Outcome::Failed(_)), "what never ends is ended");
    }
}
