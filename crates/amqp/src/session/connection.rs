//! The connection: handshake, limits, opening and closing of itself and of channels (§1.4, §1.5, §2.2.4).

use waypost_model::table::Table;
use waypost_model::{Call, ChannelId, Command, Millis, Refusal, RefusalKind};

use super::calls::{Kind, Pending};
use super::channels::ChannelState;
use super::fault::{Result, channel_error, internal, undecodable};
use super::{AmqpSession, Cx, Step};
use crate::codec::field::short_text;
use crate::codec::frame::{FRAME_MIN_SIZE, encode_method};
use crate::codec::method::{channel, connection};
use crate::codec::{Long, Method, MethodArgs, MethodId, PROTOCOL_HEADER, Short};

/// How long a peer may take to answer `connection.close`, ms.
const CLOSE_MS_MAX: u64 = 10_000;

/// Largest frame before the size is negotiated: room for a long token, not for more. Bytes.
const OPENING_FRAME_BYTES_MAX: u32 = 32 * 1024;

/// `connection.close-ok` as it stands on the wire.
const CLOSE_OK_FRAME: [u8; 12] = [1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 51, 0xCE];

/// How far a connection has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The protocol header is due.
    Header,
    /// `start-ok` is due.
    Starting,
    /// The core looks at the credentials.
    Authenticating,
    /// `tune-ok` is due.
    Tuning,
    /// `open` is due.
    Tuned,
    /// The core looks at the vhost.
    Entering,
    /// In use.
    Open,
    /// We sent `close`: everything but the answer is discarded.
    Closing { until: Millis },
    /// The same, but where frames begin is not known any more. `tail` is the end of what came.
    Deaf { until: Millis, tail: Vec<u8> },
    /// Over.
    Closed,
}

/// The limits in force.
#[derive(Debug)]
pub(super) struct Limits {
    /// 0 is no limit.
    pub channel_max: u16,
    pub frame_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { channel_max: 0, frame_bytes_max: OPENING_FRAME_BYTES_MAX }
    }
}

/// What the client says of itself.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub user: Box<str>,
    /// Kept until they go to the core with the vhost.
    properties: Table,
    mechanism: Box<str>,
    wants_auth_close: bool,
    pub wants_blocked: bool,
    pub wants_cancel_notify: bool,
}

impl Client {
    fn read_capabilities(&mut self) {
        let capabilities = self.properties.get("capabilities").and_then(|v| v.as_table());
        let can = |name| capabilities.and_then(|table| table.get(name)?.as_bool()).unwrap_or(false);
        let wants = ["authentication_failure_close", "connection.blocked", "consumer_cancel_notify"];
        [self.wants_auth_close, self.wants_blocked, self.wants_cancel_notify] = wants.map(can);
    }
}

/// Who a peer says it is.
struct Credentials {
    user: Box<str>,
    password: Box<[u8]>,
}

