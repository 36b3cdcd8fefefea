//! What a published property list means for routing and queues.

use waypost_model::table;
use waypost_model::{AttrFlags, Attrs, Refusal, props};

use super::fault::Result;

/// The pseudo-queue of direct reply-to.
pub(super) const REPLY_QUEUE: &str = "amq.rabbitmq.reply-to";

/// What a property list says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Described {
    pub attrs: Attrs,
    /// `reply-to` names the pseudo-queue and is to be replaced.
    pub direct_reply: bool,
}

/// Reads a property list, and checks what of it the server answers for.
///
/// # Errors
///
/// 502 if it is malformed, 406 for a user that is not `user` and for an expiration that is no number of milliseconds.
pub(super) fn describe(list: &[u8], user: &str) -> Result<Described> {
    let found = props::scan(list).map_err(|e| Refusal::syntax_error(e.to_string()))?;
    let mut attrs = Attrs { priority: found.priority.unwrap_or(0), ..Attrs::default() };
    if found.is_persistent() {
        attrs.flags = attrs.flags.with(AttrFlags::PERSISTENT);
    }
    if let Some(expiration) = found.expiration {
        attrs.expiration = Some(milliseconds(expiration)?);
    }
    if let Some(claimed) = found.user_id {
        check_user(claimed, user)?;
    }
    if let Some(headers) = found.headers {
        attrs.flags = attrs.flags.with(header_flags(headers)?);
    }
    let direct_reply = found.reply_to == Some(REPLY_QUEUE.as_bytes());
    Ok(Described { attrs, direct_reply })
}

fn milliseconds(digits: &[u8]) -> Result<u32> {
    let parsed = std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Refusal::precondition_failed(format!("invalid expiration '{}'", digits.escape_ascii())))
}

fn check_user(claimed: &[u8], user: &str) -> Result<()> {
    if claimed == user.as_bytes() {
        return Ok(());
    }
    Err(Refusal::precondition_failed(format!(
        "user_id property set to '{}' but authenticated user was '{user}'",
        claimed.escape_ascii()
    )))
}

fn header_flags(headers: &[u8]) -> Result<AttrFlags> {
    let mut flags = AttrFlags::HEADERS;
    let look = |key: &str, _: u8, _: &[u8]| {
        if key == "CC" || key == "BCC" {
            flags = flags.with(AttrFlags::SENDER_SELECTED);
        }
    };
    table::walk(headers, look).map_err(|e| Refusal::syntax_error(e.to_string()))?;
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use waypost_model::RefusalKind;
    use waypost_model::props::{PropsOwned, ShortStr};
    use waypost_model::table::{Table, Value};

    use super::*;

    fn described(props: &PropsOwned) -> Result<Described> {
        describe(&props.to_bytes(), "guest")
    }

    #[test]
    fn what_queues_want_to_know() {
        let all = PropsOwned {
            delivery_mode: Some(2),
            priority: Some(7),
            expiration: ShortStr::new("60000"),
            user_id: ShortStr::new("guest"),
            headers: Some(Table::new().with("CC", Value::Array(Vec::new()))),
            reply_to: ShortStr::new(REPLY_QUEUE),
            ..PropsOwned::default()
        };
        let Described { attrs, direct_reply } = described(&all).unwrap();
        assert!(attrs.persistent() && direct_reply);
        assert!(attrs.flags.has(AttrFlags::HEADERS.with(AttrFlags::SENDER_SELECTED)));
        assert_eq!((attrs.priority, attrs.expiration), (7, Some(60_000)));
        let none = described(&PropsOwned::default()).unwrap();
        assert_eq!(none, Described { attrs: Attrs::default(), direct_reply: false });
    }

    #[test]
    fn what_is_refused() {
        let of = |props: PropsOwned| described(&props).unwrap_err();
        for bad in ["", "1.5", "+5", "-1", "ten", "4294967296"] {
            let refusal = of(PropsOwned { expiration: ShortStr::new(bad), ..Default::default() });
            assert_eq!(refusal.kind, RefusalKind::PreconditionFailed, "{bad}");
        }
        let refusal = of(PropsOwned { user_id: ShortStr::new("root"), ..Default::default() });
        assert_eq!(
            refusal.to_string(),
            "PRECONDITION_FAILED - user_id property set to 'root' but authenticated user was 'guest'"
        );
        let broken_headers = b"\x20\0\0\0\0\x03\x01aZ";
        assert_eq!(describe(broken_headers, "").unwrap_err().kind, RefusalKind::SyntaxError);
        assert_eq!(describe(b"\0\x01", "").unwrap_err().kind, RefusalKind::SyntaxError);
    }
}
