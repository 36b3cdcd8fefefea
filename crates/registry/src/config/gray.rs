//! Who gets the candidate of a gray release.

use semver::{Version, VersionReq};

use super::limits::{RULE_VALUE_BYTES_MAX, RULE_VALUES_MAX};

/// Whoever asks for a value, as far as it is known. Not known matches no condition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Its instance id.
    pub id: &'a str,
    /// Its version.
    pub version: Option<&'a Version>,
    /// Its zone.
    pub zone: &'a str,
    /// Its tags.
    pub tags: &'a [Box<str>],
}

/// Chooses instances. One that is listed by id is chosen in any case. Another one is chosen when everything else that
/// the rule names holds: its version, its zone, one of the tags, and its share of the percentage. A rule that names ids
/// only chooses nobody else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Instance ids.
    pub ids: Vec<Box<str>>,
    /// Range of versions.
    pub version: Option<VersionReq>,
    /// Zones, of which one must be the instance's.
    pub zones: Vec<Box<str>>,
    /// Tags, of which the instance must have one.
    pub tags: Vec<Box<str>>,
    /// Share of the instances, percent, 0 to 100. An instance that is chosen at some percentage is chosen at any
    /// higher one.
    pub percent: Option<u8>,
}

/// Why a rule cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It names nothing.
    #[error("a gray release needs at least one of ids, version, zones, tags and percent")]
    Empty,
    /// More than 100.
    #[error("percent must be 0 to 100")]
    Percent,
    /// A list or one of its values is too long.
    #[error(
        "`{0}` has more than {RULE_VALUES_MAX} values, or one that is empty or longer than {RULE_VALUE_BYTES_MAX} bytes"
    )]
    TooLong(&'static str),
}

impl Rule {
    /// Refuses rules that name nothing or too much.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn check(&self) -> Result<(), RuleError> {
        let conditions = self.version.is_some() || !self.zones.is_empty() || !self.tags.is_empty();
        if !conditions && self.ids.is_empty() && self.percent.is_none() {
            return Err(RuleError::Empty);
        }
        if self.percent.is_some_and(|p| p > 100) {
            return Err(RuleError::Percent);
        }
        for (name, values) in [("ids", &self.ids), ("zones", &self.zones), ("tags", &self.tags)] {
            let fits = |v: &str| (1..=RULE_VALUE_BYTES_MAX).contains(&v.len());
            if values.len() > RULE_VALUES_MAX || !values.iter().all(|v| fits(v)) {
                return Err(RuleError::TooLong(name));
            }
        }
        if self.version.as_ref().is_some_and(|v| v.to_string().len() > RULE_VALUE_BYTES_MAX) {
            return Err(RuleError::TooLong("version"));
        }
        Ok(())
    }

    /// Whether an instance is chosen for a path's candidate.
    #[must_use]
    pub fn chooses(&self, path: &str, subject: &Subject<'_>) -> bool {
        if !subject.id.is_empty() && self.ids.iter().any(|id| **id == *subject.id) {
            return true;
        }
        let has_others =
            self.version.is_some() || !self.zones.is_empty() || !self.tags.is_empty() || self.percent.is_some();
        has_others
            && self.version.as_ref().is_none_or(|req| subject.version.is_some_and(|v| req.matches(v)))
            && (self.zones.is_empty() || self.zones.iter().any(|z| **z == *subject.zone))
            && (self.tags.is_empty() || self.tags.iter().any(|t| subject.tags.contains(t)))
            && self.percent.is_none_or(|p| !subject.id.is_empty() && share(path, subject.id) < p)
    }
}

/// Where an instance stands among 100, for a path: the same on every server and for ever, and unlike for another path,
/// so that it is not always the same instances that try what is new.
fn share(path: &str, id: &str) -> u8 {
    let bytes = path.bytes().chain([0]).chain(id.bytes());
    let mut h = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    // FNV-1a leaves the high bits of short texts alike; this spreads them (the finisher of MurmurHash3).
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((h ^ (h >> 33)) % 100) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(all: &[&str]) -> Vec<Box<str>> {
        all.iter().map(|s| (*s).into()).collect()
    }

    #[test]
    fn ids_are_chosen_in_any_case_and_alone() {
        let rule = Rule { ids: boxed(&["a"]), ..Rule::default() };
        assert!(rule.chooses("p", &Subject { id: "a", ..Subject::default() }));
        assert!(!rule.chooses("p", &Subject { id: "b", ..Subject::default() }));
        let rule = Rule { zones: boxed(&["eu"]), ..rule };
        assert!(rule.chooses("p", &Subject { id: "a", zone: "us", ..Subject::default() }));
        assert!(rule.chooses("p", &Subject { id: "b", zone: "eu", ..Subject::default() }));
    }

    #[test]
    fn conditions_hold_together_and_the_unknown_matches_none() {
        let v = Version::new(2, 1, 0);
        let rule = Rule { version: VersionReq::parse("^2").ok(), tags: boxed(&["gpu"]), ..Rule::default() };
        let tags = boxed(&["gpu", "x"]);
        let subject = Subject { version: Some(&v), tags: &tags, ..Subject::default() };
        assert!(rule.chooses("p", &subject));
        assert!(!rule.chooses("p", &Subject { version: None, ..subject }));
        assert!(!rule.chooses("p", &Subject { tags: &[], ..subject }));
        assert!(!rule.chooses("p", &Subject { version: Some(&Version::new(3, 0, 0)), ..subject }));
    }

    #[test]
    fn percentages_only_grow_and_are_about_right() {
        let ids: Vec<String> = (0..2000).map(|n| format!("cart-{n}")).collect();
        let chosen = |percent: u8| -> Vec<bool> {
            let rule = Rule { percent: Some(percent), ..Rule::default() };
            ids.iter().map(|id| rule.chooses("cart/limit", &Subject { id, ..Subject::default() })).collect()
        };
        let count = |all: &[bool]| all.iter().filter(|c| **c).count();
        let (ten, half) = (chosen(10), chosen(50));
        assert!(ten.iter().zip(&half).all(|(a, b)| !a || *b));
        assert_eq!((count(&chosen(0)), count(&chosen(100))), (0, 2000));
        assert!((140..260).contains(&count(&ten)) && (900..1100).contains(&count(&half)));
        let rule = Rule { percent: Some(100), ..Rule::default() };
        assert!(!rule.chooses("cart/limit", &Subject::default()), "who has no id has no share");
    }

    /// The hash is a promise: instances must not change sides at an update of the server.
    #[test]
    fn the_share_of_an_instance_never_changes() {
        let shares = [share("cart/limit", "cart-1"), share("cart/limit", "cart-2"), share("a", "b")];
        assert_eq!(shares, [8, 54, 11]);
    }

    #[test]
    fn rules_are_bounded() {
        assert_eq!(Rule::default().check(), Err(RuleError::Empty));
        assert_eq!(Rule { percent: Some(101), ..Rule::default() }.check(), Err(RuleError::Percent));
        let many = Rule { ids: vec!["x".into(); RULE_VALUES_MAX + 1], ..Rule::default() };
        assert_eq!(many.check(), Err(RuleError::TooLong("ids")));
    }
}
