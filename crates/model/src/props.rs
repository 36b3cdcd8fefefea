//! The message properties, in the form that all protocols of Waypost share: the basic property list of AMQP 0-9-1,
//! exactly as it stands in a content header after the body size (§4.2.6.1). It is a word of flags, highest bit first,
//! and then the values of the properties whose flags are set:
//!
//! | bit | property | form | bit | property | form |
//! |---|---|---|---|---|---|
//! | 15 | content-type | short string | 8 | expiration | short string |
//! | 14 | content-encoding | short string | 7 | message-id | short string |
//! | 13 | headers | table | 6 | timestamp | 64 bits |
//! | 12 | delivery-mode | octet | 5 | type | short string |
//! | 11 | priority | octet | 4 | user-id | short string |
//! | 10 | correlation-id | short string | 3 | app-id | short string |
//! | 9 | reply-to | short string | 2 | cluster-id | short string |
//!
//! Bit 1 stands for nothing, bit 0 would announce another word of flags, which the class `basic` never needs: a list
//! with either is refused. Short strings are octets here: the specification wants UTF-8, deployed clients put what
//! they like into a correlation-id, and what is only passed on is nobody's business.

use std::fmt;
use std::ops::Deref;

use thiserror::Error;

use crate::table::{Table, TableError};

/// The list without any property.
pub const PROPS_EMPTY: &[u8] = &[0, 0];

/// `delivery-mode` of a message that is to be kept on disk.
pub const DELIVERY_MODE_PERSISTENT: u8 = 2;

const FIELDS: usize = 14;
const CONTENT_TYPE: usize = 0;
const CONTENT_ENCODING: usize = 1;
const HEADERS: usize = 2;
const DELIVERY_MODE: usize = 3;
const PRIORITY: usize = 4;
const CORRELATION_ID: usize = 5;
const REPLY_TO: usize = 6;
const EXPIRATION: usize = 7;
const MESSAGE_ID: usize = 8;
const TIMESTAMP: usize = 9;
const TYPE: usize = 10;
const USER_ID: usize = 11;
const APP_ID: usize = 12;
const CLUSTER_ID: usize = 13;

/// The two lowest bits of the flags: no property of the class `basic` has them.
const FLAGS_REFUSED: u16 = 0b11;

/// Why bytes are not a property list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PropsError {
    /// A value reaches past the end.
    #[error("property list ends in the middle of a property")]
    Truncated,
    /// A flag that stands for no property, or the continuation flag.
    #[error("property flags 0x{0:04x} name an unknown property")]
    UnknownFlag(u16),
    /// Bytes after the last property.
    #[error("{0} bytes after the last property")]
    Trailing(usize),
    /// The headers are not a field table.
    #[error("headers: {0}")]
    Headers(#[from] TableError),
}

#[derive(Clone, Copy)]
enum Form {
    Short,
    Table,
    Octet,
    Long64,
}

const fn form(field: usize) -> Form {
    match field {
        HEADERS => Form::Table,
        DELIVERY_MODE | PRIORITY => Form::Octet,
        TIMESTAMP => Form::Long64,
        _ => Form::Short,
    }
}

const fn flag(field: usize) -> u16 {
    1 << (15 - field)
}

/// Splits one value, any length prefix of a short string left out and that of a table left in, off the front.
fn split_value(rest: &[u8], form: Form) -> Option<(&[u8], &[u8])> {
    match form {
        Form::Short => {
            let (&len, rest) = rest.split_first()?;
            rest.split_at_checked(len.into())
        }
        Form::Octet => rest.split_at_checked(1),
        Form::Long64 => rest.split_at_checked(8),
        Form::Table => {
            let len = u32::from_be_bytes(*rest.first_chunk::<4>()?);
            rest.split_at_checked(usize::try_from(len).ok()?.checked_add(4)?)
        }
    }
}

/// What routing and delivery ask of a property list, from one pass over it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Two is persistent; anything else, and none, is transient.
    pub delivery_mode: Option<u8>,
    /// As sent, not yet held against the queue's maximum.
    pub priority: Option<u8>,
    /// Milliseconds in decimal, as sent, not validated.
    pub expiration: Option<&'a [u8]>,
    /// Where answers go.
    pub reply_to: Option<&'a [u8]>,
    /// To be compared with the connection's user.
    pub user_id: Option<&'a [u8]>,
    /// The header table, its 4-byte length included, contents not validated.
    pub headers: Option<&'a [u8]>,
}

impl Scan<'_> {
    /// Whether the message asks to be kept on disk.
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode == Some(DELIVERY_MODE_PERSISTENT)
    }
}

