//! Class `connection` (§1.4).

use waypost_model::table::Table;

use crate::codec::field::{Long, Short};

methods! { 10;
    /// The server's opening.
    Start['a] = 10 {
        version_major: u8,
        version_minor: u8,
        server_properties: Table,
        /// Names separated by spaces.
        mechanisms: Long<'a>,
        /// Names separated by spaces.
        locales: Long<'a>,
    }
    /// The client's choice of mechanism, and its credentials.
    StartOk['a] = 11 {
        client_properties: Table,
        mechanism: &'a str,
        response: Long<'a>,
        locale: Short<'a>,
    }
    /// A further challenge of a mechanism.
    Secure['a] = 20 { challenge: Long<'a> }
    /// Its answer.
    SecureOk['a] = 21 { response: Long<'a> }
    /// The server's limits; 0 is no limit, and for the heartbeat none.
    Tune[] = 30 {
        channel_max: u16,
        /// Bytes, frame header and end octet counted.
        frame_max: u32,
        /// Seconds.
        heartbeat: u16,
    }
    /// The limits in force.
    TuneOk[] = 31 { channel_max: u16, frame_max: u32, heartbeat: u16 }
    /// Enters a virtual host.
    Open['a] = 40 { virtual_host: &'a str, reserved_1: Short<'a>, reserved_2: bool }
    /// In.
    OpenOk['a] = 41 { reserved_1: Short<'a> }
    /// Ends the connection, by either side.
    Close['a] = 50 {
        reply_code: u16,
        reply_text: Short<'a>,
        /// The class of the method at fault, or 0.
        class_id: u16,
        /// The method at fault, or 0.
        method_id: u16,
    }
    /// Ended.
    CloseOk[] = 51 {}
    /// RabbitMQ: publishing is held back.
    Blocked['a] = 60 { reason: &'a str }
    /// RabbitMQ: publishing goes on.
    Unblocked[] = 61 {}
    /// RabbitMQ: fresh credentials.
    UpdateSecret['a] = 70 { new_secret: Long<'a>, reason: Short<'a> }
    /// Taken.
    UpdateSecretOk[] = 71 {}
}
