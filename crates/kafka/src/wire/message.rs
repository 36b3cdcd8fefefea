//! The macro that makes a message of a list of fields.

use super::reader::put_uvarint;

/// Declares structures and how they are read and written. A message that is never flexible is so from 32767 on.
///
/// ```text
/// message! {
///     /// What it is.
///     pub struct Name: flexible 9 {
///         /// A field that every version from 0 on has.
///         topics: Vec<Topic>, 0;
///         /// A field of versions 8 to 10 whose default is not the type's.
///         authorized: bool, 8, 10 = true;
///         /// A tagged field of versions 12 on, tag 0: read if it is there, written unless it holds its default.
///         cluster: Option<Box<str>>, 12, tag 0;
///     }
/// }
/// ```
macro_rules! message {
    ($($(#[$doc:meta])* pub struct $name:ident: flexible $flexible:literal {
        $($(#[$about:meta])* $field:ident: $type:ty, $from:literal $(, $to:literal)? $(, tag $tag:literal)? $(= $default:expr)?;)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[$about])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::wire::message!(@default $type $(, $default)?),)* }
            }
        }

        impl $crate::wire::Message for $name {
            const FLEXIBLE: i16 = $flexible;

            fn read(
                from: &mut $crate::wire::Reader<'_>,
                form: $crate::wire::Form,
            ) -> Result<Self, $crate::wire::Malformed> {
                #[allow(unused_mut, reason = "structures without fields")]
                let mut this = Self::default();
                $($crate::wire::message!(@read this, from, form, $field, $from $(, $to)? $(, tag $tag)?);)*
                if form.flexible {
                    #[allow(unused_variables, reason = "messages without tagged fields")]
                    from.tagged(|tag, value| match tag {
                        $($($tag => {
                            this.$field = $crate::wire::Field::get(value, form, stringify!($field))?;
                            Ok(())
                        })?)*
                        _ => Ok(()),
                    })?;
                }
                Ok(this)
            }

            fn write(&self, out: &mut Vec<u8>, form: $crate::wire::Form) {
                $($crate::wire::message!(@write self, out, form, $field, $from $(, $to)? $(, tag $tag)?);)*
                if form.flexible {
                    #[allow(unused_mut, reason = "messages without tagged fields")]
                    let mut tagged: Vec<(u32, Vec<u8>)> = Vec::new();
                    $($crate::wire::message!(
                        @tagged self, tagged, form, $field, $type, [$($default)?], $from $(, $to)? $(, tag $tag)?
                    );)*
                    $crate::wire::put_tagged(out, tagged);
                }
            }
        }

        impl $crate::wire::Field for $name {
            // Of whatever version: the oldest may have a single field.
            const LEAST: usize = 1;

            fn get(
                from: &mut $crate::wire::Reader<'_>,
                form: $crate::wire::Form,
                _: &'static str,
            ) -> Result<Self, $crate::wire::Malformed> {
                $crate::wire::Message::read(from, form)
            }

            fn put(&self, out: &mut Vec<u8>, form: $crate::wire::Form) {
                $crate::wire::Message::write(self, out, form);
            }

            #[cfg(test)]
            #[allow(unused_variables, reason = "structures without fields")]
            fn sample(seed: &mut $crate::wire::Seed) -> Self {
                Self { $($field: $crate::wire::Field::sample(seed),)* }
            }
        }
    )*};
    (@default $type:ty) => { <$type>::default() };
    (@default $type:ty, $default:expr) => { $default };
    (@read $this:ident, $from:ident, $form:ident, $field:ident, $first:literal, tag $tag:literal) => {};
    (@read $this:ident, $from:ident, $form:ident, $field:ident, $first:literal) => {
        if $form.version >= $first {
            $this.$field = $crate::wire::Field::get($from, $form, stringify!($field))?;
        }
    };
    (@read $this:ident, $from:ident, $form:ident, $field:ident, $first:literal, $last:literal) => {
        if ($first..=$last).contains(&$form.version) {
            $this.$field = $crate::wire::Field::get($from, $form, stringify!($field))?;
        }
    };
    (@write $this:ident, $out:ident, $form:ident, $field:ident, $first:literal, tag $tag:literal) => {};
    (@write $this:ident, $out:ident, $form:ident, $field:ident, $first:literal) => {
        if $form.version >= $first {
            $crate::wire::Field::put(&$this.$field, $out, $form);
        }
    };
    (@write $this:ident, $out:ident, $form:ident, $field:ident, $first:literal, $last:literal) => {
        if ($first..=$last).contains(&$form.version) {
            $crate::wire::Field::put(&$this.$field, $out, $form);
        }
    };
    (@tagged $this:ident, $tagged:ident, $form:ident, $field:ident, $type:ty, [$($default:expr)?], $first:literal, tag $tag:literal) => {
        if $form.version >= $first && $this.$field != $crate::wire::message!(@default $type $(, $default)?) {
            let mut value = Vec::new();
            $crate::wire::Field::put(&$this.$field, &mut value, $form);
            $tagged.push(($tag, value));
        }
    };
    (@tagged $this:ident, $tagged:ident, $form:ident, $field:ident, $type:ty, [$($default:expr)?], $first:literal $(, $last:literal)?) => {};
}

pub(crate) use message;

/// Writes tagged fields, which are given in order of their tags.
pub(crate) fn put_tagged(out: &mut Vec<u8>, tagged: Vec<(u32, Vec<u8>)>) {
    put_uvarint(out, u32::try_from(tagged.len()).unwrap_or(u32::MAX));
    for (tag, value) in tagged {
        put_uvarint(out, tag);
        put_uvarint(out, u32::try_from(value.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(&value);
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::{Malformed, Message};

    message! {
        /// Of all kinds.
        pub struct Sample: flexible 2 {
            /// Always.
            names: Vec<Box<str>>, 0;
            /// For a while.
            old: i32, 1, 2 = -1;
            /// Later.
            parts: Option<Vec<Part>>, 1;
            /// Tagged.
            note: Option<Box<str>>, 2, tag 0;
            /// Tagged, with a default.
            epoch: i64, 3, tag 1 = -1;
        }

        /// Within.
        pub struct Part: flexible 2 {
            /// A number.
            number: i16, 0;
            /// Maybe.
            inner: Option<Box<Inner>>, 3;
        }

        /// Within that.
        pub struct Inner: flexible 2 {
            /// A flag.
            flag: bool, 0;
        }
    }

    fn sample() -> Sample {
        let inner = Some(Box::new(Inner { flag: true }));
        Sample {
            names: vec!["a".into(), "".into()],
            old: 7,
            parts: Some(vec![Part { number: 5, inner }, Part::default()]),
            note: Some("n".into()),
            epoch: 9,
        }
    }

    fn bytes(version: i16, sample: &Sample) -> Vec<u8> {
        let mut out = Vec::new();
        sample.encode(&mut out, version);
        out
    }

    #[test]
    fn every_version_has_its_own_fields() {
        let known = |version| Sample::decode(&bytes(version, &sample()), version).unwrap();
        let bare = Sample { names: sample().names, ..Sample::default() };
        assert_eq!((known(0), known(0).old), (bare, -1));
        let parts = |inner: Option<Box<Inner>>| Some(vec![Part { number: 5, inner }, Part::default()]);
        assert_eq!(known(1), Sample { parts: parts(None), note: None, epoch: -1, ..sample() });
        assert_eq!(known(2), Sample { parts: parts(None), epoch: -1, ..sample() });
        assert_eq!(known(3), Sample { old: -1, ..sample() });
    }

    #[test]
    fn the_forms_are_those_of_the_protocol() {
        let small = Sample { names: vec!["ab".into()], parts: None, ..Sample::default() };
        assert_eq!(bytes(0, &small), [0, 0, 0, 1, 0, 2, b'a', b'b']);
        assert_eq!(bytes(1, &small), [0, 0, 0, 1, 0, 2, b'a', b'b', 255, 255, 255, 255, 255, 255, 255, 255]);
        // No tagged field holds a default.
        assert_eq!(bytes(3, &small), [2, 3, b'a', b'b', 0, 0]);
        let tagged = Sample { epoch: 1, ..small };
        assert_eq!(bytes(3, &tagged), [2, 3, b'a', b'b', 0, 1, 1, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn unknown_tags_are_skipped_and_everything_else_is_refused() {
        assert_eq!(Sample::decode(&[1, 0, 1, 200, 1, 3, 1, 2, 3], 3).unwrap().names.len(), 0);
        for version in 0..4 {
            let good = bytes(version, &sample());
            for cut in 0..good.len() {
                assert!(Sample::decode(&good[..cut], version).is_err(), "{version} {cut}");
            }
            // What follows is not ours to judge.
            let surplus = [&good[..], &[0]].concat();
            assert_eq!(Sample::decode(&surplus, version), Sample::decode(&good, version));
        }
        assert_eq!(Sample::decode(&[0xff, 0xff, 0xff, 0xfe], 0), Err(Malformed::Value("names")));
        assert_eq!(Sample::decode(&[0x7f, 0xff, 0xff, 0xff, 0, 0], 0), Err(Malformed::Short("names")));
        assert_eq!(Sample::decode(&[0xff, 0xff, 0xff, 0xff, 0x7f], 3), Err(Malformed::Value("names")));
        assert_eq!(Sample::decode(&[0, 0, 0, 1, 0, 1, 0xff], 0), Err(Malformed::Value("names")));
    }
}
