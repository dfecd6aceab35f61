use proptest::prelude::*;
use threadrunner_core::BackendKind;

use super::*;

fn model(number: usize) -> ModelRef {
    ModelRef { backend: BackendKind::Llama, path: Some(number.to_string().into()), draft: None }
}

fn wanted(number: usize, bytes: u64) -> Wanted {
    Wanted { model: model(number), interactive: false, bytes }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Room for four engines of one byte each.
const FOUR: Limits = Limits { bytes: 4, engines: 16 };

/// Four busy engines that were started one second apart, long ago.
fn four_busy(start: Instant) -> Vec<Room> {
    let busy = |n| Room {
        engine: EngineId(n),
        started: start + seconds(n),
        state: RoomState::Busy,
        bytes: 1,
    };
    (1..5).map(busy).collect()
}

fn yielding(rooms: &Rooms) -> Vec<u64> {
    (1..20).filter(|&n| rooms.yields(EngineId(n))).collect()
}

#[test]
fn the_engine_started_first_makes_way_when_another_model_has_waited_long_enough() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let (engines, now) = (four_busy(start), start + seconds(100));
    rooms.decide(now, &[wanted(9, 1)], &engines, FOUR);
    assert_eq!(yielding(&rooms), [0; 0]);
    assert_eq!(rooms.next(), Some(now + PATIENCE));
    rooms.decide(now + PATIENCE - seconds(1), &[wanted(9, 1)], &engines, FOUR);
    assert_eq!(yielding(&rooms), [0; 0]);
    rooms.decide(now + PATIENCE, &[wanted(9, 1)], &engines, FOUR);
    assert_eq!(yielding(&rooms), [1]);
    assert_eq!(rooms.next(), None);
    assert_eq!(rooms.way(now + PATIENCE, &model(9), 1, &engines, FOUR), Way::Wait);
    // Once idle, it still takes no new jobs: its room is promised.
    let mut idle = engines.clone();
    idle[0].state = RoomState::Idle(now);
    rooms.decide(now + seconds(60), &[wanted(9, 1)], &idle, FOUR);
    assert_eq!(yielding(&rooms), [1]);
    let way = rooms.way(now + seconds(60), &model(9), 1, &idle, FOUR);
    assert_eq!(way, Way::After(vec![EngineId(1)]));
}

#[test]
fn as_many_make_way_as_the_model_takes_bytes() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let (mut engines, now) = (four_busy(start), start + seconds(100));
    engines[1].state = RoomState::Pinned;
    rooms.decide(now, &[wanted(9, 2)], &engines, FOUR);
    rooms.decide(now + PATIENCE, &[wanted(9, 2)], &engines, FOUR);
    assert_eq!(yielding(&rooms), [1, 3]);
}

#[test]
fn nobody_makes_way_where_there_is_room_or_an_idle_engine() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let mut engines = four_busy(start);
    engines[3].state = RoomState::Idle(start);
    rooms.decide(start + seconds(100), &[wanted(9, 1)], &engines, FOUR);
    rooms.decide(start + seconds(200), &[wanted(9, 1)], &engines, FOUR);
    assert_eq!(yielding(&rooms), [0; 0]);
    rooms.decide(start + seconds(200), &[wanted(9, 1)], &engines[..3], FOUR);
    assert_eq!(yielding(&rooms), [0; 0]);
}

#[test]
fn an_engine_goes_on_when_nobody_waits_any_more() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let engines = four_busy(start);
    rooms.decide(start, &[wanted(9, 1)], &engines, FOUR);
    rooms.decide(start + seconds(100), &[wanted(9, 1)], &engines, FOUR);
    assert_eq!(yielding(&rooms), [1]);
    rooms.decide(start + seconds(101), &[], &engines, FOUR);
    assert_eq!(yielding(&rooms), [0; 0]);
}

