//! Filter expressions over named fields, in the grammar of go-bexpr, which Consul's `?filter` uses: `==`, `!=`, `in`,
//! `not in`, `contains`, `not contains`, `matches`, `not matches`, `is empty`, `is not empty`, `and`, `or`, `not` and
//! parentheses. A field is named by a path: `Service.Meta.version` or `Service.Meta["a-b"]`.
//!
//! What has the fields says which there are ([`Kind`]) and what they hold ([`Fields`]), so that a filter is checked once,
//! when it is parsed, and cannot fail later. Its length, depth, terms and regular expressions are bounded, and matching is
//! linear in the text.

use std::fmt;

use regex::Regex;

mod parse;
#[cfg(test)]
mod tests;

/// Longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 4096;

/// Deepest nesting of parentheses and `not`.
pub const FILTER_DEPTH_MAX: usize = 32;

/// Most comparisons of a filter.
pub const FILTER_TERMS_MAX: usize = 128;

/// Most regular expressions of a filter.
pub const FILTER_REGEX_MAX: usize = 8;

/// Largest compiled regular expression, in bytes.
pub const FILTER_REGEX_BYTES_MAX: usize = 128 * 1024;

/// The parts of a field's name.
pub type Path = [Box<str>];

/// What a field holds, as far as a filter must know before it sees one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// An integer.
    Number,
    /// Yes or no.
    Bool,
    /// Texts; `in` asks for one of them.
    List,
    /// Texts by key; `in` asks for a key.
    Map,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// An integer.
    Number(i64),
    /// Yes or no.
    Bool(bool),
    /// Texts.
    List(&'a [Box<str>]),
    /// Texts by key.
    Map(&'a [(Box<str>, Box<str>)]),
    /// The field is known but not there, as a key that a map does not have: different from everything, and empty.
    Absent,
}

/// What a filter is asked about.
pub trait Fields {
    /// Shows `see` what a field holds, and every element if it is one of each element of a list (`Checks.Status`), until
    /// `see` says true. Returns whether it did.
    fn look(&self, path: &Path, see: &mut dyn FnMut(Value<'_>) -> bool) -> bool;
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It does not follow the grammar.
    #[error("invalid filter at byte {at}: {what}")]
    Syntax {
        /// Where, in bytes from the beginning.
        at: usize,
        /// What was expected.
        what: &'static str,
    },
    /// It names a field that there is not.
    #[error("selector `{0}` is not valid here")]
    Selector(String),
    /// A field cannot be compared like that.
    #[error("selector `{selector}` cannot be used with `{operator}`")]
    Operator {
        /// The field.
        selector: String,
        /// The operator.
        operator: &'static str,
    },
    /// A field cannot have such a value.
    #[error("`{value}` is no value for selector `{selector}`")]
    Value {
        /// The field.
        selector: String,
        /// The value.
        value: String,
    },
    /// A regular expression is wrong or too large.
    #[error("invalid regular expression `{0}`")]
    Regex(String),
    /// A limit of this module.
    #[error("the filter has more than {max} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
}

/// A checked filter expression.
#[derive(Clone, Debug)]
pub struct Filter {
    root: Node,
}

#[derive(Clone, Debug)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Match(Match),
}

#[derive(Clone, Debug)]
struct Match {
    path: Box<Path>,
    operator: Operator,
    negated: bool,
    /// As it was written, without quotes.
    value: Box<str>,
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    In,
    Matches,
    Empty,
}

/// The value in the form that the field compares with.
#[derive(Clone, Debug)]
enum Wanted {
    Text,
    Number(i64),
    Bool(bool),
    Regex(Regex),
}

impl Filter {
    /// Parses a filter and checks it against the fields that there are.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn parse(text: &str, kind: impl Fn(&Path) -> Option<Kind>) -> Result<Filter, FilterError> {
        Ok(Filter { root: parse::parse(text, &kind)? })
    }

    /// Whether it holds.
    #[must_use]
    pub fn matches(&self, fields: &(impl Fields + ?Sized)) -> bool {
        self.root.matches(&|path, see| fields.look(path, see))
    }

    /// The part of it that does not hold, as text; nothing if all of it holds. Of several parts that are joined by `and`
    /// it is the first one.
    #[must_use]
    pub fn failing(&self, fields: &(impl Fields + ?Sized)) -> Option<String> {
        self.root.failing(&|path, see| fields.look(path, see)).map(ToString::to_string)
    }
}

/// Equal filters have equal texts; the text is a filter again, equal to the first.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

type Look<'a> = dyn Fn(&Path, &mut dyn FnMut(Value<'_>) -> bool) -> bool + 'a;

