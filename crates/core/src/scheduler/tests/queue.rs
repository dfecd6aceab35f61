use super::super::queue::{Queue, Waiting};
use super::super::sequence::{Request, Sequence};
use crate::engine_protocol::EngineRequestId;
use crate::{Parameters, Priority, SeqId, TokenId};

fn waiting(priority: Priority, arrival: u64, kept: Option<SeqId>) -> Waiting {
    let prompt = vec![TokenId(1)];
    let request = Request {
        id: EngineRequestId(arrival),
        prompt,
        params: Parameters::default(),
        priority,
        session: None,
    };
    Waiting { sequence: Sequence::new(request, arrival), kept }
}

fn order(mut queue: Queue, sequence_free: bool) -> Vec<u64> {
    std::iter::from_fn(|| queue.pop(sequence_free)).map(|waiting| waiting.sequence.id.0).collect()
}

#[test]
fn a_preempted_request_goes_before_younger_ones() {
    let mut queue = Queue::default();
    for arrival in [2, 4, 5] {
        queue.push(waiting(Priority::Normal, arrival, None));
    }
    queue.push(waiting(Priority::Normal, 1, Some(SeqId(0))));
    queue.push(waiting(Priority::Normal, 3, Some(SeqId(1))));
    assert_eq!(order(queue, true), [1, 2, 3, 4, 5]);
}

#[test]
fn with_no_sequence_free_only_those_that_kept_one_are_next() {
    let mut queue = Queue::default();
    queue.push(waiting(Priority::Interactive, 1, None));
    queue.push(waiting(Priority::Batch, 2, Some(SeqId(0))));
    queue.push(waiting(Priority::Normal, 3, Some(SeqId(1))));
    assert_eq!(queue.len(), 3);
    assert_eq!(order(queue, false), [3, 2]);
}

#[test]
fn each_priority_gets_its_turn() {
    let mut queue = Queue::default();
    for arrival in 1..=100 {
        queue.push(waiting(Priority::Interactive, arrival, None));
    }
    for arrival in 101..=103 {
        queue.push(waiting(Priority::Normal, arrival, None));
    }
    queue.push(waiting(Priority::Batch, 104, None));
    let order = order(queue, true);
    let place = |id| order.iter().position(|other| *other == id).unwrap();
    assert_eq!([place(101), place(102), place(103)], [8, 18, 27]);
    assert_eq!(place(104), 16);
}
