//! Which zone a client is in, by its address.

use std::net::IpAddr;

/// Why a map of zones is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not SUBNET=ZONE, such as 10.1.0.0/16=eu-1")]
pub struct ZonesError(String);

/// Subnets and their zones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zones {
    /// Longest prefix first, so that the first that fits is the best.
    subnets: Vec<(IpAddr, u8, Box<str>)>,
}

impl Zones {
    /// From `SUBNET=ZONE` each.
    ///
    /// # Errors
    /// The first that is not of this form.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Result<Zones, ZonesError> {
        let one = |text: &str| {
            let (subnet, zone) = text.split_once('=')?;
            let (address, prefix) = subnet.split_once('/').unwrap_or((subnet, ""));
            let address: IpAddr = address.parse().ok()?;
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let prefix: u8 = if prefix.is_empty() { bits } else { prefix.parse().ok()? };
            (prefix <= bits && !zone.is_empty()).then(|| (address, prefix, Box::from(zone)))
        };
        let mut subnets = pairs
            .into_iter()
            .map(|text| one(text).ok_or_else(|| ZonesError(text.to_owned())))
            .collect::<Result<Vec<_>, _>>()?;
        subnets.sort_by_key(|(_, prefix, _)| std::cmp::Reverse(*prefix));
        Ok(Zones { subnets })
    }

    /// The zone of an address, and by how many bits of it that was found.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<(&str, u8)> {
        let address = address.to_canonical();
        let fits = |(subnet, prefix, _): &&(IpAddr, u8, Box<str>)| match (address, subnet) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                shifted(a.to_bits().into(), 32, *prefix) == shifted(b.to_bits().into(), 32, *prefix)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => shifted(a.to_bits(), 128, *prefix) == shifted(b.to_bits(), 128, *prefix),
            _ => false,
        };
        self.subnets.iter().find(fits).map(|(_, prefix, zone)| (&**zone, *prefix))
    }
}

/// The first `prefix` of `bits` bits.
fn shifted(address: u128, bits: u32, prefix: u8) -> u128 {
    address.checked_shr(bits - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let zones = Zones::parse(["10.0.0.0/8=far", "10.1.0.0/16=near", "::/0=six", "192.0.2.1=one"]).unwrap();
        let of = |text: &str| zones.of(text.parse().unwrap());
        assert_eq!(of("10.1.2.3"), Some(("near", 16)));
        assert_eq!(of("10.2.2.3"), Some(("far", 8)));
        assert_eq!(of("::ffff:10.2.2.3"), Some(("far", 8)));
        assert_eq!(of("2001:db8::1"), Some(("six", 0)));
        assert_eq!(of("192.0.2.1"), Some(("one", 32)));
        assert_eq!(of("192.0.2.2"), None);
    }

    #[test]
    fn mistakes_are_named() {
        for bad in ["10.0.0.0/33=a", "10.0.0.0/8", "x/8=a", "10.0.0.0/8=", "::/129=a"] {
            assert!(Zones::parse([bad]).unwrap_err().to_string().contains(bad));
        }
    }
}
