use bytes::Bytes;

use super::*;
use crate::messages::records::ForgottenTopic;

fn topic(name: &str, partitions: &[i32]) -> FetchTopic {
    let partition = |n: &i32| FetchPartition { partition: *n, fetch_offset: 10, ..FetchPartition::default() };
    FetchTopic { topic: name.into(), topic_id: Uuid::ZERO, partitions: partitions.iter().map(partition).collect() }
}

fn request(id: i32, epoch: i32, topics: Vec<FetchTopic>) -> FetchRequest {
    FetchRequest { session_id: id, session_epoch: epoch, topics, ..FetchRequest::default() }
}

/// An answer to all that is wanted: these partitions have records, all have this high watermark.
fn answer(fetching: &Fetching, full: &[(&str, i32)], high_watermark: i64) -> Vec<FetchedTopic> {
    let of = |topic: &FetchTopic| FetchedTopic {
        name: topic.topic.clone(),
        id: topic.topic_id,
        partitions: topic
            .partitions
            .iter()
            .map(|p| FetchedPartition {
                index: p.partition,
                error_code: 0,
                high_watermark,
                last_stable_offset: high_watermark,
                log_start_offset: 0,
                aborted: None,
                records: full
                    .contains(&(&*topic.topic, p.partition))
                    .then(|| Bytes::from_static(b"r"))
                    .into_iter()
                    .collect(),
            })
            .collect(),
    };
    fetching.topics.iter().map(of).collect()
}

fn named(topics: &[FetchedTopic]) -> Vec<(&str, i32)> {
    topics.iter().flat_map(|t| t.partitions.iter().map(|p| (&*t.name, p.index))).collect()
}

fn wanted(fetching: &Fetching) -> Vec<(&str, i32, i64)> {
    let of = |t: &'_ FetchTopic| t.partitions.iter().map(|p| (p.partition, p.fetch_offset)).collect::<Vec<_>>();
    fetching.topics.iter().flat_map(|t| of(t).into_iter().map(|(n, at)| (&*t.topic, n, at))).collect()
}

/// A session of these, and its id.
fn begun(sessions: &FetchSessions, owner: &str, topics: Vec<FetchTopic>, now_ms: u64) -> i32 {
    let fetching = sessions.begin(owner, false, &mut request(0, FIRST_EPOCH, topics), now_ms).unwrap();
    fetching.finish(answer(&fetching, &[], 10)).0
}

#[test]
fn only_what_changes_is_said_and_told() {
    let sessions = FetchSessions::new(7);
    let fetching = sessions.begin("ann", false, &mut request(0, 0, vec![topic("a", &[0, 1]), topic("b", &[0])]), 0);
    let fetching = fetching.unwrap();
    let (id, told) = fetching.finish(answer(&fetching, &[], 10));
    assert!(id > 0 && named(&told) == [("a", 0), ("a", 1), ("b", 0)]);
    // Nothing new.
    let fetching = sessions.begin("ann", false, &mut request(id, 1, vec![]), 1).unwrap();
    assert_eq!(wanted(&fetching), [("a", 0, 10), ("a", 1, 10), ("b", 0, 10)]);
    assert_eq!(fetching.finish(answer(&fetching, &[], 10)), (id, vec![]));
    // Records in one; the client goes on behind them, leaves one and adds another.
    let fetching = sessions.begin("ann", false, &mut request(id, 2, vec![]), 1).unwrap();
    let (_, told) = fetching.finish(answer(&fetching, &[("a", 1)], 10));
    assert_eq!(named(&told), [("a", 1)]);
    let mut next = request(id, 3, vec![topic("c", &[5]), topic("a", &[1])]);
    next.topics[1].partitions[0].fetch_offset = 11;
    next.forgotten_topics_data =
        vec![ForgottenTopic { topic: "a".into(), partitions: vec![0, 77], ..ForgottenTopic::default() }];
    let fetching = sessions.begin("ann", false, &mut next, 1).unwrap();
    assert_eq!(wanted(&fetching), [("b", 0, 10), ("c", 5, 10), ("a", 1, 11)]);
    assert_eq!(named(&fetching.finish(answer(&fetching, &[], 10)).1), [("c", 5)]);
    // A watermark moves everywhere.
    let fetching = sessions.begin("ann", false, &mut request(id, 4, vec![]), 1).unwrap();
    assert_eq!(fetching.finish(answer(&fetching, &[], 11)).1.len(), 3);
}

#[test]
fn errors_are_told_each_time_and_what_was_known_once_they_are_over() {
    let sessions = FetchSessions::new(7);
    let id = begun(&sessions, "ann", vec![topic("a", &[0])], 0);
    for epoch in 1..3 {
        let fetching = sessions.begin("ann", false, &mut request(id, epoch, vec![]), 0).unwrap();
        let mut failed = answer(&fetching, &[], 10);
        failed[0].partitions[0].error_code = 3;
        assert_eq!(named(&fetching.finish(failed).1), [("a", 0)]);
    }
    let fetching = sessions.begin("ann", false, &mut request(id, 3, vec![]), 0).unwrap();
    assert_eq!(named(&fetching.finish(answer(&fetching, &[], 10)).1), [("a", 0)]);
}

