use proptest::prelude::*;
use threadrunner_core::BackendKind;

use super::*;

fn model(number: usize) -> ModelRef {
    ModelRef { backend: BackendKind::Llama, path: Some(number.to_string().into()) }
}

fn wanted(number: usize) -> Wanted {
    Wanted { model: model(number), interactive: false }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Four engines that were started one second after the other, long ago.
fn four_busy(start: Instant) -> Vec<Room> {
    (1..5).map(|n| Room { engine: EngineId(n), started: start + seconds(n), idle: false }).collect()
}

fn yielding(rooms: &Rooms) -> Vec<u64> {
    (1..20).filter(|&n| rooms.yields(EngineId(n))).collect()
}

#[test]
fn the_engine_started_first_makes_way_when_another_model_has_waited_long_enough() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let (engines, now) = (four_busy(start), start + seconds(100));
    rooms.decide(now, &[wanted(9)], &engines, 0);
    assert_eq!(yielding(&rooms), [0; 0]);
    assert_eq!(rooms.next(), Some(now + PATIENCE));
    rooms.decide(now + PATIENCE - seconds(1), &[wanted(9)], &engines, 0);
    assert_eq!(yielding(&rooms), [0; 0]);
    rooms.decide(now + PATIENCE, &[wanted(9)], &engines, 0);
    assert_eq!(yielding(&rooms), [1]);
    assert_eq!(rooms.next(), None);
    // Idle by then, it still takes nothing: its room is promised.
    let mut idle = engines.clone();
    idle[0].idle = true;
    rooms.decide(now + seconds(60), &[wanted(9)], &idle, 0);
    assert_eq!(yielding(&rooms), [1]);
}

#[test]
fn nobody_makes_way_where_there_is_room_or_an_idle_engine() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let mut engines = four_busy(start);
    engines[3].idle = true;
    rooms.decide(start + seconds(100), &[wanted(9)], &engines, 0);
    rooms.decide(start + seconds(200), &[wanted(9)], &engines, 0);
    assert_eq!(yielding(&rooms), [0; 0]);
    rooms.decide(start + seconds(200), &[wanted(9)], &engines[..3], 1);
    assert_eq!(yielding(&rooms), [0; 0]);
}

#[test]
fn an_engine_goes_on_when_nobody_waits_any_more() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let engines = four_busy(start);
    rooms.decide(start, &[wanted(9)], &engines, 0);
    rooms.decide(start + seconds(100), &[wanted(9)], &engines, 0);
    assert_eq!(yielding(&rooms), [1]);
    rooms.decide(start + seconds(101), &[], &engines, 0);
    assert_eq!(yielding(&rooms), [0; 0]);
}

#[test]
fn a_person_waits_less() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let (engines, now) = (four_busy(start), start + seconds(100));
    rooms.decide(now, &[wanted(9)], &engines, 0);
    let urgent = [Wanted { interactive: true, ..wanted(9) }];
    rooms.decide(now + seconds(1), &urgent, &engines, 0);
    assert_eq!(rooms.next(), Some(now + seconds(1) + INTERACTIVE_PATIENCE));
    rooms.decide(now + seconds(1) + INTERACTIVE_PATIENCE, &urgent, &engines, 0);
    assert_eq!(yielding(&rooms), [1]);
}

#[test]
fn an_engine_that_was_just_started_has_its_turn_first() {
    let (mut rooms, start) = (Rooms::default(), Instant::now());
    let started = start + seconds(100);
    let engines = [Room { engine: EngineId(1), started, idle: false }];
    rooms.decide(start, &[wanted(9)], &engines, 0);
    rooms.decide(started, &[wanted(9)], &engines, 0);
    assert_eq!((yielding(&rooms), rooms.next()), (vec![], Some(started + TURN)));
    rooms.decide(started + TURN, &[wanted(9)], &engines, 0);
    assert_eq!(yielding(&rooms), [1]);
}

proptest! {
    /// Models that each have work without end, in fewer rooms: a second at a time, an engine works
    /// on jobs of a given length, and makes way between two of them when it has to.
    #[test]
    fn no_model_waits_for_ever(
        models in 2usize..12,
        room in 1usize..5,
        job in 1u64..40,
        interactive in any::<bool>(),
    ) {
        struct Busy { model: usize, room: Room, ends: u64 }
        let start = Instant::now();
        let (mut rooms, mut engines) = (Rooms::default(), Vec::<Busy>::new());
        let mut unloaded_at = vec![0u64; models];
        let mut started = 0;
        // Each that waits has a room to itself, or waits for a few rounds of all the rooms.
        let rounds = models.saturating_sub(room).div_ceil(room) as u64;
        let bound = (rounds + 1) * (TURN.as_secs() + job + 1);
        for second in 0..1500u64 {
            let now = start + seconds(second);
            for busy in &mut engines {
                busy.room.idle = busy.ends <= second;
                if busy.room.idle && !rooms.yields(busy.room.engine) {
                    (busy.room.idle, busy.ends) = (false, second + job);
                }
            }
            let wanted: Vec<_> = (0..models)
                .filter(|model| engines.iter().all(|busy| busy.model != *model))
                .map(|number| Wanted { interactive, ..wanted(number) })
                .collect();
            let there: Vec<_> = engines.iter().map(|busy| busy.room).collect();
            let free = room.saturating_sub(engines.len());
            rooms.decide(now, &wanted, &there, free);
            for waiting in rooms.waiting() {
                if engines.len() == room {
                    let Some(idle) = engines.iter().position(|busy| busy.room.idle) else { break };
                    let gone = engines.remove(idle);
                    unloaded_at[gone.model] = second;
                }
                let number = (0..models).find(|&number| model(number) == waiting).unwrap();
                started += 1;
                let room = Room { engine: EngineId(started), started: now, idle: false };
                engines.push(Busy { model: number, room, ends: second + job });
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