impl AmqpSession {
    /// §4.2.2: eight octets, or ours in return.
    pub(super) fn protocol_header(&mut self, rest: &[u8], cx: &mut Cx<'_>) -> Step {
        let seen = rest.len().min(PROTOCOL_HEADER.len());
        if rest[..seen] != PROTOCOL_HEADER[..seen] {
            cx.out.buf().extend_from_slice(&PROTOCOL_HEADER);
            self.end();
            return Step::Took(rest.len());
        }
        if seen < PROTOCOL_HEADER.len() {
            return Step::More;
        }
        let mechanisms = self.config.mechanisms(&self.peer);
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: self.config.server_properties(),
            mechanisms: Long(mechanisms.as_bytes()),
            locales: Long(b"en_US"),
        };
        encode_method(cx.out.buf(), 0, &start);
        self.phase = Phase::Starting;
        Step::Took(PROTOCOL_HEADER.len())
    }

    /// A method on channel 0.
    pub(super) fn connection_method(&mut self, payload: &[u8], cx: &mut Cx<'_>) -> Result<Step> {
        let closing = matches!(self.phase, Phase::Closing { .. });
        let method = match Method::decode(payload) {
            Err(_) if closing => return Ok(Step::Done),
            decoded => decoded.map_err(undecodable)?,
        };
        match (&self.phase, method) {
            (_, Method::ConnectionClose(_)) => {
                let (channel, token, call) = (ChannelId::CONNECTION, 0, Call::Goodbye);
                cx.turn.commands.push(Command::Call { channel, token, call });
                encode_method(cx.out.buf(), 0, &connection::CloseOk {});
                self.end();
            }
            (Phase::Closing { .. }, Method::ConnectionCloseOk(_)) => self.end(),
            (Phase::Closing { .. }, _) => {}
            (Phase::Authenticating | Phase::Entering, _) => return Ok(Step::Stall),
            (Phase::Starting, Method::ConnectionStartOk(ok)) => self.start_ok(ok, cx)?,
            (Phase::Tuning, Method::ConnectionTuneOk(ok)) => self.tune_ok(&ok, cx)?,
            (Phase::Tuned, Method::ConnectionOpen(open)) => self.open(&open, cx),
            (Phase::Open, Method::ConnectionUpdateSecret(update)) => {
                let call = Call::UpdateSecret { secret: update.new_secret.0.into() };
                let id = connection::UpdateSecret::ID;
                self.call(0, id, Kind::UpdateSecret, false, call, cx);
            }
            (_, method) => return Err(out_of_order(method.id())),
        }
        Ok(Step::Done)
    }

    fn start_ok(&mut self, ok: connection::StartOk<'_>, cx: &mut Cx<'_>) -> Result<()> {
        self.client.properties = ok.client_properties;
        self.client.read_capabilities();
        self.client.mechanism = ok.mechanism.into();
        let offered = self.config.mechanisms(&self.peer);
        if !offered.split(' ').any(|name| name == ok.mechanism) {
            let text = format!("unknown authentication mechanism '{}'", ok.mechanism);
            return Err(Refusal::command_invalid(text));
        }
        let credentials = match ok.mechanism {
            "PLAIN" => plain(ok.response.0),
            "AMQPLAIN" => amqplain(ok.response.0),
            _ => Some(Credentials { user: "".into(), password: [].into() }),
        };
        let Some(Credentials { user, password }) = credentials else {
            return Err(Refusal::syntax_error("malformed authentication response"));
        };
        self.client.user = match &self.peer.certificate_user {
            Some(named) if user.is_empty() => named.clone(),
            _ => user.clone(),
        };
        let mechanism = ok.mechanism.into();
        let call = Call::Authenticate { mechanism, username: user, password };
        self.phase = Phase::Authenticating;
        self.call(0, connection::StartOk::ID, Kind::Authenticate, false, call, cx);
        Ok(())
    }

    /// A client that asked for it is told; others see the connection end, as they always have.
    pub(super) fn login_refused(&mut self, cx: &mut Cx<'_>) {
        if !self.client.wants_auth_close {
            return self.end();
        }
        let refusal = Refusal::access_refused(format!(
            "Login was refused using authentication mechanism {}. For details see the broker logfile.",
            self.client.mechanism
        ));
        self.close_connection(&refusal, MethodId::default(), cx);
    }

    /// §1.4.2.6: the client may lower the limits, not raise them.
    fn tune_ok(&mut self, ok: &connection::TuneOk, cx: &mut Cx<'_>) -> Result<()> {
        let ours = u32::from(self.config.channel_max);
        check_negotiated("channel_max", 0, ours, ok.channel_max.into())?;
        check_negotiated("frame_max", FRAME_MIN_SIZE, self.config.frame_bytes_max(), ok.frame_max)?;
        self.limits = Limits { channel_max: ok.channel_max, frame_bytes_max: ok.frame_max };
        self.pulse.start(ok.heartbeat, cx.now);
        self.phase = Phase::Tuned;
        Ok(())
    }

    fn open(&mut self, open: &connection::Open<'_>, cx: &mut Cx<'_>) {
        let call = Call::OpenVhost {
            vhost: open.virtual_host.into(),
            client_properties: std::mem::take(&mut self.client.properties),
        };
        self.phase = Phase::Entering;
        self.call(0, connection::Open::ID, Kind::OpenVhost, false, call, cx);
    }

    /// The core has answered a call of the connection's own.
    pub(super) fn on_connection_reply(&mut self, pending: &Pending, cx: &mut Cx<'_>) -> Result<()> {
        match pending.kind {
            Kind::Authenticate => {
                let tune = connection::Tune {
                    channel_max: self.config.channel_max,
                    frame_max: self.config.frame_bytes_max(),
                    heartbeat: self.config.heartbeat_s,
                };
                encode_method(cx.out.buf(), 0, &tune);
                self.phase = Phase::Tuning;
            }
            Kind::OpenVhost => {
                encode_method(cx.out.buf(), 0, &connection::OpenOk { reserved_1: Short(b"") });
                self.phase = Phase::Open;
                if let Some(reason) = self.blocked.as_ref().filter(|_| self.client.wants_blocked) {
                    encode_method(cx.out.buf(), 0, &connection::Blocked { reason });
                }
            }
            Kind::UpdateSecret => {
                encode_method(cx.out.buf(), 0, &connection::UpdateSecretOk {});
            }
            _ => return Err(internal("answer for the connection to a channel's call")),
        }
        Ok(())
    }

    pub(super) fn open_channel(&mut self, number: u16, cx: &mut Cx<'_>) -> Result<()> {
        let max = self.limits.channel_max;
        if max != 0 && (number > max || self.channels.len() >= usize::from(max)) {
            let open = self.channels.len();
            return Err(Refusal::not_allowed(format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({max})"
            )));
        }
        self.channels.insert(number);
        self.call(number, channel::Open::ID, Kind::ChannelOpen, false, Call::OpenChannel, cx);
        Ok(())
    }

    /// Answered once the core has given up what the channel held: the number is then free again.
    pub(super) fn close_by_peer(&mut self, number: u16, cx: &mut Cx<'_>) -> Result<()> {
        self.publisher.forget();
        self.channel(number)?.state = ChannelState::Closing;
        let call = Call::CloseChannel;
        self.call(number, channel::Close::ID, Kind::ChannelClose, false, call, cx);
        Ok(())
    }

    /// A client may stop the flow of deliveries by closing, or by a prefetch; not by this.
    pub(super) fn flow(&mut self, number: u16, flow: &channel::Flow, cx: &mut Cx<'_>) -> Result<()> {
        if !flow.active {
            return Err(Refusal::not_implemented("active=false"));
        }
        self.answer(number, &channel::FlowOk { active: true }, cx);
        Ok(())
    }

    /// Ends the connection for a fault: tells the peer, if it has shown that it speaks AMQP, and waits for its answer.
    pub(super) fn close_connection(&mut self, refusal: &Refusal, id: MethodId, cx: &mut Cx<'_>) {
        match self.phase {
            Phase::Header | Phase::Starting if self.client.mechanism.is_empty() => {
                return self.end();
            }
            Phase::Closing { .. } | Phase::Deaf { .. } | Phase::Closed => return self.end(),
            _ => {}
        }
        let text = refusal.to_string();
        let close = connection::Close {
            reply_code: refusal.kind.code(),
            reply_text: Short(short_text(&text).as_bytes()),
            class_id: id.class_id,
            method_id: id.method_id,
        };
        encode_method(cx.out.buf(), 0, &close);
        self.forget_all();
        self.phase = Phase::Closing { until: cx.now.plus(CLOSE_MS_MAX) };
    }

    /// From now on only the answer to our close is listened for, wherever it may stand.
    pub(super) fn go_deaf(&mut self) {
        if let Phase::Closing { until } = self.phase {
            self.phase = Phase::Deaf { until, tail: Vec::new() };
        }
    }

    pub(super) fn listen_for_close_ok(&mut self, data: &[u8]) {
        let Phase::Deaf { tail, .. } = &mut self.phase else {
            return;
        };
        let keep = CLOSE_OK_FRAME.len() - 1;
        let is_answer = |window: &[u8]| window == CLOSE_OK_FRAME;
        // What lies across the border of two reads, then what lies within this one.
        tail.extend_from_slice(&data[..data.len().min(keep)]);
        let len = CLOSE_OK_FRAME.len();
        let found = tail.windows(len).any(is_answer) || data.windows(len).any(is_answer);
        if data.len() > keep {
            tail.clear();
            tail.extend_from_slice(&data[data.len() - keep..]);
        }
        tail.drain(..tail.len().saturating_sub(keep));
        if found {
            self.end();
        }
    }

    /// Over, without a word.
    pub(super) fn end(&mut self) {
        self.forget_all();
        self.phase = Phase::Closed;
    }

    fn forget_all(&mut self) {
        self.channels.clear();
        self.calls = super::Calls::default();
        self.publisher.forget();
        self.publisher.assembling = 0;
        self.confirming.clear();
        self.confirms_wait = None;
        self.held.clear();
        self.stalled = false;
        self.resume = false;
        self.parked = None;
    }
}

