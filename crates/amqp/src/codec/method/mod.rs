//! The methods, one module per class. Structs and fields have the specification's names and meaning; a field is left
//! out only where its name says reserved, and then written as zero.

use super::field::{DecodeError, FieldReader, FieldWriter};

/// Defines the methods of a class: a struct each, with its ids, and how its arguments are read and written in order.
macro_rules! methods {
    ($class:literal; $($(#[$doc:meta])* $name:ident [$($lt:lifetime)?] = $id:literal {
        $($(#[$field_doc:meta])* $field:ident: $ty:ty),* $(,)?
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Default)]
            pub struct $name $(<$lt>)? {
                $($(#[$field_doc])* pub $field: $ty,)*
            }
            methods!(@args [$($lt)?] $class $id $name { $($field)* });
        )*
    };
    (@args [] $class:literal $id:literal $name:ident { $($field:ident)* }) => {
        impl<'a> $crate::codec::method::MethodArgs<'a> for $name {
            methods!(@body 'a $class $id { $($field)* });
        }
    };
    (@args [$lt:lifetime] $class:literal $id:literal $name:ident { $($field:ident)* }) => {
        impl<$lt> $crate::codec::method::MethodArgs<$lt> for $name<$lt> {
            methods!(@body $lt $class $id { $($field)* });
        }
    };
    (@body $lt:lifetime $class:literal $id:literal { $($field:ident)* }) => {
        const ID: $crate::codec::method::MethodId =
            $crate::codec::method::MethodId { class_id: $class, method_id: $id };

        fn read(
            _reader: &mut $crate::codec::field::FieldReader<$lt>,
        ) -> Result<Self, $crate::codec::field::DecodeError> {
            Ok(Self { $($field: $crate::codec::field::Field::read(_reader)?,)* })
        }

        fn write(&self, _writer: &mut $crate::codec::field::FieldWriter<'_>) {
            $($crate::codec::field::Field::write(&self.$field, _writer);)*
        }
    };
}

pub mod basic;
pub mod channel;
pub mod confirm;
pub mod connection;
pub mod exchange;
pub mod queue;
pub mod tx;

/// Class and method number, as they stand in front of a method's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MethodId {
    /// The class.
    pub class_id: u16,
    /// The method within it.
    pub method_id: u16,
}

impl MethodId {
    /// The id that starts a method frame's payload, and the arguments behind it.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if the payload is too short for an id.
    pub fn split(payload: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let (&[c0, c1, m0, m1], args) = payload.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
        let class_id = u16::from_be_bytes([c0, c1]);
        Ok((MethodId { class_id, method_id: u16::from_be_bytes([m0, m1]) }, args))
    }
}

/// The arguments of one method.
pub trait MethodArgs<'a>: Sized {
    /// Class and method.
    const ID: MethodId;

    /// Takes the arguments off the front.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if they are not there.
    fn read(reader: &mut FieldReader<'a>) -> Result<Self, DecodeError>;

    /// Appends the arguments.
    fn write(&self, writer: &mut FieldWriter<'_>);
}

/// Appends a method frame's payload: id and arguments.
pub fn encode_args<'a, M: MethodArgs<'a>>(out: &mut Vec<u8>, args: &M) {
    out.extend_from_slice(&M::ID.class_id.to_be_bytes());
    out.extend_from_slice(&M::ID.method_id.to_be_bytes());
    args.write(&mut FieldWriter::new(out));
}

fn decode_args<'a, M: MethodArgs<'a>>(args: &'a [u8]) -> Result<M, DecodeError> {
    let mut reader = FieldReader::new(args);
    let method = M::read(&mut reader)?;
    reader.finish()?;
    Ok(method)
}

macro_rules! method_enum {
    ($($variant:ident($args:ty)),* $(,)?) => {
        /// Any method.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "each variant is documented by its struct")]
        pub enum Method<'a> {
            $($variant($args),)*
        }

        impl<'a> Method<'a> {
            /// Reads a method frame's payload.
            ///
            /// # Errors
            ///
            /// [`DecodeError::UnknownMethod`] for an id that is not ours, others for malformed arguments.
            pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
                let (id, args) = MethodId::split(payload)?;
                $(if id == <$args as MethodArgs<'a>>::ID {
                    return decode_args(args).map(Method::$variant);
                })*
                Err(DecodeError::UnknownMethod { class_id: id.class_id, method_id: id.method_id })
            }

            /// Class and method.
            pub fn id(&self) -> MethodId {
                match self {
                    $(Method::$variant(_) => <$args as MethodArgs<'a>>::ID,)*
                }
            }

            /// Appends a method frame.
            pub fn encode_frame(&self, out: &mut Vec<u8>, channel: u16) {
                match self {
                    $(Method::$variant(args) => super::frame::encode_method(out, channel, args),)*
                }
            }
        }
    };
}

method_enum! {
    BasicAck(basic::Ack),
    BasicPublish(basic::Publish<'a>),
    BasicDeliver(basic::Deliver<'a>),
    BasicReject(basic::Reject),
    BasicNack(basic::Nack),
    BasicReturn(basic::Return<'a>),
    BasicQos(basic::Qos),
    BasicQosOk(basic::QosOk),
    BasicConsume(basic::Consume<'a>),
    BasicConsumeOk(basic::ConsumeOk<'a>),
    BasicCancel(basic::Cancel<'a>),
    BasicCancelOk(basic::CancelOk<'a>),
    BasicGet(basic::Get<'a>),
    BasicGetOk(basic::GetOk<'a>),
    BasicGetEmpty(basic::GetEmpty<'a>),
    BasicRecoverAsync(basic::RecoverAsync),
    BasicRecover(basic::Recover),
    BasicRecoverOk(basic::RecoverOk),
    QueueDeclare(queue::Declare<'a>),
    QueueDeclareOk(queue::DeclareOk<'a>),
    QueueBind(queue::Bind<'a>),
    QueueBindOk(queue::BindOk),
    QueueUnbind(queue::Unbind<'a>),
    QueueUnbindOk(queue::UnbindOk),
    QueuePurge(queue::Purge<'a>),
    QueuePurgeOk(queue::PurgeOk),
    QueueDelete(queue::Delete<'a>),
    QueueDeleteOk(queue::DeleteOk),
    ExchangeDeclare(exchange::Declare<'a>),
    ExchangeDeclareOk(exchange::DeclareOk),
    ExchangeDelete(exchange::Delete<'a>),
    ExchangeDeleteOk(exchange::DeleteOk),
    ExchangeBind(exchange::Bind<'a>),
    ExchangeBindOk(exchange::BindOk),
    ExchangeUnbind(exchange::Unbind<'a>),
    ExchangeUnbindOk(exchange::UnbindOk),
    ChannelOpen(channel::Open<'a>),
    ChannelOpenOk(channel::OpenOk<'a>),
    ChannelFlow(channel::Flow),
    ChannelFlowOk(channel::FlowOk),
    ChannelClose(channel::Close<'a>),
    ChannelCloseOk(channel::CloseOk),
    ConfirmSelect(confirm::Select),
    ConfirmSelectOk(confirm::SelectOk),
    TxSelect(tx::Select),
    TxSelectOk(tx::SelectOk),
    TxCommit(tx::Commit),
    TxCommitOk(tx::CommitOk),
    TxRollback(tx::Rollback),
    TxRollbackOk(tx::RollbackOk),
    ConnectionStart(connection::Start<'a>),
    ConnectionStartOk(connection::StartOk<'a>),
    ConnectionSecure(connection::Secure<'a>),
    ConnectionSecureOk(connection::SecureOk<'a>),
    ConnectionTune(connection::Tune),
    ConnectionTuneOk(connection::TuneOk),
    ConnectionOpen(connection::Open<'a>),
    ConnectionOpenOk(connection::OpenOk<'a>),
    ConnectionClose(connection::Close<'a>),
    ConnectionCloseOk(connection::CloseOk),
    ConnectionBlocked(connection::Blocked<'a>),
    ConnectionUnblocked(connection::Unblocked),
    ConnectionUpdateSecret(connection::UpdateSecret<'a>),
    ConnectionUpdateSecretOk(connection::UpdateSecretOk),
}

#[cfg(test)]
mod tests;
