//! The macro behind the declaration.

use super::Config;

/// One setting, as sources and documentation see it.
pub struct Key {
    /// The table in the file.
    pub section: &'static str,
    /// The key in the table.
    pub name: &'static str,
    /// The flag, where it is not `section-key`; without dashes.
    pub(super) flag: Option<&'static str>,
    /// What it means.
    pub doc: &'static str,
    /// The default, as it would be written.
    pub default: &'static str,
    /// The kind of value, for people.
    pub form: &'static str,
    /// Whether it takes several values.
    pub list: bool,
    pub(super) set: fn(&mut Config, &[String]) -> Result<(), String>,
    pub(super) show: fn(&Config) -> Vec<String>,
}

impl Key {
    /// `section.key`, as in messages.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The name of the environment variable.
    #[must_use]
    pub fn env(&self) -> String {
        format!("WAYPOST__{}__{}", self.section.to_uppercase(), self.name.to_uppercase())
    }

    /// The name of the flag, without its dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        match self.flag {
            Some(flag) => flag.to_owned(),
            None => format!("{}-{}", self.section, self.name).replace('_', "-"),
        }
    }
}

/// A section, for the documentation.
#[derive(Debug)]
pub struct SectionDoc {
    /// The table in the file.
    pub name: &'static str,
    /// What it is about.
    pub doc: &'static str,
}

/// Declares sections and their settings.
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])*
                $key:ident: $ty:ty = $default:literal $(, flag $flag:literal)?;
            )*
        }
    )*) => {
        /// All settings, checked.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $( $(#[doc = $section_doc])* pub $section: $Section, )*
        }

        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Section {
                $( $(#[doc = $doc])* pub $key: $ty, )*
            }
        )*

        /// Every setting, in order of declaration.
        pub static KEYS: &[Key] = &[$($(
            Key {
                section: stringify!($section),
                name: stringify!($key),
                flag: settings!(@flag $($flag)?),
                doc: concat!($($doc, "\n"),*),
                default: $default,
                form: <$ty as Setting>::FORM,
                list: <$ty as Setting>::LIST,
                set: |config, values| {
                    config.$section.$key = <$ty as Setting>::read(values)?;
                    Ok(())
                },
                show: |config| Setting::show(&config.$section.$key),
            },
        )*)*];

        /// Every section, in order of declaration.
        pub static SECTIONS: &[SectionDoc] = &[$(
            SectionDoc { name: stringify!($section), doc: concat!($($section_doc, "\n"),*) },
        )*];

        impl Config {
            /// What holds when nothing is configured.
            ///
            /// # Errors
            /// None, as a test sees to: the defaults are in the declaration.
            pub fn defaults() -> Result<Config, ConfigError> {
                Ok(Config {
                    $( $section: $Section {
                        $( $key: value::default::<$ty>(concat!(stringify!($section), ".", stringify!($key)), $default)?, )*
                    }, )*
                })
            }
        }
    };
    (@flag) => { None };
    (@flag $flag:literal) => { Some($flag) };
}

pub(super) use settings;
