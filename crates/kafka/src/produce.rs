//! Produce requests: read without touching the records.

use std::ops::Range;

use crate::wire::{Field, Form, Malformed, Reader};

/// The first flexible version.
const FLEXIBLE: i16 = 9;

/// A request of versions 3 to 11.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceRequest {
    /// The transaction that the batches belong to.
    pub transactional_id: Option<Box<str>>,
    /// 0: no answer; 1 or -1: when it is stored, as the topic is configured.
    pub acks: i16,
    /// How long it may take, milliseconds.
    pub timeout_ms: i32,
    /// Batches by topic.
    pub topics: Vec<ProduceTopic>,
}

/// The part for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceTopic {
    /// Its name.
    pub name: Box<str>,
    /// Batches by partition.
    pub partitions: Vec<ProducePartition>,
}

/// The part for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducePartition {
    /// Its number.
    pub index: i32,
    /// Where in the request its batches lie; none was sent if it is `None`.
    pub records: Option<Range<usize>>,
}

impl ProduceRequest {
    /// Reads what follows the header. Ranges count from the beginning of `body`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(body: &[u8], version: i16) -> Result<ProduceRequest, Malformed> {
        let form = Form { version, flexible: version >= FLEXIBLE };
        let mut from = Reader::new(body);
        let request = ProduceRequest {
            transactional_id: Field::get(&mut from, form, "transactional id")?,
            acks: Field::get(&mut from, form, "acks")?,
            timeout_ms: Field::get(&mut from, form, "timeout")?,
            topics: list(&mut from, form, "topics", |from| {
                let name = Field::get(from, form, "topic")?;
                let partitions = list(from, form, "partitions", |from| partition(from, form, body.len()))?;
                end(from, form)?;
                Ok(ProduceTopic { name, partitions })
            })?,
        };
        end(&mut from, form)?;
        Ok(request)
    }
}

fn partition(from: &mut Reader<'_>, form: Form, whole: usize) -> Result<ProducePartition, Malformed> {
    let index = Field::get(from, form, "partition")?;
    let records = match from.length(form.flexible, true, "records")? {
        None => None,
        Some(length) => {
            let start = whole - from.left();
            from.take(length, "records")?;
            Some(start..start + length)
        }
    };
    end(from, form)?;
    Ok(ProducePartition { index, records })
}

fn list<T>(
    from: &mut Reader<'_>,
    form: Form,
    what: &'static str,
    mut each: impl FnMut(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = from.length(form.flexible, true, what)?.ok_or(Malformed::Value(what))?;
    from.count(count, 1, what)?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(each(from)?);
    }
    Ok(items)
}

fn end(from: &mut Reader<'_>, form: Form) -> Result<(), Malformed> {
    if form.flexible { from.tagged(|_, _| Ok(())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::{ProduceRequest as Theirs, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    fn encoded(version: i16) -> Vec<u8> {
        let partition = |index, records: Option<&'static [u8]>| {
            PartitionProduceData::default().with_index(index).with_records(records.map(Bytes::from_static))
        };
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_static_str("t")))
            .with_partition_data(vec![partition(3, Some(b"batch")), partition(4, None)]);
        let request = Theirs::default().with_acks(-1).with_timeout_ms(9).with_topic_data(vec![topic]);
        let mut out = BytesMut::new();
        request.encode(&mut out, version).unwrap();
        out.to_vec()
    }

    #[test]
    fn records_are_found_where_they_lie() {
        for version in 3..=11 {
            let body = encoded(version);
            let request = ProduceRequest::read(&body, version).unwrap();
            assert_eq!((request.acks, request.timeout_ms, &request.transactional_id), (-1, 9, &None));
            let [topic] = &request.topics[..] else { panic!("{request:?}") };
            assert_eq!(&*topic.name, "t");
            assert_eq!(&body[topic.partitions[0].records.clone().unwrap()], b"batch");
            assert_eq!((topic.partitions[1].index, &topic.partitions[1].records), (4, &None));
            for cut in 0..body.len() {
                assert!(ProduceRequest::read(&body[..cut], version).is_err(), "{version} {cut}");
            }
        }
    }

    #[test]
    fn counts_beyond_the_request_allocate_nothing() {
        let mut body = encoded(3);
        body[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        assert_eq!(ProduceRequest::read(&body, 3), Err(Malformed::Short("topics")));
    }
}
