use proptest::prelude::*;

use super::*;

fn route(address: Option<&[u8]>) -> Route {
    Route { address: address.map(Arc::from), ..Route::new("exchange", [0xff, 0, 7]) }
}

fn write(routes: &[Route], chunks: &[(u32, Vec<Run>, Vec<Target>)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, routes.len() as u64);
    routes.iter().for_each(|r| put_route(&mut out, r));
    put_varint(&mut out, chunks.len() as u64);
    let mut w = TableWriter::default();
    for (len, runs, targets) in chunks {
        w.begin(&mut out, *len, runs.iter().map(|r| r.count).sum(), runs.len());
        runs.iter().for_each(|r| w.put_run(&mut out, r));
        w.put_targets(&mut out, targets.len());
        targets.iter().for_each(|t| w.put_target(&mut out, t));
    }
    put_checksums(&mut out, chunks.len());
    out
}

#[test]
fn addresses_come_back_and_cost_nothing_when_absent() {
    for address in [None, Some(&b""[..]), Some(&[0xfe; 4096][..])] {
        let r = route(address);
        let mut bytes = Vec::new();
        put_route(&mut bytes, &r);
        assert_eq!(decode_route(&bytes), Ok(r));
        assert!(decode_route(&bytes[..bytes.len() - 1]).is_err());
    }
    let mut bytes = Vec::new();
    put_route(&mut bytes, &route(None));
    assert_eq!(bytes.len(), 1 + 8 + 1 + 3);
}

#[test]
fn a_message_among_its_like_takes_little() {
    let run = |route| Run {
        count: 1,
        route,
        attrs: Attrs::default(),
        at: Millis(1_700_000_000_000),
        payload: 18,
        uniform: true,
    };
    let target = |n: u32| Target { queue: QueueId(u64::from(n) * 64), first: Seq(1000), entry: n, count: 1 };
    let table = |n: u32| {
        let routes = vec![Route::new("", "key"); n as usize];
        write(&routes, &[(4096, (0..n).map(run).collect(), (0..n).map(target).collect())]).len()
    };
    // Beside the route of 5 bytes: a run of one byte, and a target of five.
    assert_eq!(table(101) - table(100), 5 + 1 + 5);
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let attrs = (0u8..3, 0u8..2, prop::option::of(0u32..3));
    let each = (1u32..4, 0u32..3, attrs, 0u64..3, 0u64..40, any::<bool>());
    prop::collection::vec(each, 1..8).prop_map(|runs| {
        let run =
            |(count, route, (flags, priority, expiration), at, each, uniform): (u32, _, (_, _, _), _, u64, bool)| {
                let attrs = Attrs { flags: AttrFlags(flags), priority, expiration };
                let payload = each * u64::from(count) + u64::from(!uniform);
                Run { count, route, attrs, at: Millis(at), payload, uniform }
            };
        runs.into_iter().map(run).collect()
    })
}

fn chunk() -> impl Strategy<Value = (u32, Vec<Run>, Vec<Target>)> {
    (any::<u16>(), runs()).prop_flat_map(|(len, runs)| {
        let entries: u32 = runs.iter().map(|r| r.count).sum();
        let target = (0..entries, any::<u64>(), 0u64..1 << 40).prop_flat_map(move |(entry, queue, first)| {
            (1..=entries - entry).prop_map(move |count| Target {
                queue: QueueId(queue),
                first: Seq(first),
                entry,
                count,
            })
        });
        (Just(u32::from(len)), Just(runs), prop::collection::vec(target, 1..8))
    })
}

proptest! {
    #[test]
    fn a_table_comes_back(chunks in prop::collection::vec(chunk(), 1..6)) {
        let routes = [route(None), route(Some(b"a")), Route::default()];
        let bytes = write(&routes, &chunks);
        let mut table = ChunkTable::default();
        table.read(&bytes, None).unwrap();
        let found: Vec<_> = table.routes.iter().map(|r| decode_route(&bytes[r.clone()]).unwrap()).collect();
        prop_assert_eq!(&found[..], &routes[..]);
        prop_assert_eq!(table.chunks.len(), chunks.len());
        for (c, (len, runs, targets)) in table.chunks.iter().zip(&chunks) {
            prop_assert_eq!(c.len, *len);
            prop_assert_eq!(&table.runs[c.runs.clone()], &runs[..]);
            prop_assert_eq!(table.targets(c), &targets[..]);
            prop_assert_eq!(c.shares, targets.iter().map(|t| t.count).sum::<u32>());
            // Parts, against one message after the other.
            let run_of: Vec<usize> =
                runs.iter().enumerate().flat_map(|(i, r)| std::iter::repeat_n(i, r.count as usize)).collect();
            let expected: Vec<_> = targets.iter()
                .flat_map(|t| (t.entry..t.entry + t.count).map(|e| (*t, runs[run_of[e as usize]], e)))
                .collect();
            let mut parts = Vec::new();
            table.parts(c, |t, r, entries| parts.extend(entries.map(|e| (*t, *r, e))));
            prop_assert_eq!(parts, expected);
        }
        for cut in 0..bytes.len() {
            prop_assert!(table.read(&bytes[..cut], None).is_err() || cut == 0);
        }
    }
}