/// Walks a property list to its end and picks out what routing cares for. Looks at lengths only: the contents of the
/// header table are not read.
///
/// # Errors
///
/// [`PropsError::Truncated`], [`PropsError::UnknownFlag`], [`PropsError::Trailing`].
pub fn scan(bytes: &[u8]) -> Result<Scan<'_>, PropsError> {
    let mut found = Scan::default();
    if bytes == PROPS_EMPTY {
        return Ok(found);
    }
    let (flags, mut rest) = split_flags(bytes)?;
    let mut todo = flags;
    while todo != 0 {
        let field = todo.leading_zeros() as usize;
        todo &= !flag(field);
        let (value, after) = split_value(rest, form(field)).ok_or(PropsError::Truncated)?;
        rest = after;
        match field {
            HEADERS => found.headers = Some(value),
            DELIVERY_MODE => found.delivery_mode = value.first().copied(),
            PRIORITY => found.priority = value.first().copied(),
            REPLY_TO => found.reply_to = Some(value),
            EXPIRATION => found.expiration = Some(value),
            USER_ID => found.user_id = Some(value),
            _ => {}
        }
    }
    match rest.len() {
        0 => Ok(found),
        trailing => Err(PropsError::Trailing(trailing)),
    }
}

fn split_flags(bytes: &[u8]) -> Result<(u16, &[u8]), PropsError> {
    let (flags, rest) = bytes.split_first_chunk::<2>().ok_or(PropsError::Truncated)?;
    let flags = u16::from_be_bytes(*flags);
    if flags & FLAGS_REFUSED != 0 {
        return Err(PropsError::UnknownFlag(flags));
    }
    Ok((flags, rest))
}

/// A view of an encoded property list. Reads lazily, each getter walking from the front; a list that [`scan`] would
/// refuse reads as if the properties from the damage on were absent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Props<'a>(pub &'a [u8]);

impl<'a> Props<'a> {
    /// The encoded list.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    fn field(&self, wanted: usize) -> Option<&'a [u8]> {
        let (flags, mut rest) = split_flags(self.0).ok()?;
        if flags & flag(wanted) == 0 {
            return None;
        }
        for field in 0..wanted {
            if flags & flag(field) != 0 {
                rest = split_value(rest, form(field))?.1;
            }
        }
        split_value(rest, form(wanted)).map(|(value, _)| value)
    }

    /// MIME type of the body.
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.field(CONTENT_TYPE)
    }

    /// MIME encoding of the body.
    pub fn content_encoding(&self) -> Option<&'a [u8]> {
        self.field(CONTENT_ENCODING)
    }

    /// The encoded header table, its 4-byte length included.
    pub fn headers_raw(&self) -> Option<&'a [u8]> {
        self.field(HEADERS)
    }

    /// The header table.
    ///
    /// # Errors
    ///
    /// When it is there and is not a field table.
    pub fn headers(&self) -> Result<Option<Table>, TableError> {
        self.headers_raw().map(|raw| Table::decode(raw).map(|(table, _)| table)).transpose()
    }

    /// One is transient, two persistent.
    pub fn delivery_mode(&self) -> Option<u8> {
        self.field(DELIVERY_MODE)?.first().copied()
    }

    /// Whether the message asks to be kept on disk.
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode() == Some(DELIVERY_MODE_PERSISTENT)
    }

    /// Higher goes first.
    pub fn priority(&self) -> Option<u8> {
        self.field(PRIORITY)?.first().copied()
    }

    /// The application's correlation identifier.
    pub fn correlation_id(&self) -> Option<&'a [u8]> {
        self.field(CORRELATION_ID)
    }

    /// Where answers go.
    pub fn reply_to(&self) -> Option<&'a [u8]> {
        self.field(REPLY_TO)
    }

    /// Time to live: milliseconds in decimal digits.
    pub fn expiration(&self) -> Option<&'a [u8]> {
        self.field(EXPIRATION)
    }

    /// The application's message identifier.
    pub fn message_id(&self) -> Option<&'a [u8]> {
        self.field(MESSAGE_ID)
    }

    /// Seconds since 1970-01-01T00:00:00Z, by the application.
    pub fn timestamp(&self) -> Option<u64> {
        let bytes = self.field(TIMESTAMP)?;
        Some(u64::from_be_bytes(*bytes.first_chunk()?))
    }

    /// The application's message type.
    pub fn type_(&self) -> Option<&'a [u8]> {
        self.field(TYPE)
    }

    /// The user who published, validated by the session that took the message.
    pub fn user_id(&self) -> Option<&'a [u8]> {
        self.field(USER_ID)
    }

    /// The application that published.
    pub fn app_id(&self) -> Option<&'a [u8]> {
        self.field(APP_ID)
    }

    /// Deprecated by the specification, passed on.
    pub fn cluster_id(&self) -> Option<&'a [u8]> {
        self.field(CLUSTER_ID)
    }
}

