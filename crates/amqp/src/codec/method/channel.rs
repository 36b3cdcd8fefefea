//! Class `channel` (§1.5).

use crate::codec::field::{Long, Short};

methods! { 20;
    /// Opens the channel.
    Open['a] = 10 { reserved_1: Short<'a> }
    /// Open.
    OpenOk['a] = 11 { reserved_1: Long<'a> }
    /// Asks the peer to pause or go on sending content.
    Flow[] = 20 { active: bool }
    /// What the peer does now.
    FlowOk[] = 21 { active: bool }
    /// Ends the channel, by either side.
    Close['a] = 40 {
        reply_code: u16,
        reply_text: Short<'a>,
        class_id: u16,
        method_id: u16,
    }
    /// Ended.
    CloseOk[] = 41 {}
}
