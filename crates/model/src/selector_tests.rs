//! What selectors read, write and match.

use super::*;

fn instance() -> Instance {
    let words = |words: &[&str]| words.iter().map(|w| (*w).into()).collect();
    Instance {
        version: Some(std::sync::Arc::new("2.1.0".parse().unwrap())),
        zone: "eu-1".into(),
        tags: words(&["gpu", "new"]),
        meta: [("a b".into(), "x&y".into()), ("k".into(), "v".into())].into(),
        ..Instance::new("i-1")
    }
}

fn holds(query: &str) -> bool {
    let selector = Selector::parse(query).unwrap();
    let verdict = selector.matches(&instance());
    assert_eq!(verdict.is_ok(), selector.is_match(&instance()), "{query}");
    verdict.is_ok()
}

#[test]
fn every_condition_counts() {
    for good in [
        "",
        "version=^2",
        "version=~2.1",
        "version=>=2,<3",
        "version=*",
        "version=2.1.0",
        "version=2",
        "zone=eu-1",
        "tag=gpu",
        "tag=gpu&tag=new",
        "tag=new,gpu",
        "meta-k=v",
        "meta-a%20b=x%26y",
        "instance=i-1",
        "select=zone == \"eu-1\" and gpu in tags",
        "select=meta.k %3D%3D v",
        "select=meta[\"a b\"] contains x",
        "version=^2&zone=eu-1&tag=gpu&meta-k=v&instance=i-1",
    ] {
        assert!(holds(good), "{good}");
    }
    for bad in [
        "version=^1",
        "version=2.1.1",
        "version=1",
        "zone=eu",
        "tag=Gpu",
        "tag=gpu&tag=old",
        "meta-k=w",
        "meta-j=v",
        "instance=i-2",
        "select=zone != \"eu-1\"",
        "version=^2&zone=us",
    ] {
        assert!(!holds(bad), "{bad}");
    }
}

#[test]
fn what_has_no_version_fits_no_requirement() {
    let selector = Selector::parse("version=*").unwrap();
    assert_eq!(selector.matches(&Instance::new("i")), Err("version *, it has none".into()));
}

#[test]
fn equal_selectors_have_equal_texts() {
    let pairs = [
        ("tag=b&tag=a&version=>=1, <2", "version=>=1,<2&tag=a,b&tag=a"),
        ("version=1.2.3", "version==1.2.3"),
        ("select=a in tags", "select=%61  in  tags"),
        ("meta-k=%76&zone=z", "zone=z&meta-k=v"),
    ];
    for (a, b) in pairs {
        let (a, b) = (Selector::parse(a).unwrap(), Selector::parse(b).unwrap());
        assert_eq!(a.text(), b.text());
        assert_eq!(Selector::parse(a.text()).unwrap().text(), a.text());
    }
}

#[test]
fn texts_read_back_whatever_stands_in_them() {
    let mut b = SelectorBuilder::default();
    b.add("meta-a=b&c%", "x=y&z%41+\u{7}ä").unwrap();
    b.add("zone", "?#=").unwrap();
    let selector = b.finish().unwrap();
    let again = Selector::parse(selector.text()).unwrap();
    assert_eq!(again, selector);
    let i = Instance {
        zone: "?#=".into(),
        meta: [("a=b&c%".into(), "x=y&z%41+\u{7}ä".into())].into(),
        ..Instance::new("i")
    };
    assert_eq!(again.matches(&i), Ok(()));
}

#[test]
fn what_is_no_selector_is_refused() {
    let refused = |query: &str, what: &str| {
        let text = Selector::parse(query).unwrap_err().to_string();
        assert!(text.contains(what), "{query}: {text}");
    };
    refused("version", "has no value");
    refused("colour=red", "`colour` is no condition");
    refused("version=two", "`version`");
    refused("zone=", "1 to 128");
    refused("tag=a,,b", "1 to 128");
    refused("meta-=x", "`meta`");
    refused("zone=a&zone=b", "two different values for `zone`");
    refused("meta-k=a&meta-k=b", "two different");
    refused("select=a in tags&select=b in tags", "two different");
    refused("select=nonsense", "invalid filter");
    refused("select=secret == 1", "not valid here");
    refused("zone=%zz", "hexadecimal");
    refused("zone=%ff", "UTF-8");
    refused(&"tag=a&".repeat(33), "more than 32");
    refused(&format!("tag={}", vec!["a"; 33].join(",")), "more than 32");
    assert!(Selector::parse(&format!("tag={}", vec!["a"; 32].join(","))).is_ok());
    refused(&format!("zone={}", "z".repeat(1 << 20)), "longer than 2048");
    let mut b = SelectorBuilder::default();
    assert!(b.add("select", &"a".repeat(1 << 20)).is_err());
}

#[test]
fn conditions_that_fail_are_named() {
    let fails = |query: &str| Selector::parse(query).unwrap().matches(&instance()).unwrap_err();
    assert_eq!(fails("zone=us"), "zone = us, it has eu-1");
    assert_eq!(fails("version=^3"), "version ^3, it has 2.1.0");
    assert_eq!(fails("tag=old"), "tag = old");
    assert_eq!(fails("meta-k=w"), "meta k = w, it has v");
    assert!(fails("select=zone == us").contains("zone"));
}