impl fmt::Debug for Props<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PropsOwned::decode(self.0) {
            Ok(owned) => owned.fmt(f),
            Err(error) => write!(f, "Props({error})"),
        }
    }
}

/// At most 255 octets: what a short string of the wire can hold.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShortStr(Box<[u8]>);

impl ShortStr {
    /// The octets, if there are no more than 255.
    pub fn new(bytes: impl AsRef<[u8]>) -> Option<Self> {
        let bytes = bytes.as_ref();
        (bytes.len() <= 255).then(|| ShortStr(bytes.into()))
    }

    /// The text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl Deref for ShortStr {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ShortStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A property list taken apart, to be made or edited. See [`Props`] for the meaning of each.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the getters of `Props` document each property")]
pub struct PropsOwned {
    pub content_type: Option<ShortStr>,
    pub content_encoding: Option<ShortStr>,
    pub headers: Option<Table>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<ShortStr>,
    pub reply_to: Option<ShortStr>,
    pub expiration: Option<ShortStr>,
    pub message_id: Option<ShortStr>,
    pub timestamp: Option<u64>,
    pub type_: Option<ShortStr>,
    pub user_id: Option<ShortStr>,
    pub app_id: Option<ShortStr>,
    pub cluster_id: Option<ShortStr>,
}

impl PropsOwned {
    /// Takes a list apart.
    ///
    /// # Errors
    ///
    /// See [`PropsError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PropsError> {
        scan(bytes)?;
        let props = Props(bytes);
        // A short string of the wire is never too long.
        let short = |value: Option<&[u8]>| value.and_then(ShortStr::new);
        Ok(Self {
            content_type: short(props.content_type()),
            content_encoding: short(props.content_encoding()),
            headers: props.headers()?,
            delivery_mode: props.delivery_mode(),
            priority: props.priority(),
            correlation_id: short(props.correlation_id()),
            reply_to: short(props.reply_to()),
            expiration: short(props.expiration()),
            message_id: short(props.message_id()),
            timestamp: props.timestamp(),
            type_: short(props.type_()),
            user_id: short(props.user_id()),
            app_id: short(props.app_id()),
            cluster_id: short(props.cluster_id()),
        })
    }

    /// Appends the encoded list, flags first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer { flags_at: out.len(), flags: 0, out };
        writer.out.extend_from_slice(PROPS_EMPTY);
        writer.short(CONTENT_TYPE, &self.content_type);
        writer.short(CONTENT_ENCODING, &self.content_encoding);
        if let Some(headers) = &self.headers {
            writer.flags |= flag(HEADERS);
            headers.encode(writer.out);
        }
        writer.fixed(DELIVERY_MODE, self.delivery_mode.map(|v| [v]));
        writer.fixed(PRIORITY, self.priority.map(|v| [v]));
        writer.short(CORRELATION_ID, &self.correlation_id);
        writer.short(REPLY_TO, &self.reply_to);
        writer.short(EXPIRATION, &self.expiration);
        writer.short(MESSAGE_ID, &self.message_id);
        writer.fixed(TIMESTAMP, self.timestamp.map(u64::to_be_bytes));
        writer.short(TYPE, &self.type_);
        writer.short(USER_ID, &self.user_id);
        writer.short(APP_ID, &self.app_id);
        writer.short(CLUSTER_ID, &self.cluster_id);
        writer.finish();
    }

    /// The encoded list as a new vector.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

struct Writer<'a> {
    flags_at: usize,
    flags: u16,
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn short(&mut self, field: usize, value: &Option<ShortStr>) {
        if let Some(value) = value {
            self.flags |= flag(field);
            // Cannot truncate: `ShortStr` holds at most 255.
            self.out.push(value.len() as u8);
            self.out.extend_from_slice(value);
        }
    }

    fn fixed<const N: usize>(&mut self, field: usize, value: Option<[u8; N]>) {
        if let Some(value) = value {
            self.flags |= flag(field);
            self.out.extend_from_slice(&value);
        }
    }

    fn finish(self) {
        let at = self.flags_at;
        self.out[at..at + 2].copy_from_slice(&self.flags.to_be_bytes());
    }
}

const _: () = assert!(flag(FIELDS - 1) & FLAGS_REFUSED == 0 && flag(FIELDS) & FLAGS_REFUSED != 0);