#[test]
fn what_does_not_go_on_is_refused() {
    let sessions = FetchSessions::new(7);
    let id = begun(&sessions, "ann", vec![topic("a", &[0])], 0);
    let fault = |owner, by_id, id, epoch| sessions.begin(owner, by_id, &mut request(id, epoch, vec![]), 0).unwrap_err();
    assert_eq!(fault("ann", false, id ^ 1, 1), SessionFault::Unknown);
    assert_eq!(fault("bob", false, id, 1), SessionFault::Unknown);
    assert_eq!(fault("ann", false, id, 2), SessionFault::Epoch);
    assert_eq!(fault("ann", true, id, 1), SessionFault::TopicIds);
    // None of these has moved it.
    assert!(sessions.begin("ann", false, &mut request(id, 1, vec![]), 0).is_ok());
    assert_eq!(fault("ann", false, id, 1), SessionFault::Epoch);
}

#[test]
fn sessions_end_when_their_client_says_so_or_they_are_empty() {
    let sessions = FetchSessions::new(7);
    let id = begun(&sessions, "ann", vec![topic("a", &[0])], 0);
    assert!(sessions.begin("bob", false, &mut request(id, FINAL_EPOCH, vec![]), 0).is_ok());
    assert_eq!(sessions.count(), 1, "it is not bob's");
    let end = sessions.begin("ann", false, &mut request(id, FINAL_EPOCH, vec![topic("a", &[0])]), 0).unwrap();
    assert_eq!((wanted(&end).len(), end.finish(vec![]).0, sessions.count()), (1, 0, 0));
    // Begun anew: the one before is gone.
    let id = begun(&sessions, "ann", vec![topic("a", &[0])], 0);
    let again = sessions.begin("ann", false, &mut request(id, FIRST_EPOCH, vec![topic("a", &[0])]), 0).unwrap();
    assert!(again.finish(vec![]).0 != id && sessions.count() == 1);
    // Without any partition there is nothing to remember.
    let id = again.finish(vec![]).0;
    let mut last = request(id, 1, vec![]);
    last.forgotten_topics_data =
        vec![ForgottenTopic { topic: "a".into(), partitions: vec![0], ..ForgottenTopic::default() }];
    let emptied = sessions.begin("ann", false, &mut last, 0).unwrap();
    assert_eq!((emptied.finish(vec![]).0, sessions.count()), (0, 0));
    assert_eq!(begun(&sessions, "ann", vec![], 0), 0);
    assert_eq!(lock(&sessions.slots).partitions, 0);
}

#[test]
fn slots_are_bounded_and_given_to_who_needs_them_more() {
    let sessions = FetchSessions::new(7);
    let first = begun(&sessions, "ann", vec![topic("a", &[0, 1])], 0);
    for _ in 1..SESSIONS_MAX {
        assert!(begun(&sessions, "ann", vec![topic("a", &[0, 1])], 1) > 0);
    }
    assert_eq!(begun(&sessions, "bob", vec![topic("a", &[0, 1, 2])], KEPT_MS - 1), 0, "all are fresh");
    // The first goes on and is not the one that rests longest.
    assert!(sessions.begin("ann", false, &mut request(first, 1, vec![]), KEPT_MS).is_ok());
    assert!(begun(&sessions, "bob", vec![topic("a", &[0])], KEPT_MS + 1) > 0);
    assert!(sessions.begin("ann", false, &mut request(first, 2, vec![]), KEPT_MS).is_ok());
    assert_eq!(sessions.count(), SESSIONS_MAX);
}

#[test]
fn a_large_session_takes_the_place_of_a_small_one_that_had_its_time() {
    let sessions = FetchSessions::new(7);
    let small = begun(&sessions, "ann", vec![topic("a", &[0])], 0);
    for _ in 1..SESSIONS_MAX {
        begun(&sessions, "ann", vec![topic("a", &[0, 1])], 1);
    }
    let ids: Vec<i32> = lock(&sessions.slots).by_id.keys().copied().collect();
    for id in ids {
        sessions.begin("ann", false, &mut request(id, 1, vec![]), KEPT_MS).unwrap();
    }
    assert_eq!(begun(&sessions, "bob", vec![topic("a", &[0])], KEPT_MS), 0);
    assert!(begun(&sessions, "bob", vec![topic("a", &[0, 1])], KEPT_MS) > 0);
    let gone = sessions.begin("ann", false, &mut request(small, 2, vec![]), KEPT_MS);
    assert_eq!(gone.unwrap_err(), SessionFault::Unknown);
}

#[test]
fn partitions_of_all_sessions_are_bounded() {
    let sessions = FetchSessions::new(7);
    let many = |n: usize| (0..i32::try_from(n).unwrap()).collect::<Vec<_>>();
    let id = begun(&sessions, "ann", vec![topic("a", &many(PARTITIONS_MAX - 10))], 0);
    assert!(id > 0);
    assert_eq!(begun(&sessions, "bob", vec![topic("b", &many(11))], 0), 0);
    assert!(begun(&sessions, "bob", vec![topic("b", &many(10))], 0) > 0);
    let grown = sessions.begin("ann", false, &mut request(id, 1, vec![topic("b", &[1])]), 0);
    assert_eq!(grown.unwrap_err(), SessionFault::Unknown);
    assert_eq!(lock(&sessions.slots).partitions, 10);
    assert_eq!(begun(&sessions, "ann", vec![topic(&"x".repeat(250), &[0])], 0), 0, "no topic has such a name");
}

#[test]
fn a_partition_that_is_named_twice_is_looked_for_once() {
    let sessions = FetchSessions::new(7);
    let twice = vec![topic("a", &[0, 0, 1]), topic("a", &[1, 2]), topic("b", &[0])];
    let fetching = sessions.begin("ann", false, &mut request(0, FINAL_EPOCH, twice), 0).unwrap();
    let named: Vec<_> = wanted(&fetching).into_iter().map(|(name, number, _)| (name, number)).collect();
    assert_eq!(named, [("a", 0), ("a", 1), ("a", 2), ("b", 0)]);
}
