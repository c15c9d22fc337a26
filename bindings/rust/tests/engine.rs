//! Two engines of one process, and what they refuse.

use std::time::{Duration, Instant};

use mooncake_transfer_engine::{Batch, Engine, Error, Region, Request, Segment, Status};

const BYTES: usize = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(40); // longer than the library's own

fn engine() -> Engine {
    Engine::new("P2PHANDSHAKE", "127.0.0.1").unwrap()
}

/// An engine with memory, and another one's view of it.
struct Pair {
    here: Engine,
    local: Region,
    there: Engine,
    remote: Region,
    segment: Segment,
}

impl Pair {
    fn new() -> Self {
        let (here, there) = (engine(), engine());
        let local = here.register(vec![0; BYTES], "*").unwrap();
        let remote = there.register(vec![0; BYTES], "cpu:0").unwrap();
        let segment = here.open(&there.local_address().unwrap()).unwrap();
        Pair {
            here,
            local,
            there,
            remote,
            segment,
        }
    }

    fn write(&self, range: std::ops::Range<usize>) -> Request<'_> {
        Request::write(&self.segment, self.remote.address(), &self.local, range)
    }
}

fn bytes_of(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.copy_to(0, &mut bytes).unwrap();
    bytes
}

fn pattern(length_bytes: usize) -> Vec<u8> {
    (0..length_bytes).map(|i| (i * 31 % 251) as u8).collect()
}