#[cfg(test)]
mod tests {
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::any_table;

    fn any_short() -> impl Strategy<Value = Option<ShortStr>> {
        of(prop::collection::vec(any::<u8>(), 0..=255).prop_map(|bytes| ShortStr::new(bytes).unwrap()))
    }

    fn any_props() -> impl Strategy<Value = PropsOwned> {
        let strings = [(); 10].map(|()| any_short().boxed());
        let rest = (of(any_table()), of(any::<u8>()), of(any::<u8>()), of(any::<u64>()));
        (strings, rest).prop_map(|(strings, (headers, delivery_mode, priority, timestamp))| {
            let [a, b, c, d, e, f, g, h, i, j] = strings;
            PropsOwned {
                content_type: a,
                content_encoding: b,
                headers,
                delivery_mode,
                priority,
                correlation_id: c,
                reply_to: d,
                expiration: e,
                message_id: f,
                timestamp,
                type_: g,
                user_id: h,
                app_id: i,
                cluster_id: j,
            }
        })
    }

    proptest! {
        #[test]
        fn any_list_comes_back_as_it_went(props in any_props()) {
            let bytes = props.to_bytes();
            let back = PropsOwned::decode(&bytes).unwrap();
            prop_assert_eq!(&back, &props);
            prop_assert_eq!(back.to_bytes(), bytes.clone());
            let found = scan(&bytes).unwrap();
            let view = Props(&bytes);
            prop_assert_eq!(found.delivery_mode, props.delivery_mode);
            prop_assert_eq!(found.priority, props.priority);
            prop_assert_eq!(found.expiration, props.expiration.as_deref());
            prop_assert_eq!(found.reply_to, props.reply_to.as_deref());
            prop_assert_eq!(found.user_id, props.user_id.as_deref());
            prop_assert_eq!(found.headers, view.headers_raw());
            prop_assert_eq!(view.cluster_id(), props.cluster_id.as_deref());
            prop_assert_eq!(view.timestamp(), props.timestamp);
        }

        #[test]
        fn any_cut_list_is_refused(props in any_props(), cut in any::<prop::sample::Index>()) {
            let bytes = props.to_bytes();
            let cut = cut.index(bytes.len());
            prop_assert_eq!(scan(&bytes[..cut]), Err(PropsError::Truncated));
        }

        #[test]
        fn any_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = format!("{:?}", Props(&bytes));
            if let Ok(props) = PropsOwned::decode(&bytes) {
                let again = props.to_bytes();
                prop_assert_eq!(PropsOwned::decode(&again).unwrap().to_bytes(), again);
            }
        }
    }

    #[test]
    fn s4_2_6_1_flags_and_values_in_order() {
        // content-type "a/b", delivery-mode 2, expiration "60".
        let bytes = b"\x91\x00\x03a/b\x02\x0260";
        let found = scan(bytes).unwrap();
        assert!(found.is_persistent());
        assert_eq!(found.expiration, Some(&b"60"[..]));
        assert_eq!(Props(bytes).content_type(), Some(&b"a/b"[..]));
        assert_eq!(Props(bytes).priority(), None);
        assert_eq!(PropsOwned::decode(bytes).unwrap().to_bytes(), bytes);
    }

    #[test]
    fn s4_2_6_1_unknown_and_continuation_flags_are_refused() {
        assert_eq!(scan(b"\0\x01"), Err(PropsError::UnknownFlag(1)));
        assert_eq!(scan(b"\0\x02"), Err(PropsError::UnknownFlag(2)));
        assert_eq!(scan(b"\0\0x"), Err(PropsError::Trailing(1)));
        assert_eq!(scan(b""), Err(PropsError::Truncated));
        assert_eq!(scan(b"\x20\0\xff\xff\xff\xff"), Err(PropsError::Truncated));
    }

    #[test]
    fn headers_are_read_only_when_asked_for() {
        // One entry with an unknown type: the walk does not mind, the reader does.
        let bytes = b"\x20\0\0\0\0\x03\x01aZ";
        assert_eq!(scan(bytes).unwrap().headers, Some(&bytes[2..]));
        assert_eq!(Props(bytes).headers(), Err(TableError::UnknownType(b'Z')));
        assert_eq!(PropsOwned::decode(bytes), Err(PropsError::Headers(TableError::UnknownType(b'Z'))));
    }

    #[test]
    fn a_short_string_has_at_most_255_octets() {
        assert!(ShortStr::new([0; 255]).is_some());
        assert!(ShortStr::new([0; 256]).is_none());
        assert_eq!(ShortStr::new("x").unwrap().as_str(), Some("x"));
    }
}
