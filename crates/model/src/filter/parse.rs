//! The grammar of filters, by recursive descent.

use regex::RegexBuilder;

use super::{
    FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_REGEX_BYTES_MAX, FILTER_REGEX_MAX, FILTER_TERMS_MAX, FilterError, Kind,
    Match, Node, Operator, Path, Selector, Wanted,
};

pub(super) fn parse(text: &str, kind: &dyn Fn(&Path) -> Option<Kind>) -> Result<Node, FilterError> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(FilterError::Limit { what: "bytes", max: FILTER_BYTES_MAX });
    }
    let mut parser = Parser { text, at: 0, depth: 0, terms: 0, regexes: 0, kind };
    let node = parser.any()?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.wrong("expected `and`, `or` or the end"));
    }
    Ok(node)
}

/// Whether a part of a field's name may stand behind a dot.
pub(super) fn is_identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && text.bytes().all(is_identifier_byte)
}

fn is_identifier_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'/'
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    terms: usize,
    regexes: usize,
    kind: &'a dyn Fn(&Path) -> Option<Kind>,
}

/// What stands beside an operator: a field's name or a value. A name may be meant as a value.
struct Operand<'a> {
    text: &'a str,
    path: Option<Box<Path>>,
    literal: Option<String>,
}

impl<'a> Operand<'a> {
    fn into_value(self) -> Box<str> {
        self.literal.map_or_else(|| self.text.into(), Into::into)
    }
}

impl<'a> Parser<'a> {
    fn any(&mut self) -> Result<Node, FilterError> {
        self.list("or", Self::all, Node::Any)
    }

    fn all(&mut self) -> Result<Node, FilterError> {
        self.list("and", Self::not, Node::All)
    }

    fn list(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Node, FilterError>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Node, FilterError> {
        let first = part(self)?;
        if !self.word(word) {
            return Ok(first);
        }
        let mut nodes = vec![first, part(self)?];
        while self.word(word) {
            nodes.push(part(self)?);
        }
        Ok(join(nodes))
    }

    fn not(&mut self) -> Result<Node, FilterError> {
        if !self.word("not") {
            return self.group();
        }
        let node = self.deeper(Self::not)?;
        Ok(match node {
            Node::Not(inner) => *inner,
            node => Node::Not(Box::new(node)),
        })
    }

    fn group(&mut self) -> Result<Node, FilterError> {
        if !self.symbol("(") {
            return self.term();
        }
        let node = self.deeper(Self::any)?;
        if !self.symbol(")") {
            return Err(self.wrong("expected `)`"));
        }
        Ok(node)
    }

    fn deeper(&mut self, inner: fn(&mut Self) -> Result<Node, FilterError>) -> Result<Node, FilterError> {
        self.depth += 1;
        if self.depth > FILTER_DEPTH_MAX {
            return Err(FilterError::Limit { what: "levels", max: FILTER_DEPTH_MAX });
        }
        let node = inner(self)?;
        self.depth -= 1;
        Ok(node)
    }

    fn term(&mut self) -> Result<Node, FilterError> {
        self.terms += 1;
        if self.terms > FILTER_TERMS_MAX {
            return Err(FilterError::Limit { what: "comparisons", max: FILTER_TERMS_MAX });
        }
        let left = self.operand()?;
        let (operator, negated, value_first) = self.operator()?;
        if operator == Operator::Empty {
            return self.compare(left, operator, negated, None);
        }
        let right = self.operand()?;
        let (field, value) = if value_first { (right, left) } else { (left, right) };
        self.compare(field, operator, negated, Some(value.into_value()))
    }

    /// The operator, whether it is negated, and whether the value stands before it.
    fn operator(&mut self) -> Result<(Operator, bool, bool), FilterError> {
        if self.symbol("==") {
            return Ok((Operator::Equal, false, false));
        }
        if self.symbol("!=") {
            return Ok((Operator::Equal, true, false));
        }
        if self.word("is") {
            let negated = self.word("not");
            return if self.word("empty") {
                Ok((Operator::Empty, negated, false))
            } else {
                Err(self.wrong("expected `empty` or `not empty`"))
            };
        }
        let negated = self.word("not");
        for (word, operator, value_first) in
            [("in", Operator::In, true), ("contains", Operator::In, false), ("matches", Operator::Matches, false)]
        {
            if self.word(word) {
                return Ok((operator, negated, value_first));
            }
        }
        Err(self.wrong("expected `==`, `!=`, `in`, `contains`, `matches` or `is empty`, perhaps with `not`"))
    }

    fn compare(
        &mut self,
        field: Operand<'_>,
        operator: Operator,
        negated: bool,
        value: Option<Box<str>>,
    ) -> Result<Node, FilterError> {
        let Some(path) = field.path else {
            return Err(
                self.wrong("a selector must stand on one side of a comparison; names with other signs go into [\"…\"]")
            );
        };
        let kind = (self.kind)(&path).ok_or_else(|| FilterError::Selector(Selector(&path).to_string()))?;
        let mut one = Match { path, operator, negated, value: value.unwrap_or_default(), wanted: Wanted::Text };
        let fits = match operator {
            Operator::Equal => matches!(kind, Kind::Text | Kind::Number | Kind::Bool),
            Operator::In | Operator::Empty => matches!(kind, Kind::Text | Kind::List | Kind::Map),
            Operator::Matches => kind == Kind::Text,
        };
        if !fits {
            let selector = Selector(&one.path).to_string();
            return Err(FilterError::Operator { selector, operator: one.operator_text() });
        }
        one.wanted = self.wanted(&one, kind)?;
        Ok(Node::Match(one))
    }

    fn wanted(&mut self, one: &Match, kind: Kind) -> Result<Wanted, FilterError> {
        let bad = || FilterError::Value { selector: Selector(&one.path).to_string(), value: one.value.to_string() };
        match (one.operator, kind) {
            (Operator::Equal, Kind::Number) => one.value.parse().map(Wanted::Number).map_err(|_| bad()),
            (Operator::Equal, Kind::Bool) => match &*one.value {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Wanted::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Wanted::Bool(false)),
                _ => Err(bad()),
            },
            (Operator::Matches, _) => {
                self.regexes += 1;
                if self.regexes > FILTER_REGEX_MAX {
                    return Err(FilterError::Limit { what: "regular expressions", max: FILTER_REGEX_MAX });
                }
                let mut builder = RegexBuilder::new(&one.value);
                builder.size_limit(FILTER_REGEX_BYTES_MAX).dfa_size_limit(FILTER_REGEX_BYTES_MAX).nest_limit(32);
                builder.build().map(Wanted::Regex).map_err(|_| FilterError::Regex(one.value.to_string()))
            }
            _ => Ok(Wanted::Text),
        }
    }

