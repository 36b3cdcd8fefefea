//! Patterns that users write: of policies and of permissions.

use fancy_regex::{Regex, RegexBuilder};

/// Longest pattern, bytes.
pub const PATTERN_BYTES_MAX: usize = 2048;
/// How far a match may go back before it counts as none: patterns come from users, and some never end.
const BACKTRACKS_MAX: usize = 100_000;
/// Size of a compiled pattern, bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A regular expression, as RabbitMQ (PCRE) has them: found anywhere in the text, look-around included.
#[derive(Debug)]
pub(crate) struct Pattern {
    source: Box<str>,
    matcher: Matcher,
}

/// Nearly all patterns in use are `.*` or nothing, and need no machine.
#[derive(Debug)]
enum Matcher {
    All,
    Regex(Box<Regex>),
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Why it is none, in words.
    pub fn new(source: &str) -> Result<Pattern, String> {
        if source.len() > PATTERN_BYTES_MAX {
            return Err(format!("longer than {PATTERN_BYTES_MAX} bytes"));
        }
        let matcher = match source {
            "" | ".*" | "^.*" | "^.*$" | ".*$" => Matcher::All,
            _ => Matcher::Regex(Box::new(compile(source)?)),
        };
        Ok(Pattern { source: source.into(), matcher })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn is_match(&self, text: &str) -> bool {
        match &self.matcher {
            Matcher::All => true,
            // A match that was given up is none: permissions then deny.
            Matcher::Regex(r) => r.is_match(text).unwrap_or(false),
        }
    }
}

/// Compiles a pattern as it stands.
///
/// # Errors
/// Why it is none, in words.
pub(crate) fn compile(source: &str) -> Result<Regex, String> {
    RegexBuilder::new(source)
        .backtrack_limit(BACKTRACKS_MAX)
        .delegate_size_limit(COMPILED_BYTES_MAX)
        .build()
        .map_err(|e| e.to_string())
}

/// A text with every character that means something in a pattern escaped.
pub(crate) fn escape(text: &str) -> String {
    fancy_regex::escape(text).into_owned()
}