#[test]
fn a_person_waits_less() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let (engines, now) = (four_busy(start), start + seconds(100));
    rooms.decide(now, &[wanted(9, 1)], &engines, FOUR);
    let urgent = [Wanted { interactive: true, ..wanted(9, 1) }];
    rooms.decide(now + seconds(1), &urgent, &engines, FOUR);
    assert_eq!(rooms.next(), Some(now + seconds(1) + INTERACTIVE_PATIENCE));
    rooms.decide(now + seconds(1) + INTERACTIVE_PATIENCE, &urgent, &engines, FOUR);
    assert_eq!(yielding(&rooms), [1]);
}

#[test]
fn an_engine_that_was_just_started_has_its_turn_first() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let started = start + seconds(100);
    let engines = [Room { started, bytes: 4, ..four_busy(start)[0] }];
    rooms.decide(start, &[wanted(9, 1)], &engines, FOUR);
    rooms.decide(started, &[wanted(9, 1)], &engines, FOUR);
    assert_eq!((yielding(&rooms), rooms.next()), (vec![], Some(started + TURN)));
    rooms.decide(started + TURN, &[wanted(9, 1)], &engines, FOUR);
    assert_eq!(yielding(&rooms), [1]);
}

/// Idle engines of these sizes, each idle for one second longer than the next.
fn idle(start: Instant, bytes: &[u64]) -> Vec<Room> {
    let room = |(n, bytes): (u64, &u64)| Room {
        engine: EngineId(n),
        started: start,
        state: RoomState::Idle(start + seconds(n)),
        bytes: *bytes,
    };
    (1..).zip(bytes).map(room).collect()
}

#[test]
fn the_least_recently_used_go_and_no_more_than_have_to() {
    let (rooms, start) = (Rooms::default(), Instant::now());
    let limits = Limits { bytes: 10, engines: 16 };
    let way = |bytes, engines: &[Room]| rooms.way(start, &model(9), bytes, engines, limits);
    let engines = idle(start, &[2, 3, 4]);
    assert_eq!(way(1, &engines), Way::Begin);
    assert_eq!(way(3, &engines), Way::After(vec![EngineId(1)]));
    assert_eq!(way(4, &engines), Way::After(vec![EngineId(2)]));
    assert_eq!(way(6, &engines), Way::After(vec![EngineId(1), EngineId(2)]));
    assert_eq!(way(11, &engines), Way::Wait);
    let mut pinned = engines.clone();
    pinned[0].state = RoomState::Pinned;
    assert_eq!(way(4, &pinned), Way::After(vec![EngineId(2)]));
    assert_eq!(way(9, &pinned), Way::Wait);
    let mut leaving = engines;
    leaving[1].state = RoomState::Leaving;
    assert_eq!(way(4, &leaving), Way::After(vec![]));
    assert_eq!(way(1, &leaving), Way::Begin);
    let full = Limits { bytes: 10, engines: 3 };
    let way = rooms.way(start, &model(9), 0, &idle(start, &[0; 3]), full);
    assert_eq!(way, Way::After(vec![EngineId(1)]));
}

#[test]
fn who_has_waited_too_long_is_not_overtaken_by_those_who_need_less() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let mut engines = four_busy(start);
    engines.truncate(2);
    let both = [wanted(8, 4), wanted(9, 1)];
    let now = start + seconds(100);
    rooms.decide(now, &both, &engines, FOUR);
    assert_eq!(rooms.way(now, &model(9), 1, &engines, FOUR), Way::Begin);
    let late = now + PATIENCE;
    rooms.decide(late, &both, &engines, FOUR);
    assert_eq!(yielding(&rooms), [1, 2]);
    assert_eq!(rooms.way(late, &model(9), 1, &engines, FOUR), Way::Wait);
    // A model that fits beside the overdue one begins all the same.
    let more = Limits { bytes: 5, ..FOUR };
    assert_eq!(rooms.way(late, &model(9), 1, &engines, more), Way::Begin);
}

