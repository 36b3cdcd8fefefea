//! Socket types, and which may talk to which. ZMTP 3.1, "The Socket-Type Property".

macro_rules! socket_types {
    ($($variant:ident = $name:literal: $($peer:ident)|+;)*) => {
        /// A socket type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "ZeroMQ's own names")]
        pub enum SocketType { $($variant),* }

        impl SocketType {
            /// All of them.
            pub const ALL: &[SocketType] = &[$(SocketType::$variant),*];

            /// The name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(SocketType::$variant => $name),* }
            }

            /// Whether the two may talk.
            #[must_use]
            pub const fn accepts(self, peer: SocketType) -> bool {
                match self { $(SocketType::$variant => matches!(peer, $(SocketType::$peer)|+)),* }
            }
        }
    };
}

socket_types! {
    Req = "REQ": Rep | Router;
    Rep = "REP": Req | Dealer;
    Dealer = "DEALER": Rep | Dealer | Router;
    Router = "ROUTER": Req | Dealer | Router;
    Pub = "PUB": Sub | Xsub;
    Sub = "SUB": Pub | Xpub;
    Xpub = "XPUB": Sub | Xsub;
    Xsub = "XSUB": Pub | Xpub;
    Push = "PUSH": Pull;
    Pull = "PULL": Push;
    Pair = "PAIR": Pair;
}

impl SocketType {
    /// Reads the name on the wire.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<SocketType> {
        Self::ALL.iter().copied().find(|one| one.name().as_bytes() == name)
    }

    /// Whether peers may address it by an identity of its own.
    #[must_use]
    pub const fn has_identity(self) -> bool {
        matches!(self, Self::Req | Self::Dealer | Self::Router)
    }

    /// Whether subscriptions come to it.
    #[must_use]
    pub const fn publishes(self) -> bool {
        matches!(self, Self::Pub | Self::Xpub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_is_symmetric_and_has_the_pairs_of_the_specification() {
        let mut pairs = 0;
        for &a in SocketType::ALL {
            for &b in SocketType::ALL {
                assert_eq!(a.accepts(b), b.accepts(a), "{a:?} {b:?}");
                pairs += usize::from(a.accepts(b));
            }
        }
        assert_eq!(pairs, 2 + 2 + 3 + 3 + 8 + 2 + 1);
    }

    #[test]
    fn names_are_read_exactly() {
        for &one in SocketType::ALL {
            assert_eq!(SocketType::parse(one.name().as_bytes()), Some(one));
        }
        assert_eq!(SocketType::parse(b"dealer"), None);
        assert_eq!(SocketType::parse(b"STREAM"), None);
    }
}
