use proptest::prelude::*;
use threadrunner_core::BackendKind;

use super::*;

fn model(name: &str) -> ModelRef {
    ModelRef { backend: BackendKind::Llama, path: Some(name.into()), draft: None }
}

fn id(number: usize) -> JobId {
    JobId::parse(&number.to_string()).unwrap()
}

fn lane(model: &ModelRef, priority: Priority) -> Lane<'_> {
    Lane { model, priority, tag: None }
}

/// All queued jobs of a model, in the order in which they go.
fn drain(queue: &mut Queue, model: &ModelRef) -> Vec<JobId> {
    std::iter::from_fn(|| queue.pop(model, false)).collect()
}

#[test]
fn interactive_goes_before_normal_before_batch() {
    let (mut queue, m) = (Queue::default(), model("m"));
    queue.push(id(1), lane(&m, Priority::Batch));
    queue.push(id(2), lane(&m, Priority::Normal));
    queue.push(id(3), lane(&m, Priority::Interactive));
    assert_eq!(drain(&mut queue, &m), [id(3), id(2), id(1)]);
    assert_eq!((queue.len(), queue.models().count()), (0, 0));
}

#[test]
fn a_batch_job_is_passed_over_only_so_often() {
    let (mut queue, m) = (Queue::default(), model("m"));
    queue.push(id(1), lane(&m, Priority::Batch));
    for number in 10..100 {
        queue.push(id(number), lane(&m, Priority::Interactive));
    }
    let order = drain(&mut queue, &m);
    assert_eq!(order.iter().position(|job| *job == id(1)), Some(PATIENCE));
}

#[test]
fn models_take_turns_by_their_oldest_wait() {
    let mut queue = Queue::default();
    let (a, b) = (model("a"), model("b"));
    queue.push(id(1), lane(&a, Priority::Normal));
    queue.push(id(2), lane(&b, Priority::Interactive));
    queue.push(id(3), lane(&a, Priority::Normal));
    assert!(queue.models().eq([&a, &b]));
    drain(&mut queue, &a);
    assert!(queue.models().eq([&b]));
}

#[test]
fn only_interactive_jobs_are_popped_when_asked_so() {
    let (mut queue, m) = (Queue::default(), model("m"));
    queue.push(id(1), lane(&m, Priority::Normal));
    assert!(!queue.interactive_waits(&m));
    assert_eq!(queue.pop(&m, true), None);
    queue.push(id(2), lane(&m, Priority::Interactive));
    assert_eq!(queue.pop(&m, true), Some(id(2)));
    assert_eq!(queue.len(), 1);
}

#[test]
fn three_jobs_of_a_tag_wait_for_three_of_another_that_has_ten_thousand() {
    let (mut queue, m) = (Queue::default(), model("m"));
    for number in 0..10_000 {
        queue.push(id(number), Lane { tag: Some("night"), ..lane(&m, Priority::Batch) });
    }
    queue.push(id(20_000), Lane { tag: Some("me"), ..lane(&m, Priority::Batch) });
    queue.push(id(20_001), Lane { tag: Some("me"), ..lane(&m, Priority::Batch) });
    let last = queue.push(id(20_002), Lane { tag: Some("me"), ..lane(&m, Priority::Batch) });
    let untagged = queue.push(id(30_000), lane(&m, Priority::Batch));
    let at = |tag, ticket| queue.place(Lane { tag, ..lane(&m, Priority::Batch) }, ticket);
    assert_eq!((at(Some("me"), last), at(None, untagged)), (Some(7), Some(3)));
    let order: Vec<_> = std::iter::from_fn(|| queue.pop(&m, false)).take(8).collect();
    let expected = [0, 20_000, 30_000, 1, 20_001, 2, 20_002, 3].map(id);
    assert_eq!(order, expected);
}

#[test]
fn a_job_that_is_put_back_goes_first_and_costs_its_tag_no_turn() {
    let (mut queue, m) = (Queue::default(), model("m"));
    let tagged = |tag| Lane { tag: Some(tag), ..lane(&m, Priority::Normal) };
    for (number, tag) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        queue.push(id(number), tagged(tag));
    }
    assert_eq!(queue.pop(&m, false), Some(id(1)));
    queue.put_back(id(1), tagged("a"));
    assert_eq!(drain(&mut queue, &m), [1, 2, 3, 4].map(id));
}

#[derive(Debug, Clone)]
enum Step {
    Push { model: bool, priority: Priority, tag: Option<u8> },
    Pop { model: bool, interactive_only: bool, put_back: bool },
    Remove(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let priority =
        prop_oneof![Just(Priority::Interactive), Just(Priority::Normal), Just(Priority::Batch)];
    let tag = prop::option::of(0u8..4);
    let push = (prop::bool::weighted(0.8), priority, tag)
        .prop_map(|(model, priority, tag)| Step::Push { model, priority, tag });
    let pop = (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.2)).prop_map(
        |(model, interactive_only, put_back)| Step::Pop { model, interactive_only, put_back },
    );
    let remove = any::<prop::sample::Index>().prop_map(Step::Remove);
    prop::collection::vec(prop_oneof![6 => push, 2 => pop, 1 => remove], 1..400)
}

/// A job as the test knows it.
#[derive(Debug, Clone)]
struct Entry {
    id: JobId,
    model: ModelRef,
    priority: Priority,
    tag: Option<String>,
    ticket: Option<Ticket>,
}

