//! Types of fields.

use bytes::Bytes;

use super::reader::put_length;
use super::{Form, Malformed, Message, Reader};

/// Longest text that the older forms can carry, in bytes.
const TEXT_MAX: usize = i16::MAX as usize;

/// A type that a field may have.
pub trait Field: Sized {
    /// The fewest bytes that a value takes, in any form: counts are compared with what is left by it.
    const LEAST: usize;

    /// Reads a value.
    ///
    /// # Errors
    /// [`Malformed`].
    fn get(from: &mut Reader<'_>, form: Form, what: &'static str) -> Result<Self, Malformed>;

    /// Writes a value.
    fn put(&self, out: &mut Vec<u8>, form: Form);

    /// Some value, another one each time.
    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self;
}

/// Source of sample values.
#[cfg(test)]
pub struct Seed(pub u64);

#[cfg(test)]
impl Seed {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Field for $number {
            const LEAST: usize = size_of::<$number>();

            fn get(from: &mut Reader<'_>, _: Form, what: &'static str) -> Result<Self, Malformed> {
                from.array(what).map(<$number>::from_be_bytes)
            }

            fn put(&self, out: &mut Vec<u8>, _: Form) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            #[cfg(test)]
            fn sample(seed: &mut Seed) -> Self {
                seed.next() as $number
            }
        }
    )*};
}

numbers!(i8, i16, i32, i64, u16, u32, f64);

impl Field for bool {
    const LEAST: usize = 1;

    fn get(from: &mut Reader<'_>, _: Form, what: &'static str) -> Result<Self, Malformed> {
        from.array(what).map(|[byte]| byte != 0)
    }

    fn put(&self, out: &mut Vec<u8>, _: Form) {
        out.push(u8::from(*self));
    }

    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self {
        seed.below(2) == 0
    }
}

/// A topic's id, or a member's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The one that says "none".
    pub const ZERO: Uuid = Uuid([0; 16]);
}

impl Field for Uuid {
    const LEAST: usize = 16;

    fn get(from: &mut Reader<'_>, _: Form, what: &'static str) -> Result<Self, Malformed> {
        from.array(what).map(Uuid)
    }

    fn put(&self, out: &mut Vec<u8>, _: Form) {
        out.extend_from_slice(&self.0);
    }

    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self {
        Uuid(u128::from(seed.next()).to_be_bytes())
    }
}

impl Field for Option<Box<str>> {
    const LEAST: usize = 1;

    fn get(from: &mut Reader<'_>, form: Form, what: &'static str) -> Result<Self, Malformed> {
        let Some(length) = from.length(form.flexible, false, what)? else { return Ok(None) };
        let text = std::str::from_utf8(from.take(length, what)?).map_err(|_| Malformed::Value(what))?;
        Ok(Some(text.into()))
    }

    fn put(&self, out: &mut Vec<u8>, form: Form) {
        match self {
            None => put_length(out, None, form.flexible, false),
            Some(text) => text.put(out, form),
        }
    }

    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self {
        (seed.below(3) > 0).then(|| Field::sample(seed))
    }
}

impl Field for Box<str> {
    const LEAST: usize = 1;

    fn get(from: &mut Reader<'_>, form: Form, what: &'static str) -> Result<Self, Malformed> {
        Option::<Box<str>>::get(from, form, what)?.ok_or(Malformed::Value(what))
    }

    fn put(&self, out: &mut Vec<u8>, form: Form) {
        let text = &self[..self.floor_char_boundary(TEXT_MAX)];
        put_length(out, Some(text.len()), form.flexible, false);
        out.extend_from_slice(text.as_bytes());
    }

    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self {
        "näme".repeat(seed.below(40) as usize).into()
    }
}

impl Field for Option<Bytes> {
    const LEAST: usize = 1;

    fn get(from: &mut Reader<'_>, form: Form, what: &'static str) -> Result<Self, Malformed> {
        let Some(length) = from.length(form.flexible, true, what)? else { return Ok(None) };
        Ok(Some(Bytes::copy_from_slice(from.take(length, what)?)))
    }

    fn put(&self, out: &mut Vec<u8>, form: Form) {
        put_length(out, self.as_ref().map(Bytes::len), form.flexible, true);
        out.extend_from_slice(self.as_deref().unwrap_or_default());
    }

    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self {
        (seed.below(3) > 0).then(|| Field::sample(seed))
    }
}

impl Field for Bytes {
    const LEAST: usize = 1;

    fn get(from: &mut Reader<'_>, form: Form, what: &'static str) -> Result<Self, Malformed> {
        Option::<Bytes>::get(from, form, what)?.ok_or(Malformed::Value(what))
    }

    fn put(&self, out: &mut Vec<u8>, form: Form) {
        put_length(out, Some(self.len()), form.flexible, true);
        out.extend_from_slice(self);
    }

    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self {
        vec![7; seed.below(300) as usize].into()
    }
}

impl<T: Field> Field for Option<Vec<T>> {
    const LEAST: usize = 1;

    fn get(from: &mut Reader<'_>, form: Form, what: &'static str) -> Result<Self, Malformed> {
        let Some(count) = from.length(form.flexible, true, what)? else { return Ok(None) };
        from.count(count, T::LEAST, what)?;
        // Grown as they come: what claims to take one byte may take fifty in memory.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(T::get(from, form, what)?);
        }
        Ok(Some(items))
    }

    fn put(&self, out: &mut Vec<u8>, form: Form) {
        match self {
            None => put_length(out, None, form.flexible, true),
            Some(items) => items.put(out, form),
        }
    }

    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self {
        (seed.below(3) > 0).then(|| Field::sample(seed))
    }
}

impl<T: Field> Field for Vec<T> {
    const LEAST: usize = 1;

    fn get(from: &mut Reader<'_>, form: Form, what: &'static str) -> Result<Self, Malformed> {
        Option::<Vec<T>>::get(from, form, what)?.ok_or(Malformed::Value(what))
    }

    fn put(&self, out: &mut Vec<u8>, form: Form) {
        put_length(out, Some(self.len()), form.flexible, true);
        self.iter().for_each(|item| item.put(out, form));
    }

    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self {
        (0..seed.below(3)).map(|_| T::sample(seed)).collect()
    }
}

/// A structure that may be null: one octet tells, -1 for null.
impl<T: Message + Field> Field for Option<Box<T>> {
    const LEAST: usize = 1;

    fn get(from: &mut Reader<'_>, form: Form, what: &'static str) -> Result<Self, Malformed> {
        match i8::get(from, form, what)? {
            -1 => Ok(None),
            1 => T::read(from, form).map(|t| Some(Box::new(t))),
            _ => Err(Malformed::Value(what)),
        }
    }

    fn put(&self, out: &mut Vec<u8>, form: Form) {
        match self {
            None => out.push(0xff),
            Some(structure) => {
                out.push(1);
                structure.write(out, form);
            }
        }
    }

    #[cfg(test)]
    fn sample(seed: &mut Seed) -> Self {
        (seed.below(3) > 0).then(|| Box::new(T::sample(seed)))
    }
}