impl Node {
    fn matches(&self, look: &Look<'_>) -> bool {
        match self {
            Node::Any(nodes) => nodes.iter().any(|node| node.matches(look)),
            Node::All(nodes) => nodes.iter().all(|node| node.matches(look)),
            Node::Not(node) => !node.matches(look),
            Node::Match(one) => look(&one.path, &mut |value| one.matches(value)),
        }
    }

    fn failing(&self, look: &Look<'_>) -> Option<&Node> {
        match self {
            Node::All(nodes) => nodes.iter().find_map(|node| node.failing(look)),
            node => (!node.matches(look)).then_some(node),
        }
    }
}

impl Match {
    fn matches(&self, value: Value<'_>) -> bool {
        self.holds(value) != self.negated
    }

    fn holds(&self, value: Value<'_>) -> bool {
        match self.operator {
            Operator::Equal => match (value, &self.wanted) {
                (Value::Text(text), _) => *text == *self.value,
                (Value::Number(number), Wanted::Number(wanted)) => number == *wanted,
                (Value::Bool(yes), Wanted::Bool(wanted)) => yes == *wanted,
                _ => false,
            },
            Operator::In => match value {
                Value::List(list) => list.contains(&self.value),
                Value::Map(map) => map.iter().any(|(key, _)| *key == self.value),
                Value::Text(text) => text.contains(&*self.value),
                _ => false,
            },
            Operator::Matches => match (value, &self.wanted) {
                (Value::Text(text), Wanted::Regex(regex)) => regex.is_match(text),
                _ => false,
            },
            Operator::Empty => match value {
                Value::Text(text) => text.is_empty(),
                Value::List(list) => list.is_empty(),
                Value::Map(map) => map.is_empty(),
                Value::Absent => true,
                Value::Number(_) | Value::Bool(_) => false,
            },
        }
    }

    fn operator_text(&self) -> &'static str {
        match (self.operator, self.negated) {
            (Operator::Equal, false) => "==",
            (Operator::Equal, true) => "!=",
            (Operator::In, false) => "in",
            (Operator::In, true) => "not in",
            (Operator::Matches, false) => "matches",
            (Operator::Matches, true) => "not matches",
            (Operator::Empty, false) => "is empty",
            (Operator::Empty, true) => "is not empty",
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Any(nodes) => join(f, nodes, " or ", |_| false),
            Node::All(nodes) => join(f, nodes, " and ", |node| matches!(node, Node::Any(_))),
            Node::Not(node) if matches!(**node, Node::Any(_) | Node::All(_)) => write!(f, "not ({node})"),
            Node::Not(node) => write!(f, "not {node}"),
            Node::Match(one) => one.fmt(f),
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, nodes: &[Node], word: &str, enclosed: fn(&Node) -> bool) -> fmt::Result {
    for (i, node) in nodes.iter().enumerate() {
        if i > 0 {
            f.write_str(word)?;
        }
        if enclosed(node) {
            write!(f, "({node})")?;
        } else {
            write!(f, "{node}")?;
        }
    }
    Ok(())
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (selector, operator) = (Selector(&self.path), self.operator_text());
        match self.operator {
            Operator::In => write!(f, "{} {operator} {selector}", Quoted(&self.value)),
            Operator::Empty => write!(f, "{selector} {operator}"),
            Operator::Equal | Operator::Matches => write!(f, "{selector} {operator} {}", Quoted(&self.value)),
        }
    }
}

/// A field's name as filters write it.
struct Selector<'a>(&'a Path);

impl fmt::Display for Selector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.0.iter().enumerate() {
            match (i, parse::is_identifier(part)) {
                (0, _) => f.write_str(part)?,
                (_, true) => write!(f, ".{part}")?,
                (_, false) => write!(f, "[{}]", Quoted(part))?,
            }
        }
        Ok(())
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}