impl Entry {
    fn lane(&self) -> Lane<'_> {
        Lane { model: &self.model, priority: self.priority, tag: self.tag.as_deref() }
    }
}

/// Plays the steps. Returns the queue, and the jobs that the test expects in it.
fn play(steps: Vec<Step>) -> (Queue, Vec<Entry>) {
    let models = [model("a"), model("b")];
    let (mut queue, mut waiting) = (Queue::default(), Vec::<Entry>::new());
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Push { model, priority, tag } => {
                let (id, model) = (id(number), models[usize::from(model)].clone());
                let tag = tag.map(|tag| tag.to_string());
                let mut entry = Entry { id: id.clone(), model, priority, tag, ticket: None };
                entry.ticket = Some(queue.push(id, entry.lane()));
                waiting.push(entry);
            }
            Step::Pop { model, interactive_only, put_back } => {
                let model = &models[usize::from(model)];
                let Some(popped) = queue.pop(model, interactive_only) else {
                    let left = waiting.iter().filter(|entry| entry.model == *model);
                    let mut priorities = left.map(|entry| entry.priority);
                    let none = priorities.all(|p| interactive_only && p != Priority::Interactive);
                    assert!(none, "something waits, and nothing is popped");
                    continue;
                };
                let at = waiting.iter().position(|entry| entry.id == popped).unwrap();
                if put_back {
                    let ticket = queue.put_back(popped, waiting[at].lane());
                    waiting[at].ticket = Some(ticket);
                } else {
                    waiting.remove(at);
                }
            }
            Step::Remove(index) if !waiting.is_empty() => {
                let entry = waiting.remove(index.index(waiting.len()));
                let ticket = entry.ticket.unwrap();
                assert!(queue.remove(entry.lane(), ticket));
                assert!(!queue.remove(entry.lane(), ticket));
                assert_eq!(queue.place(entry.lane(), ticket), None);
            }
            Step::Remove(_) => {}
        }
        assert_eq!(queue.len(), waiting.len());
    }
    (queue, waiting)
}

proptest! {
    #[test]
    fn each_job_is_popped_once_and_at_its_place(steps in steps()) {
        let (mut queue, waiting) = play(steps);
        for model in [model("a"), model("b")] {
            let mut told: Vec<_> = waiting
                .iter()
                .filter(|entry| entry.model == model)
                .map(|entry| (queue.place(entry.lane(), entry.ticket.unwrap()).unwrap(), &entry.id))
                .collect();
            told.sort();
            let order = drain(&mut queue, &model);
            let order: Vec<_> = (1..).zip(&order).collect();
            prop_assert_eq!(told, order);
        }
        prop_assert_eq!(queue.len(), 0);
        prop_assert!(!queue.waits(&model("a")));
    }

    #[test]
    fn places_are_true_where_whole_rounds_are_skipped(
        counts in prop::array::uniform3(0usize..400),
        begun in 0usize..40,
        asked in prop::collection::vec(any::<prop::sample::Index>(), 1..10),
    ) {
        let (mut queue, m) = (Queue::default(), model("m"));
        let priorities = [Priority::Interactive, Priority::Normal, Priority::Batch];
        let mut all = Vec::new();
        for (class, priority) in priorities.into_iter().enumerate() {
            for number in 0..counts[class] {
                let id = id(class * 1000 + number);
                all.push((id.clone(), priority, queue.push(id, lane(&m, priority))));
            }
        }
        for _ in 0..begun {
            let popped = queue.pop(&m, false);
            all.retain(|(id, ..)| Some(id) != popped.as_ref());
        }
        prop_assume!(!all.is_empty());
        let told: Vec<_> = asked.iter().map(|index| {
            let (id, priority, ticket) = &all[index.index(all.len())];
            (id, queue.place(lane(&m, *priority), *ticket).unwrap())
        }).collect();
        let order = drain(&mut queue, &m);
        for (id, place) in told {
            prop_assert_eq!(&order[place as usize - 1], id);
        }
    }

    #[test]
    fn no_tag_waits_for_two_jobs_of_another(steps in steps()) {
        // A job that is put back has had its turn and goes before all others, so put none back.
        let steps = steps.into_iter().map(|step| match step {
            Step::Pop { model, interactive_only, .. } => {
                Step::Pop { model, interactive_only, put_back: false }
            }
            other => other,
        });
        let (mut queue, waiting) = play(steps.collect());
        let m = model("b");
        let of = |job: &JobId| waiting.iter().find(|entry| entry.id == *job).unwrap();
        let order = drain(&mut queue, &m);
        for priority in [Priority::Interactive, Priority::Normal, Priority::Batch] {
            let of_class: Vec<_> = order
                .iter()
                .map(of)
                .filter(|entry| entry.priority == priority)
                .collect();
            for (at, entry) in of_class.iter().enumerate() {
                let next = of_class[at + 1..].iter().position(|other| other.tag == entry.tag);
                let Some(next) = next else { continue };
                // Between two jobs of a tag, each other tag that still has jobs has exactly one.
                let between = &of_class[at + 1..at + 1 + next];
                let mut tags: Vec<_> = between.iter().map(|entry| &entry.tag).collect();
                tags.sort();
                let count = tags.len();
                tags.dedup();
                prop_assert_eq!(tags.len(), count);
                for later in &of_class[at + 2 + next..] {
                    prop_assert!(later.tag == entry.tag || tags.contains(&&later.tag));
                }
            }
        }
    }
}
