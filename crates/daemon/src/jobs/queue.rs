//! Who goes next: a value that is asked, and waits for nothing.

use std::collections::{HashMap, VecDeque};

use threadrunner_core::{JobId, ModelRef, Priority};

/// How often a class may be passed over before it goes first all the same: so an overnight batch
/// moves on under a stream of interactive prompts, and the prompts wait for one job at most.
const PATIENCE: u32 = 8;

/// Queued jobs, by model and priority; within both first come, first served.
///
/// An entry is an id and its deadline's key: prompts stay on disk, so that 100,000 queued jobs are
/// a few megabytes.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    models: HashMap<ModelRef, Classes>,
    /// Models in the order in which they got their first waiting job.
    turn: VecDeque<ModelRef>,
    len: usize,
    changed: bool,
}

#[derive(Debug, Default)]
struct Classes {
    /// By [`class`]: interactive, normal, batch.
    waiting: [VecDeque<JobId>; 3],
    passed_over: [u32; 3],
}

fn class(priority: Priority) -> usize {
    match priority {
        Priority::Interactive => 0,
        Priority::Normal => 1,
        Priority::Batch => 2,
    }
}

impl Queue {
    /// Jobs waiting.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a job behind the others of its model and priority.
    pub(crate) fn push(&mut self, id: JobId, model: &ModelRef, priority: Priority) {
        let classes = self.classes(model);
        classes.waiting[class(priority)].push_back(id);
        self.len += 1;
    }

    /// Puts a job that had begun before the others of its model and priority.
    pub(crate) fn push_front(&mut self, id: JobId, model: &ModelRef, priority: Priority) {
        let classes = self.classes(model);
        classes.waiting[class(priority)].push_front(id);
        self.len += 1;
    }

    /// Whether places have changed since this was asked.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn classes(&mut self, model: &ModelRef) -> &mut Classes {
        self.changed = true;
        if !self.models.contains_key(model) {
            self.turn.push_back(model.clone());
        }
        self.models.entry(model.clone()).or_default()
    }

    /// Models with waiting jobs, the one that waits longest first.
    pub(crate) fn models(&self) -> impl Iterator<Item = &ModelRef> {
        self.turn.iter()
    }

    /// Whether an interactive job waits for this model.
    pub(crate) fn interactive_waits(&self, model: &ModelRef) -> bool {
        self.models.get(model).is_some_and(|classes| !classes.waiting[0].is_empty())
    }

    /// Takes the job that goes next on this model; only an interactive one if `interactive_only`.
    pub(crate) fn pop(&mut self, model: &ModelRef, interactive_only: bool) -> Option<JobId> {
        let classes = self.models.get_mut(model)?;
        let id = if interactive_only {
            classes.waiting[0].pop_front()?
        } else {
            let next = classes.next_class()?;
            classes.passed_over[next] = 0;
            for lower in next + 1..classes.waiting.len() {
                if !classes.waiting[lower].is_empty() {
                    classes.passed_over[lower] += 1;
                }
            }
            classes.waiting[next].pop_front()?
        };
        self.len -= 1;
        self.changed = true;
        self.forget_if_empty(model);
        Some(id)
    }

    /// Takes a job out of the queue; false if it is not in it.
    pub(crate) fn remove(&mut self, id: &JobId, model: &ModelRef) -> bool {
        let Some(classes) = self.models.get_mut(model) else { return false };
        for waiting in &mut classes.waiting {
            if let Some(index) = waiting.iter().position(|queued| queued == id) {
                waiting.remove(index);
                self.len -= 1;
                self.changed = true;
                self.forget_if_empty(model);
                return true;
            }
        }
        false
    }

    fn forget_if_empty(&mut self, model: &ModelRef) {
        let empty =
            self.models.get(model).is_some_and(|c| c.waiting.iter().all(VecDeque::is_empty));
        if empty {
            self.models.remove(model);
            self.turn.retain(|other| other != model);
        }
    }

    /// The jobs of one model in about the order in which they will run, with places from 1.
    pub(crate) fn places(&self, model: &ModelRef) -> impl Iterator<Item = (u32, &JobId)> {
        let waiting = self.models.get(model).into_iter().flat_map(|c| c.waiting.iter().flatten());
        (1..).zip(waiting)
    }
}

impl Classes {
    fn next_class(&self) -> Option<usize> {
        let waits = |&class: &usize| !self.waiting[class].is_empty();
        let impatient = |class: &usize| self.passed_over[*class] >= PATIENCE;
        (0..self.waiting.len())
            .filter(waits)
            .find(impatient)
            .or_else(|| (0..self.waiting.len()).find(waits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadrunner_core::BackendKind;

    fn model(name: &str) -> ModelRef {
        ModelRef { backend: BackendKind::Llama, path: Some(name.into()) }
    }

    fn id(number: u32) -> JobId {
        JobId::parse(&number.to_string()).unwrap()
    }

    #[test]
    fn interactive_goes_before_normal_before_batch() {
        let (mut queue, m) = (Queue::default(), model("m"));
        queue.push(id(1), &m, Priority::Batch);
        queue.push(id(2), &m, Priority::Normal);
        queue.push(id(3), &m, Priority::Interactive);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(&m, false)).collect();
        assert_eq!(order, [id(3), id(2), id(1)]);
        assert_eq!((queue.len(), queue.models().count()), (0, 0));
    }

    #[test]
    fn a_batch_job_is_passed_over_only_so_often() {
        let (mut queue, m) = (Queue::default(), model("m"));
        queue.push(id(1), &m, Priority::Batch);
        for number in 10..100 {
            queue.push(id(number), &m, Priority::Interactive);
        }
        let before = std::iter::from_fn(|| queue.pop(&m, false)).take_while(|job| *job != id(1));
        assert_eq!(before.count(), PATIENCE as usize);
    }

    #[test]
    fn models_take_turns_by_their_oldest_wait() {
        let mut queue = Queue::default();
        queue.push(id(1), &model("a"), Priority::Normal);
        queue.push(id(2), &model("b"), Priority::Interactive);
        queue.push(id(3), &model("a"), Priority::Normal);
        assert!(queue.models().eq([&model("a"), &model("b")]));
        queue.pop(&model("a"), false);
        queue.pop(&model("a"), false);
        assert!(queue.models().eq([&model("b")]));
    }

    #[test]
    fn a_removed_job_is_never_popped() {
        let (mut queue, m) = (Queue::default(), model("m"));
        queue.push(id(1), &m, Priority::Normal);
        queue.push(id(2), &m, Priority::Normal);
        assert!(queue.remove(&id(1), &m));
        assert!(!queue.remove(&id(1), &m));
        assert_eq!(queue.places(&m).collect::<Vec<_>>(), [(1, &id(2))]);
        assert_eq!(queue.pop(&m, false), Some(id(2)));
    }

    #[test]
    fn only_interactive_jobs_are_popped_when_asked_so() {
        let (mut queue, m) = (Queue::default(), model("m"));
        queue.push(id(1), &m, Priority::Normal);
        assert!(!queue.interactive_waits(&m));
        assert_eq!(queue.pop(&m, true), None);
        queue.push(id(2), &m, Priority::Interactive);
        assert_eq!(queue.pop(&m, true), Some(id(2)));
        assert_eq!(queue.len(), 1);
    }
}
