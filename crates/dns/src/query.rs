//! Queries: header, the one question, EDNS. RFC 1035 §4.1, RFC 6891, RFC 7871.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::name::Name;

/// Octets of a header.
pub(crate) const HEADER_BYTES: usize = 12;

/// `OPT`, the record that carries EDNS. RFC 6891 §6.1.1.
const TYPE_OPT: u16 = 41;

/// The option of EDNS that names the client's subnet. RFC 7871 §6.
const OPTION_SUBNET: u16 = 8;

/// Why a message is no query that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early.
    #[error("the message ends too early")]
    Short,
    /// A label of a kind that nobody uses.
    #[error("a label of an unknown kind")]
    Label,
    /// A pointer that does not lead back.
    #[error("a pointer that does not lead back")]
    Pointer,
    /// A name that is too long.
    #[error("a name of more than 255 octets")]
    LongName,
    /// Not one question.
    #[error("not one question")]
    Questions,
    /// More than one `OPT`, or one that does not belong to the root, or with options that do not fit it.
    #[error("a wrong OPT record")]
    Edns,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryType {
    /// IPv4 addresses.
    A,
    /// Name servers.
    Ns,
    /// The start of authority.
    Soa,
    /// The name of an address.
    Ptr,
    /// Texts.
    Txt,
    /// IPv6 addresses.
    Aaaa,
    /// Services.
    Srv,
    /// Everything.
    Any,
    /// Something of which there never is anything here.
    Other(u16),
}

impl QueryType {
    const fn from_wire(value: u16) -> QueryType {
        match value {
            1 => Self::A,
            2 => Self::Ns,
            6 => Self::Soa,
            12 => Self::Ptr,
            16 => Self::Txt,
            28 => Self::Aaaa,
            33 => Self::Srv,
            255 => Self::Any,
            other => Self::Other(other),
        }
    }

    /// Whether records of a type are asked for.
    #[must_use]
    pub fn takes(self, kind: QueryType) -> bool {
        self == Self::Any || self == kind
    }
}

/// The subnet of the client behind a resolver. RFC 7871.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its address; bits behind the prefix are 0.
    pub address: IpAddr,
    /// The octets of the address that were sent.
    pub octets: u8,
    /// Significant bits.
    pub prefix: u8,
}

/// What the client says by EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The largest answer that it takes over UDP.
    pub payload_bytes: u16,
    /// Must be 0.
    pub version: u8,
    /// For whom a resolver asks.
    pub subnet: Option<Subnet>,
}

/// A query.
#[derive(Clone, Debug)]
pub struct Query {
    /// Given back in the answer.
    pub id: u16,
    /// Opcode and flags, the octet of the header as it is.
    pub flags: u8,
    /// The name.
    pub name: Name,
    /// The type.
    pub kind: QueryType,
    /// The class: 1 is the Internet's.
    pub class: u16,
    /// Where the question ends: it is given back as it came.
    pub question_end: usize,
    /// EDNS, if it is spoken.
    pub edns: Option<Edns>,
}

impl Query {
    /// The opcode: 0 is a standard query.
    #[must_use]
    pub fn opcode(&self) -> u8 {
        opcode(self.flags)
    }

    /// Reads a query.
    ///
    /// # Errors
    /// [`Malformed`]; the answer to that is FORMERR, if there is a header at all.
    pub fn read(message: &[u8]) -> Result<Query, Malformed> {
        let mut reader = Reader { message, at: 0 };
        let id = reader.u16()?;
        let [flags, _] = reader.u16()?.to_be_bytes();
        let questions = reader.u16()?;
        let before_edns = u32::from(reader.u16()?) + u32::from(reader.u16()?);
        let additional = reader.u16()?;
        if questions != 1 {
            return Err(Malformed::Questions);
        }
        let (name, next) = Name::read(message, reader.at)?;
        // Before the first question there is nothing that a pointer in it could mean.
        if !name.is_contiguous() {
            return Err(Malformed::Pointer);
        }
        reader.at = next;
        let (kind, class) = (QueryType::from_wire(reader.u16()?), reader.u16()?);
        let question_end = reader.at;
        // A query has no answers; should it have some, they are of no interest.
        for _ in 0..before_edns {
            reader.record()?;
        }
        let mut edns = None;
        for _ in 0..additional {
            if let Some(found) = reader.record()?
                && edns.replace(found).is_some()
            {
                return Err(Malformed::Edns);
            }
        }
        Ok(Query { id, flags, name, kind, class, question_end, edns })
    }
}

/// The opcode in the third octet of a header.
pub(crate) fn opcode(flags: u8) -> u8 {
    flags >> 3 & 0x0f
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(len).ok_or(Malformed::Short)?;
        let taken = self.message.get(self.at..end).ok_or(Malformed::Short)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    /// Passes a record, and says what is in it if it is `OPT`.
    fn record(&mut self) -> Result<Option<Edns>, Malformed> {
        // Every record takes octets, so that what the header counts cannot keep us here.
        let (owner, next) = Name::read(self.message, self.at)?;
        self.at = next;
        let (kind, class) = (self.u16()?, self.u16()?);
        let (_rcode, version, _flags) = (self.u8()?, self.u8()?, self.u16()?);
        let len = usize::from(self.u16()?);
        let data = self.take(len)?;
        if kind != TYPE_OPT {
            return Ok(None);
        }
        if !owner.is_root() {
            return Err(Malformed::Edns);
        }
        Ok(Some(Edns { payload_bytes: class, version, subnet: subnet(data)? }))
    }
}

fn subnet(options: &[u8]) -> Result<Option<Subnet>, Malformed> {
    let mut reader = Reader { message: options, at: 0 };
    while reader.at < options.len() {
        let (code, len) = (reader.u16()?, usize::from(reader.u16()?));
        let data = reader.take(len)?;
        if code == OPTION_SUBNET {
            return read_subnet(data).map(Some);
        }
    }
    Ok(None)
}

/// RFC 7871 §6: family, source prefix, scope prefix (0 in a query), and as many octets as the prefix needs.
fn read_subnet(data: &[u8]) -> Result<Subnet, Malformed> {
    let [0, family @ (1 | 2), prefix, 0, octets @ ..] = data else { return Err(Malformed::Edns) };
    let bits_max = if *family == 1 { 32 } else { 128 };
    if *prefix > bits_max || octets.len() != usize::from(prefix.div_ceil(8)) {
        return Err(Malformed::Edns);
    }
    if let (Some(last), used @ 1..) = (octets.last(), prefix % 8)
        && last << used != 0
    {
        return Err(Malformed::Edns);
    }
    let mut full = [0; 16];
    full.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
    let address = match family {
        1 => Ipv4Addr::new(full[0], full[1], full[2], full[3]).into(),
        _ => Ipv6Addr::from(full).into(),
    };
    Ok(Subnet { address, octets: prefix.div_ceil(8), prefix: *prefix })
}