fn is_argument<T>(outcome: Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Argument { .. }))
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, Error>, by: &str) {
    match outcome {
        Err(Error::Library { call, code }) => assert!(call == by && code < 0, "{call} {code}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn handles_may_go_to_any_thread() {
    fn is_any_threads<T: Send + Sync + 'static>() {}
    is_any_threads::<Engine>();
    is_any_threads::<Region>();
    is_any_threads::<Segment>();
    is_any_threads::<Batch>();
    is_any_threads::<Error>();
}

#[test]
fn bytes_go_there_and_come_back() {
    let pair = Pair::new();
    pair.local.copy_from(0, &pattern(1000)).unwrap();
    let address = pair.remote.address() + 7;
    pair.here
        .write(&pair.segment, address, &pair.local, 0..1000)
        .unwrap();
    assert_eq!(bytes_of(&pair.remote)[7..1007], pattern(1000));
    pair.here
        .read(&pair.segment, address, &pair.local, 5000..6000)
        .unwrap();
    assert_eq!(bytes_of(&pair.local)[5000..6000], pattern(1000));
}

#[test]
fn a_batch_of_both_directions_tells_the_peer_after_its_bytes() {
    let pair = Pair::new();
    pair.local.copy_from(0, &pattern(64)).unwrap();
    pair.remote.copy_from(4096, &pattern(64)).unwrap();
    let from = pair.remote.address() + 4096;
    let requests = [
        pair.write(0..64),
        Request::read(&pair.segment, from, &pair.local, 100..164),
        pair.write(0..0),
    ];
    let batch = pair
        .here
        .submit_with_notify(&requests, "name", b"\xff\x01")
        .unwrap();
    batch.wait(PATIENCE).unwrap();
    assert_eq!(batch.len(), 3);
    assert_eq!(batch.status(2), Ok(Status::Completed));
    assert_refused(batch.status(3), "getTransferStatus");
    assert_eq!(bytes_of(&pair.remote)[..64], pattern(64));
    assert_eq!(bytes_of(&pair.local)[100..164], pattern(64));
    let told = pair.there.take_notifications();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (&*told[0].name, &*told[0].message),
        ("name", &b"\xff\x01"[..])
    );
    assert!(pair.there.take_notifications().is_empty());
}

#[test]
fn an_engine_is_its_own_peer() {
    let engine = engine();
    let region = engine.register(pattern(100), "*").unwrap();
    let own = engine.open(&engine.local_address().unwrap()).unwrap();
    engine
        .write(&own, region.address() + 50, &region, 0..50)
        .unwrap();
    assert_eq!(bytes_of(&region)[50..], pattern(50));
    engine.notify(&own, "to", "myself").unwrap();
    assert_eq!(engine.take_notifications()[0].message, b"myself");
}

#[test]
fn memory_outlives_the_requests_that_use_it_whatever_is_dropped_first() {
    let Pair {
        here,
        local,
        there,
        remote,
        segment,
    } = Pair::new();
    let big = here.register(pattern(32 << 20), "*").unwrap();
    let target = there.register(vec![0; 32 << 20], "*").unwrap();
    let request = Request::write(&segment, target.address(), &big, 0..big.len());
    let batch = here.submit(&[request]).unwrap();
    drop((big, local, here, segment));
    batch.wait(PATIENCE).unwrap();
    drop(batch);
    assert_eq!(bytes_of(&target), pattern(32 << 20));
    drop(there);
    drop((target, remote));
}

#[test]
fn a_dropped_batch_has_ended() {
    let pair = Pair::new();
    let big = pair.here.register(pattern(8 << 20), "*").unwrap();
    let target = pair.there.register(vec![0; 8 << 20], "*").unwrap();
    let whole = [Request::write(
        &pair.segment,
        target.address(),
        &big,
        0..big.len(),
    )];
    drop(pair.here.submit(&whole).unwrap());
    assert_eq!(bytes_of(&target), pattern(8 << 20));
    big.unregister().unwrap(); // nothing holds it
}

#[test]
fn memory_comes_back_with_what_peers_wrote() {
    let pair = Pair::new();
    pair.local.copy_from(0, &pattern(BYTES)).unwrap();
    drop(pair.here.submit(&[pair.write(0..BYTES)]).unwrap());
    let memory = pair.remote.unregister().unwrap().unwrap();
    assert_eq!(memory[..], pattern(BYTES));
}

#[test]
fn memory_that_a_batch_uses_does_not_come_back() {
    let pair = Pair::new();
    let request = [pair.write(0..8)];
    let batch = pair.here.submit(&request).unwrap();
    batch.wait(PATIENCE).unwrap();
    assert!(is_argument(pair.local.unregister()));
    drop(batch);
    let again = pair.here.register(vec![0; BYTES], "*").unwrap();
    pair.here
        .write(&pair.segment, pair.remote.address(), &again, 0..8)
        .unwrap();
}

#[test]
fn memory_of_the_applications_own_stays_its_own() {
    let engine = engine();
    let mut memory = vec![3u8; 4096];
    let start = memory.as_mut_ptr();
    // SAFETY: `memory` is left alone until unregister() has succeeded.
    let region = unsafe { engine.register_raw(start, 4096, "cpu:0") }.unwrap();
    // SAFETY: as above.
    let overlapping = unsafe { engine.register_raw(start.wrapping_add(8), 8, "*") };
    assert_eq!(
        overlapping.unwrap_err(),
        Error::Library {
            call: "registerLocalMemory",
            code: -7
        }
    );
    assert!(region.unregister().unwrap().is_none());
    assert_eq!(memory[4095], 3);
    // SAFETY: refused.
    assert!(is_argument(unsafe {
        engine.register_raw(std::ptr::null_mut(), 8, "*")
    }));
}

#[test]
fn ranges_that_are_not_inside_are_refused_before_anything_moves() {
    let pair = Pair::new();
    assert!(is_argument(pair.here.submit(&[pair.write(0..BYTES + 1)])));
    assert!(is_argument(
        pair.here.submit(&[pair.write(usize::MAX - 1..usize::MAX)])
    ));
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = 8..0;
    assert!(is_argument(pair.here.submit(&[pair.write(reversed)])));
    assert!(is_argument(pair.local.copy_from(BYTES, b"x")));
    assert!(is_argument(pair.local.copy_to(usize::MAX, &mut [0; 2])));
    pair.local.copy_from(BYTES, b"").unwrap();
}

#[test]
fn what_belongs_to_another_engine_is_refused() {
    let (pair, other) = (Pair::new(), Pair::new());
    let address = pair.remote.address();
    let foreign_region = Request::write(&pair.segment, address, &other.local, 0..8);
    assert!(is_argument(pair.here.submit(&[foreign_region])));
    let foreign_segment = Request::write(&other.segment, address, &pair.local, 0..8);
    assert!(is_argument(pair.here.submit(&[foreign_segment])));
    assert!(is_argument(pair.here.notify(&other.segment, "a", "b")));
}

#[test]
fn texts_with_a_nul_are_refused() {
    let pair = Pair::new();
    assert!(is_argument(Engine::new("P2P\0HANDSHAKE", "127.0.0.1")));
    assert!(is_argument(pair.here.open("127.0.0.1\0")));
    assert!(is_argument(pair.here.register(vec![0; 8], "\0")));
    assert!(is_argument(pair.here.notify(&pair.segment, "a\0", "b")));
    assert!(is_argument(pair.here.notify(&pair.segment, "a", "b\0")));
    let request = [pair.write(0..8)];
    assert!(is_argument(
        pair.here.submit_with_notify(&request, "a", "\0")
    ));
    assert!(pair.there.take_notifications().is_empty());
}

#[test]
fn what_the_library_refuses_has_the_name_of_the_call() {
    let pair = Pair::new();
    assert_refused(
        Engine::new("gopher://x", "127.0.0.1"),
        "createTransferEngine",
    );
    assert_refused(pair.here.open("127.0.0.1:1"), "openSegment");
    assert_refused(pair.here.register(vec![], "*"), "registerLocalMemory");
    let nobodys = Request::write(&pair.segment, 64, &pair.local, 0..8);
    assert_refused(pair.here.submit(&[nobodys]), "submitTransfer");
    assert_refused(
        pair.here.submit_with_notify(&[], "a", "b"),
        "submitTransferWithNotify",
    );
    pair.here.submit(&[]).unwrap().wait(Duration::ZERO).unwrap();
}

#[test]
fn a_peer_that_is_gone_is_an_error_within_the_librarys_time() {
    let Pair {
        here,
        local,
        there,
        remote,
        segment,
    } = Pair::new();
    let address = remote.address();
    drop((there, remote));
    let begin = Instant::now();
    let outcome = here.write(&segment, address, &local, 0..8);
    assert!(
        matches!(outcome, Err(Error::Library { .. } | Error::Transfer { .. })),
        "{outcome:?}"
    );
    assert!(here.notify(&segment, "a", "b").is_err());
    assert!(begin.elapsed() < PATIENCE);
    local.unregister().unwrap();
}

#[test]
fn many_threads_share_one_engine() {
    let pair = Pair::new();
    pair.local.copy_from(0, &pattern(BYTES)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let pair = &pair;
            scope.spawn(move || {
                for i in 0..100 {
                    let at = thread * 1000 + i * 10;
                    let remote_address = pair.remote.address() + at as u64;
                    pair.here
                        .write(&pair.segment, remote_address, &pair.local, at..at + 10)
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(bytes_of(&pair.remote)[..4000], pattern(4000));
}
