//! Answers to fetch requests: heads are written, records are handed on as they lie in memory.

use bytes::Bytes;

use crate::wire::{Field, Form, Uuid, put_uvarint};

/// The first flexible version.
const FLEXIBLE: i16 = 12;
/// The first version that names topics by id.
const BY_ID: i16 = 13;

/// What was found of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedPartition {
    /// Its number.
    pub index: i32,
    /// 0, or why there is nothing.
    pub error_code: i16,
    /// One behind the last record that consumers may see; -1 with an error.
    pub high_watermark: i64,
    /// One behind the last record that no open transaction precedes.
    pub last_stable_offset: i64,
    /// The first record that is there.
    pub log_start_offset: i64,
    /// Producer and first offset of the transactions among these records that were aborted; for `read_committed` only.
    pub aborted: Option<Vec<(i64, i64)>>,
    /// Batches.
    pub records: Vec<Bytes>,
}

/// A topic, by name or by id as the version wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedTopic {
    /// Its name.
    pub name: Box<str>,
    /// Its id.
    pub id: Uuid,
    /// Its partitions.
    pub partitions: Vec<FetchedPartition>,
}

/// An answer of versions 4 to 16.
#[derive(Clone, Debug, Default)]
pub struct FetchResponse {
    /// How long the client is asked to wait, milliseconds.
    pub throttle_time_ms: i32,
    /// Of the request as a whole.
    pub error_code: i16,
    /// The fetch session, 0 for none.
    pub session_id: i32,
    /// What was found.
    pub topics: Vec<FetchedTopic>,
}

/// Pieces that follow one another on the wire.
#[derive(Debug, Default)]
pub struct Pieces {
    done: Vec<Bytes>,
    open: Vec<u8>,
}

impl Pieces {
    /// Begins with these bytes.
    #[must_use]
    pub fn begin(head: Vec<u8>) -> Pieces {
        Pieces { done: Vec::new(), open: head }
    }

    fn hand_on(&mut self, bytes: &[Bytes]) {
        if bytes.iter().any(|b| !b.is_empty()) {
            self.done.push(std::mem::take(&mut self.open).into());
            self.done.extend_from_slice(bytes);
        }
    }

    /// All of them, in order.
    #[must_use]
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.done.push(self.open.into());
        }
        self.done
    }
}

impl FetchResponse {
    /// Appends the answer behind its header.
    pub fn write(&self, out: &mut Pieces, version: i16) {
        let form = Form { version, flexible: version >= FLEXIBLE };
        self.throttle_time_ms.put(&mut out.open, form);
        if version >= 7 {
            self.error_code.put(&mut out.open, form);
            self.session_id.put(&mut out.open, form);
        }
        put_count(&mut out.open, self.topics.len(), form);
        for topic in &self.topics {
            if version >= BY_ID {
                topic.id.put(&mut out.open, form)
            } else {
                topic.name.put(&mut out.open, form)
            }
            put_count(&mut out.open, topic.partitions.len(), form);
            for partition in &topic.partitions {
                partition.write(out, form);
            }
            put_no_tags(&mut out.open, form);
        }
        put_no_tags(&mut out.open, form);
    }
}

impl FetchedPartition {
    fn write(&self, out: &mut Pieces, form: Form) {
        let head = &mut out.open;
        self.index.put(head, form);
        self.error_code.put(head, form);
        self.high_watermark.put(head, form);
        self.last_stable_offset.put(head, form);
        if form.version >= 5 {
            self.log_start_offset.put(head, form);
        }
        match &self.aborted {
            None if form.flexible => head.push(0),
            None => (-1_i32).put(head, form),
            Some(aborted) => {
                put_count(head, aborted.len(), form);
                for (producer, first) in aborted {
                    producer.put(head, form);
                    first.put(head, form);
                    put_no_tags(head, form);
                }
            }
        }
        if form.version >= 11 {
            // No replica is better to read from.
            (-1_i32).put(head, form);
        }
        put_count(head, self.records.iter().map(Bytes::len).sum(), form);
        out.hand_on(&self.records);
        put_no_tags(&mut out.open, form);
    }
}

fn put_count(out: &mut Vec<u8>, count: usize, form: Form) {
    if form.flexible {
        put_uvarint(out, u32::try_from(count).unwrap_or(u32::MAX - 1).saturating_add(1));
    } else {
        i32::try_from(count).unwrap_or(i32::MAX).put(out, form);
    }
}

fn put_no_tags(out: &mut Vec<u8>, form: Form) {
    if form.flexible {
        out.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::FetchResponse as Theirs;
    use kafka_protocol::protocol::Decodable;

    fn answer() -> FetchResponse {
        let partition = |index, records: Vec<Bytes>, aborted| FetchedPartition {
            index,
            error_code: 0,
            high_watermark: 100,
            last_stable_offset: 90,
            log_start_offset: 5,
            aborted,
            records,
        };
        let batches = vec![Bytes::from_static(b"first batch"), Bytes::from_static(b"second")];
        let partitions = vec![partition(0, batches, Some(vec![(7, 80)])), partition(1, Vec::new(), None)];
        let topic = FetchedTopic { name: "t".into(), id: Uuid([3; 16]), partitions };
        FetchResponse { throttle_time_ms: 1, error_code: 0, session_id: 77, topics: vec![topic] }
    }

    #[test]
    fn clients_read_what_is_written_and_records_are_not_copied() {
        for version in 4..=16 {
            let answer = answer();
            let mut pieces = Pieces::begin(Vec::new());
            answer.write(&mut pieces, version);
            let pieces = pieces.finish();
            let batch = &answer.topics[0].partitions[0].records[0];
            assert!(pieces.iter().any(|p| p.as_ptr() == batch.as_ptr()), "{version}");
            let mut whole = Bytes::from(pieces.concat());
            let read = Theirs::decode(&mut whole, version).unwrap();
            assert!(whole.is_empty(), "{version}");
            let topic = &read.responses[0];
            assert_eq!(topic.partitions.len(), 2, "{version}");
            assert_eq!(topic.partitions[0].records.as_deref(), Some(&b"first batchsecond"[..]), "{version}");
            assert_eq!((topic.partitions[0].high_watermark, topic.partitions[0].last_stable_offset), (100, 90));
            let aborted = topic.partitions[0].aborted_transactions.as_ref().unwrap();
            assert_eq!((aborted[0].producer_id.0, aborted[0].first_offset), (7, 80));
            assert_eq!(topic.partitions[1].records.as_deref(), Some(&b""[..]));
            assert_eq!(read.session_id, if version >= 7 { 77 } else { 0 });
            if version >= BY_ID {
                assert_eq!(topic.topic_id.as_bytes(), &[3; 16]);
            } else {
                assert_eq!(topic.topic.as_str(), "t");
            }
        }
    }
}