    fn operand(&mut self) -> Result<Operand<'a>, FilterError> {
        self.space();
        let start = self.at;
        match self.peek() {
            Some(b'"' | b'`') => {
                let literal = Some(self.string()?);
                Ok(Operand { text: &self.text[start..self.at], path: None, literal })
            }
            Some(b) if b.is_ascii_alphabetic() => {
                let path = self.path()?;
                Ok(Operand { text: &self.text[start..self.at], path: Some(path), literal: None })
            }
            Some(b) if b.is_ascii_digit() || b == b'-' => {
                self.number()?;
                Ok(Operand { text: &self.text[start..self.at], path: None, literal: None })
            }
            _ => Err(self.wrong("expected a selector, a number or a text in quotes")),
        }
    }

    fn path(&mut self) -> Result<Box<Path>, FilterError> {
        let mut parts: Vec<Box<str>> = vec![self.take(is_identifier_byte).into()];
        loop {
            match self.peek() {
                Some(b'.') => {
                    self.at += 1;
                    let part = self.take(is_identifier_byte);
                    if part.is_empty() {
                        return Err(self.wrong("expected a name behind the dot"));
                    }
                    parts.push(part.into());
                }
                Some(b'[') => {
                    self.at += 1;
                    self.space();
                    if !matches!(self.peek(), Some(b'"' | b'`')) {
                        return Err(self.wrong("expected a text in quotes"));
                    }
                    parts.push(self.string()?.into());
                    if !self.symbol("]") {
                        return Err(self.wrong("expected `]`"));
                    }
                }
                _ => return Ok(parts.into()),
            }
        }
    }

    fn number(&mut self) -> Result<(), FilterError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let whole = self.take(|b| b.is_ascii_digit());
        let mut fraction = "0";
        if self.peek() == Some(b'.') {
            self.at += 1;
            fraction = self.take(|b| b.is_ascii_digit());
        }
        let ends = self.peek().is_none_or(|b| b.is_ascii_whitespace() || b == b')');
        if whole.is_empty() || fraction.is_empty() || !ends {
            return Err(self.wrong("invalid number; texts that begin with a digit go into quotes"));
        }
        Ok(())
    }

    /// A text in quotes, with Go's escapes in double ones and none in backquotes.
    fn string(&mut self) -> Result<String, FilterError> {
        let rest = &self.text[self.at..];
        let mut chars = rest.char_indices();
        let quote = chars.next().map(|(_, c)| c);
        let mut out = String::new();
        while let Some((i, c)) = chars.next() {
            if Some(c) == quote {
                self.at += i + c.len_utf8();
                return Ok(out);
            }
            if c != '\\' || quote == Some('`') {
                out.push(c);
                continue;
            }
            match chars.next().map(|(_, c)| c) {
                Some(c @ ('"' | '\\')) => out.push(c),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                    let c =
                        u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4).and_then(char::from_u32);
                    out.push(c.ok_or_else(|| self.wrong("invalid \\u escape"))?);
                }
                _ => return Err(self.wrong("invalid escape in a text")),
            }
        }
        Err(self.wrong("a text without its closing quote"))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        self.take(|b| b.is_ascii_whitespace());
    }

    /// The ASCII bytes from here on that `belongs` accepts.
    fn take(&mut self, belongs: fn(u8) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let len = rest.bytes().take_while(|b| belongs(*b)).count();
        self.at += len;
        &rest[..len]
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let before = self.at;
        self.space();
        if self.text[self.at..].starts_with(symbol) {
            self.at += symbol.len();
            return true;
        }
        self.at = before;
        false
    }

    /// A keyword, which ends where a name would.
    fn word(&mut self, word: &str) -> bool {
        let before = self.at;
        self.space();
        let rest = &self.text[self.at..];
        let ends = rest.as_bytes().get(word.len()).is_none_or(|b| b.is_ascii_whitespace() || matches!(b, b'(' | b')'));
        if rest.starts_with(word) && ends {
            self.at += word.len();
            return true;
        }
        self.at = before;
        false
    }

    fn wrong(&self, what: &'static str) -> FilterError {
        FilterError::Syntax { at: self.at, what }
    }
}