#[test]
fn with_less_memory_than_before_those_go_that_are_idle() {
    let start = Instant::now();
    let mut engines = idle(start, &[2, 3, 4]);
    let limits = |bytes| Limits { bytes, engines: 16 };
    assert_eq!(beyond(&engines, limits(9)), []);
    assert_eq!(beyond(&engines, limits(8)), [EngineId(1)]);
    assert_eq!(beyond(&engines, limits(4)), [EngineId(1), EngineId(2)]);
    engines[0].state = RoomState::Busy;
    engines[1].state = RoomState::Pinned;
    assert_eq!(beyond(&engines, limits(1)), [EngineId(3)]);
}

struct Busy {
    model: usize,
    room: Room,
    ends: u64,
}

proptest! {
    /// Models of different sizes, each with endless work, in less memory than all of them take.
    /// Engines work on jobs of a given length, one second at a time, and make way between two jobs
    /// if they have to. The limits hold, no busy or pinned engine exits, and no model waits
    /// forever.
    #[test]
    fn no_model_waits_for_ever(
        sizes in prop::collection::vec(1u64..8, 2..12),
        limit in 8u64..20,
        engines_at_most in 1usize..5,
        pinned in any::<bool>(),
        job in 1u64..40,
        interactive in any::<bool>(),
    ) {
        let start = Instant::now();
        let limits = Limits { bytes: limit, engines: engines_at_most + usize::from(pinned) };
        let (mut rooms, mut engines) = (Rooms::default(), Vec::<Busy>::new());
        let models = sizes.len();
        let mut unloaded_at = vec![0u64; models];
        let mut started = 0;
        if pinned && limit > 8 {
            let room = Room {
                engine: EngineId(0),
                started: start,
                state: RoomState::Pinned,
                bytes: limit - 8,
            };
            engines.push(Busy { model: usize::MAX, room, ends: u64::MAX });
        }
        // The model that waits longest gets room once all busy engines have had their turn.
        let bound = (models as u64 + 1) * (TURN.as_secs() + PATIENCE.as_secs() + job + 1);
        for second in 0..1500u64 {
            let now = start + seconds(second);
            for busy in engines.iter_mut().filter(|it| it.room.state != RoomState::Pinned) {
                if busy.ends == second {
                    busy.room.state = RoomState::Idle(now);
                }
                if busy.ends <= second && !rooms.yields(busy.room.engine) {
                    (busy.room.state, busy.ends) = (RoomState::Busy, second + job);
                }
            }
            let there = |engines: &[Busy]| engines.iter().map(|it| it.room).collect::<Vec<_>>();
            let wanted: Vec<_> = (0..models)
                .filter(|model| engines.iter().all(|busy| busy.model != *model))
                .map(|number| Wanted { interactive, ..wanted(number, sizes[number]) })
                .collect();
            rooms.decide(now, &wanted, &there(&engines), limits);
            for waiting in rooms.waiting() {
                let number = (0..models).find(|&number| model(number) == waiting).unwrap();
                match rooms.way(now, &waiting, sizes[number], &there(&engines), limits) {
                    Way::Wait => continue,
                    Way::Begin => {}
                    Way::After(gone) => {
                        for id in gone {
                            let at = engines.iter().position(|it| it.room.engine == id).unwrap();
                            let gone = engines.remove(at);
                            prop_assert!(matches!(gone.room.state, RoomState::Idle(_)));
                            unloaded_at[gone.model] = second;
                        }
                    }
                }
                started += 1;
                let room = Room {
                    engine: EngineId(started),
                    started: now,
                    state: RoomState::Busy,
                    bytes: sizes[number],
                };
                engines.push(Busy { model: number, room, ends: second + job });
                let bytes: u64 = engines.iter().map(|it| it.room.bytes).sum();
                prop_assert!(bytes <= limits.bytes && engines.len() <= limits.engines);
            }
            for (number, unloaded) in unloaded_at.iter().enumerate() {
                let loaded = engines.iter().any(|busy| busy.model == number);
                prop_assert!(
                    loaded || second - unloaded <= bound,
                    "model {} waits since {} at {}, bound {}", number, unloaded, second, bound
                );
            }
        }
    }
}
