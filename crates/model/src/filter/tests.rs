use proptest::prelude::*;

use super::*;

struct Service {
    name: &'static str,
    port: i64,
    passing: bool,
    tags: Vec<Box<str>>,
    meta: Vec<(Box<str>, Box<str>)>,
    checks: Vec<&'static str>,
}

fn kind(path: &Path) -> Option<Kind> {
    let parts: Vec<&str> = path.iter().map(|p| &**p).collect();
    Some(match parts[..] {
        ["Service", "Name"] | ["Service", "Meta", _] | ["Checks", "Status"] => Kind::Text,
        ["Service", "Port"] => Kind::Number,
        ["Service", "Ok"] => Kind::Bool,
        ["Service", "Tags"] => Kind::List,
        ["Service", "Meta"] => Kind::Map,
        _ => return None,
    })
}

impl Fields for Service {
    fn look(&self, path: &Path, see: &mut dyn FnMut(Value<'_>) -> bool) -> bool {
        let parts: Vec<&str> = path.iter().map(|p| &**p).collect();
        match parts[..] {
            ["Service", "Name"] => see(Value::Text(self.name)),
            ["Service", "Port"] => see(Value::Number(self.port)),
            ["Service", "Ok"] => see(Value::Bool(self.passing)),
            ["Service", "Tags"] => see(Value::List(&self.tags)),
            ["Service", "Meta"] => see(Value::Map(&self.meta)),
            ["Service", "Meta", key] => {
                see(self.meta.iter().find(|(k, _)| **k == *key).map_or(Value::Absent, |(_, v)| Value::Text(v)))
            }
            ["Checks", "Status"] => self.checks.iter().any(|status| see(Value::Text(status))),
            _ => unreachable!("checked when parsed"),
        }
    }
}

fn cart() -> Service {
    Service {
        name: "cart",
        port: 80,
        passing: true,
        tags: vec!["gpu".into(), "v2".into()],
        meta: vec![("a-b".into(), "x".into()), ("env".into(), "prod".into())],
        checks: vec!["passing", "critical"],
    }
}

fn parsed(text: &str) -> Filter {
    Filter::parse(text, kind).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> FilterError {
    Filter::parse(text, kind).map(|f| f.to_string()).expect_err(text)
}

#[test]
fn every_operator() {
    for (text, holds) in [
        ("Service.Name == cart", true),
        ("Service.Name==\"cart\"", true),
        ("Service.Name != `cart`", false),
        ("Service.Port == 80", true),
        ("Service.Port == -80", false),
        ("Service.Port != 81", true),
        ("Service.Ok == true", true),
        ("Service.Ok == 0", false),
        ("gpu in Service.Tags", true),
        ("\"gpu\" not in Service.Tags", false),
        ("Service.Tags contains v2", true),
        ("Service.Tags not contains v2", false),
        ("env in Service.Meta", true),
        ("zone in Service.Meta", false),
        ("ar in Service.Name", true),
        ("Service.Meta.env == prod", true),
        ("Service.Meta[\"a-b\"] == x", true),
        ("Service.Meta[ `a-b` ] != x", false),
        ("Service.Name matches \"^c.r\"", true),
        ("Service.Name not matches \"^a\"", true),
        ("Service.Tags is empty", false),
        ("Service.Tags is not empty", true),
        ("Service.Name is empty", false),
    ] {
        assert_eq!(parsed(text).matches(&cart()), holds, "{text}");
    }
}

#[test]
fn what_is_not_there_differs_from_everything_and_is_empty() {
    for (text, holds) in [
        ("Service.Meta.no == x", false),
        ("Service.Meta.no != x", true),
        ("Service.Meta.no is empty", true),
        ("Service.Meta.no is not empty", false),
        ("x in Service.Meta.no", false),
        ("x not in Service.Meta.no", true),
        ("Service.Meta.no matches `.*`", false),
    ] {
        assert_eq!(parsed(text).matches(&cart()), holds, "{text}");
    }
}

#[test]
fn of_a_list_of_things_one_is_enough() {
    assert!(parsed("Checks.Status == critical").matches(&cart()));
    assert!(parsed("Checks.Status != critical").matches(&cart()));
    assert!(!parsed("Checks.Status == warning").matches(&cart()));
    assert!(!parsed("Checks.Status != warning").matches(&Service { checks: vec![], ..cart() }));
}

#[test]
fn and_binds_tighter_than_or_and_not_tightest() {
    let (yes, no) = ("Service.Port == 80", "Service.Port == 81");
    for (text, holds) in [
        (format!("{yes} or {no} and {no}"), true),
        (format!("({yes} or {no}) and {no}"), false),
        (format!("not {no} and {yes}"), true),
        (format!("not ({no} or {yes})"), false),
        (format!("not not {yes}"), true),
        (format!(" ( (  {yes}  ) )\n"), true),
        (format!("not({yes})"), false),
    ] {
        assert_eq!(parsed(&text).matches(&cart()), holds, "{text}");
    }
}

#[test]
fn errors_say_what_and_where() {
    assert_eq!(error("Service.Nme == x").to_string(), "selector `Service.Nme` is not valid here");
    assert!(error("Service.Tags == x").to_string().contains("`==`"));
    assert!(error("Service.Port matches x").to_string().contains("`matches`"));
    assert!(error("Service.Port == eighty").to_string().contains("`eighty`"));
    assert!(matches!(error("Service.Name matches \"(\""), FilterError::Regex(_)));
    for (text, at) in [
        ("", 0),
        ("Service.Name", 12),
        ("Service.Name == ", 16),
        ("Service.Name == cart x", 21),
        ("(Service.Name == cart", 21),
        ("Service.Name == \"cart", 16),
        ("Service.Meta[x] == 1", 13),
        ("Service.Meta. == 1", 13),
        ("Service.Port == 8x", 17),
        ("Service.Name is full", 15),
        ("\"a\" == \"b\"", 10),
    ] {
        let FilterError::Syntax { at: found, what } = error(text) else { panic!("{text}") };
        assert_eq!(found, at, "{text}: {what}");
    }
}

#[test]
fn size_depth_terms_and_expressions_are_bounded() {
    let limit = |text: &str, what: &str| {
        assert!(matches!(error(text), FilterError::Limit { what: w, .. } if w == what), "{:?}", error(text));
    };
    limit(&"x".repeat(FILTER_BYTES_MAX + 1), "bytes");
    limit(&"(".repeat(FILTER_BYTES_MAX), "levels");
    limit(&"not ".repeat(FILTER_BYTES_MAX / 4), "levels");
    limit(&vec!["Service.Port == 1"; FILTER_TERMS_MAX + 1].join(" or "), "comparisons");
    limit(&["Service.Name matches x"; FILTER_REGEX_MAX + 1].join(" or "), "regular expressions");
    assert!(matches!(error("Service.Name matches `((a{100}){100}){100}`"), FilterError::Regex(_)));
}

#[test]
fn the_first_part_that_fails_is_told() {
    let filter = parsed("Service.Port == 80 and (Service.Name == a or x in Service.Tags) and Service.Ok == false");
    assert_eq!(filter.failing(&cart()).unwrap(), "Service.Name == \"a\" or \"x\" in Service.Tags");
    assert_eq!(parsed("Service.Port == 80").failing(&cart()), None);
}

#[test]
fn the_text_is_canonical() {
    let text = "not ( Service.Meta[\"env\"]==prod or Service.Meta[`a\"b`] contains 1 ) and Service.Tags is not empty";
    let canonical =
        "not (Service.Meta.env == \"prod\" or \"1\" in Service.Meta[\"a\\\"b\"]) and Service.Tags is not empty";
    assert_eq!(parsed(text).to_string(), canonical);
    assert_eq!(parsed(canonical).to_string(), canonical);
}

proptest! {
    #[test]
    fn no_text_breaks_the_parser(text in "[a-zA-Z.\"`\\\\(\\[\\]) =!0-9äß-]{0,80}") {
        let _ = Filter::parse(&text, |_| Some(Kind::Text));
    }

    #[test]
    fn printed_filters_parse_to_the_same(words in proptest::collection::vec("(not |\\(|\\)| and | or |Service.Name == \"[^\"\\\\]\"|x in Service.Tags)", 1..12)) {
        if let Ok(filter) = Filter::parse(&words.concat(), kind) {
            let again = Filter::parse(&filter.to_string(), kind).unwrap();
            prop_assert_eq!(again.to_string(), filter.to_string());
            prop_assert_eq!(again.matches(&cart()), filter.matches(&cart()));
        }
    }
}