/// Another class has no business on channel 0; our own came at the wrong time.
fn out_of_order(id: MethodId) -> Refusal {
    let MethodId { class_id, method_id } = id;
    if class_id == connection::Start::ID.class_id {
        return Refusal::command_invalid(format!("unexpected connection method {class_id}.{method_id}"));
    }
    channel_error(format!("method {class_id}.{method_id} on channel 0"))
}

fn check_negotiated(name: &str, min: u32, ours: u32, theirs: u32) -> Result<()> {
    let detail = if theirs == 0 { " (no limit)" } else { "" };
    let (relation, bound, limit) = if theirs != 0 && theirs < min {
        ("lower", "minimum", min)
    } else if ours != 0 && (theirs == 0 || theirs > ours) {
        ("higher", "maximum", ours)
    } else {
        return Ok(());
    };
    Err(Refusal::new(
        RefusalKind::NotAllowed,
        format!("negotiated {name} = {theirs}{detail} is {relation} than the {bound} allowed value ({limit})"),
    ))
}

/// RFC 4616: authorization identity (ignored), user, password, separated by zeros.
fn plain(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.splitn(3, |&byte| byte == 0);
    let (_, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Credentials { user: std::str::from_utf8(user).ok()?.into(), password: password.into() })
}

/// A field table without its length, entries `LOGIN` and `PASSWORD`.
fn amqplain(response: &[u8]) -> Option<Credentials> {
    let mut framed = u32::try_from(response.len()).ok()?.to_be_bytes().to_vec();
    framed.extend_from_slice(response);
    let (table, _) = Table::decode(&framed).ok()?;
    let password = match table.get("PASSWORD")? {
        waypost_model::table::Value::LongStr(bytes) => bytes.as_slice().into(),
        _ => return None,
    };
    Some(Credentials { user: table.get("LOGIN")?.as_str()?.into(), password })
}
