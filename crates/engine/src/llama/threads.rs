//! Chooses how many threads to compute with, at run time, from how long steps take.
//!
//! The threads of a forward pass meet at a barrier after each of some hundred operations. So a step
//! is as slow as its slowest thread, and a thread that shares its processor with another program is
//! slow: with one busy neighbour on a machine with two processors, two threads are several times
//! slower than one. And if one thread saturates the memory bandwidth, as when a single sequence
//! decodes, two are no faster. The best number depends on the machine, the model, the batch and the
//! neighbours, so it is found by trial.
//!
//! [`Controller`] is a value: durations of steps go in, numbers of threads come out. It compares
//! the number in use with the next lower and the next higher one for a few steps each: at growing
//! intervals while nothing changes, and at once when steps become slow.
//!
//! Prefill always uses all threads: its operations are long and shared out in small pieces, so a
//! slow thread takes fewer of them, and a trial would take seconds.

use std::time::Duration;

/// Steps with this many tokens or more are prefill.
const PROMPT_TOKENS: usize = 32;
/// Steps in a probe. The first is not counted, since its threads may have to wake up.
const PROBE_STEPS: u32 = 5;
/// How much faster fewer threads, or more, must be to be chosen. A probe's few steps vary by some
/// percent by chance; without a margin, two nearly equal numbers would replace each other again and
/// again, and each change brings the next probe forward. With a neighbour, fewer threads are faster
/// by far more than this; once it is gone, more threads may be faster by only a little.
const GAIN_OF_FEWER: f64 = 1.08;
const GAIN_OF_MORE: f64 = 1.03;
/// A recent mean this many times the usual one means that something has changed.
const SLOW: f64 = 1.3;
/// The time between probes, in seconds. It doubles with each probe that changes nothing.
const FIRST_PROBE: f64 = 0.1;
const RAREST_PROBE: f64 = 4.0;
/// The weight of a new step in the recent mean and in the usual one.
const RECENT: f64 = 0.25;
const USUAL: f64 = 0.03;

/// Chooses the number of threads for each step.
#[derive(Debug)]
pub(super) struct Controller {
    /// Numbers worth trying, from the most threads down to one.
    choices: Vec<u32>,
    /// One for each range of batch sizes: what is best for one sequence is not best for eight.
    classes: [Class; 5],
}

/// What is known about batches of similar size.
#[derive(Debug, Clone, Default)]
struct Class {
    /// The number in use, as an index into the choices.
    current: usize,
    /// The mean seconds per step with it: over the last few steps, and over many.
    recent: Option<f64>,
    usual: f64,
    /// Seconds of computing until the next probe, and the interval to set after it.
    until_probe: f64,
    pause: f64,
    /// Whether the next probe tries more threads, if both directions are possible.
    upwards: bool,
    probe: Option<Probe>,
}

/// A number of threads on trial.
#[derive(Debug, Clone)]
struct Probe {
    choice: usize,
    steps: u32,
    seconds: f64,
}

impl Controller {
    /// A controller that uses at most `most` threads.
    pub(super) fn new(most: u32) -> Self {
        let most = most.max(1);
        // All of them, one less for a single neighbour, then halves: on a large machine, trying
        // every number would take longer than conditions last.
        let mut choices = vec![most, most.saturating_sub(1).max(1)];
        while let Some(last) = choices.last().copied().filter(|last| *last > 1) {
            choices.push(last.div_ceil(2).min(last - 1));
        }
        choices.dedup();
        let class = Class { until_probe: FIRST_PROBE, pause: FIRST_PROBE, ..Class::default() };
        Self { choices, classes: std::array::from_fn(|_| class.clone()) }
    }

    /// The most threads that are used.
    pub(super) fn most(&self) -> u32 {
        self.choices[0]
    }

    /// The number of threads for a step of `tokens` tokens.
    pub(super) fn threads(&self, tokens: usize) -> u32 {
        let choice = match class_of(tokens) {
            Some(class) => self.classes[class].choice(),
            None => 0,
        };
        self.choices[choice]
    }

    /// Records how long a step of `tokens` tokens took with the number of threads from
    /// [`Self::threads`].
    pub(super) fn observe(&mut self, tokens: usize, elapsed: Duration) {
        if let Some(class) = class_of(tokens) {
            self.classes[class].observe(elapsed.as_secs_f64(), self.choices.len());
        }
    }
}

/// The class of a decode step; `None` for prefill.
fn class_of(tokens: usize) -> Option<usize> {
    match tokens {
        0 | 1 => Some(0),
        2 | 3 => Some(1),
        4..=7 => Some(2),
        8..=15 => Some(3),
        16..PROMPT_TOKENS => Some(4),
        _ => None,
    }
}

impl Class {
    fn choice(&self) -> usize {
        self.probe.as_ref().map_or(self.current, |probe| probe.choice)
    }

    fn observe(&mut self, seconds: f64, choices: usize) {
        if self.probe.is_some() {
            self.observe_probe(seconds);
            return;
        }
        let recent = match self.recent {
            Some(recent) => recent + (seconds - recent) * RECENT,
            None => {
                self.usual = seconds;
                seconds
            }
        };
        self.recent = Some(recent);
        self.until_probe -= seconds;
        if recent > self.usual * SLOW {
            // Conditions changed, so what was learned before no longer holds.
            self.usual = recent;
            self.until_probe = 0.0;
            self.pause = FIRST_PROBE;
        } else {
            self.usual += (seconds - self.usual) * USUAL;
        }
        if self.until_probe <= 0.0 {
            self.begin_probe(choices);
        }
    }

    fn begin_probe(&mut self, choices: usize) {
        let higher = self.current.checked_sub(1);
        let lower = Some(self.current + 1).filter(|lower| *lower < choices);
        let (first, second) = if self.upwards { (higher, lower) } else { (lower, higher) };
        self.upwards = !self.upwards;
        self.until_probe = self.pause;
        self.probe = first.or(second).map(|choice| Probe { choice, steps: 0, seconds: 0.0 });
    }

    fn observe_probe(&mut self, seconds: f64) {
        let (Some(probe), Some(recent)) = (&mut self.probe, self.recent) else {
            return;
        };
        probe.steps += 1;
        if probe.steps == 1 {
            return;
        }
        probe.seconds += seconds;
        let counted = f64::from(probe.steps - 1);
        let tried = probe.seconds / counted;
        // A number that is far too slow is dropped early.
        if probe.steps < PROBE_STEPS && tried < recent * SLOW {
            return;
        }
        let fewer = probe.choice > self.current;
        let better = tried * if fewer { GAIN_OF_FEWER } else { GAIN_OF_MORE } < recent;
        if better {
            self.current = probe.choice;
            self.recent = Some(tried);
            self.usual = tried;
            // Since this was better, try the next one in the same direction.
            self.upwards = !fewer;
            self.pause = FIRST_PROBE;
        } else {
            self.pause = (self.pause * 2.0).min(RAREST_PROBE);
        }
        self.until_probe = self.pause;
        self.probe = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine as the controller sees it.
    struct Machine {
        controller: Controller,
        /// Seconds that all steps took together.
        now: f64,
    }

    impl Machine {
        fn new(most: u32) -> Self {
            Self { controller: Controller::new(most), now: 0.0 }
        }

        /// Decodes `tokens` sequences for `seconds`, where a step with n threads takes `cost(n)`
        /// seconds. Returns the number of steps.
        fn run(&mut self, tokens: usize, seconds: f64, cost: impl Fn(u32) -> f64) -> u32 {
            let end = self.now + seconds;
            let mut steps = 0;
            while self.now < end {
                let took = cost(self.controller.threads(tokens));
                self.controller.observe(tokens, Duration::from_secs_f64(took));
                self.now += took;
                steps += 1;
            }
            steps
        }

        fn settled(&self, tokens: usize) -> u32 {
            let class = class_of(tokens).unwrap();
            self.controller.choices[self.controller.classes[class].current]
        }
    }

    /// Two processors without neighbours.
    fn quiet(threads: u32) -> f64 {
        0.020 / f64::from(threads)
    }

    /// A neighbour shares one of the two processors.
    fn neighbour(threads: u32) -> f64 {
        if threads == 1 { 0.020 } else { 0.050 }
    }

    #[test]
    fn two_threads_are_kept_where_they_are_faster() {
        let mut machine = Machine::new(2);
        let steps = machine.run(1, 20.0, quiet);
        assert_eq!(machine.settled(1), 2);
        // Of 2000 possible steps with two threads, at most one in fifty is lost to probes.
        assert!(steps > 1960, "{steps}");
    }

    #[test]
    fn a_neighbour_is_noticed_at_once_and_costs_little_while_it_stays() {
        let mut machine = Machine::new(2);
        machine.run(1, 10.0, quiet);
        machine.run(1, 0.5, neighbour);
        assert_eq!(machine.settled(1), 1);
        let steps = machine.run(1, 20.0, neighbour);
        // One thread throughout would make 1000 steps, two threads 400.
        assert!(steps > 950, "{steps}");
    }

    #[test]
    fn when_the_neighbour_goes_all_threads_are_back_within_seconds() {
        let mut machine = Machine::new(2);
        machine.run(1, 30.0, neighbour);
        assert_eq!(machine.settled(1), 1);
        machine.run(1, RAREST_PROBE + 1.0, quiet);
        assert_eq!(machine.settled(1), 2);
    }

    #[test]
    fn where_another_number_is_hardly_better_nothing_changes() {
        let mut machine = Machine::new(2);
        machine.run(1, 3.0, |threads| if threads == 2 { 0.0080 } else { 0.0076 });
        assert_eq!(machine.settled(1), 2);
        // Nor does it change back, once a neighbour has made one thread the better number.
        machine.run(1, 1.0, neighbour);
        machine.run(1, 10.0, |threads| if threads == 2 { 0.0079 } else { 0.0080 });
        assert_eq!(machine.settled(1), 1);
    }

    #[test]
    fn batches_of_other_sizes_are_decided_by_themselves() {
        let mut machine = Machine::new(2);
        for _ in 0..20 {
            machine.run(1, 0.3, neighbour);
            machine.run(8, 0.3, quiet);
        }
        assert_eq!((machine.settled(1), machine.settled(8)), (1, 2));
    }

    #[test]
    fn prompts_are_read_with_all_threads_whatever_was_learnt() {
        let mut machine = Machine::new(2);
        machine.run(1, 5.0, neighbour);
        assert_eq!(machine.controller.threads(PROMPT_TOKENS), 2);
        machine.controller.observe(512, Duration::from_secs(1));
        assert_eq!(machine.controller.threads(512), 2);
    }

    #[test]
    fn a_large_machine_gives_one_processor_to_one_neighbour() {
        let cost = |threads: u32| if threads == 16 { 0.030 } else { 0.16 / f64::from(threads) };
        let mut machine = Machine::new(16);
        machine.run(1, 10.0, cost);
        assert_eq!(machine.settled(1), 15);
        assert_eq!(machine.controller.choices, [16, 15, 8, 4, 2, 1]);
    }

    #[test]
    fn a_single_processor_leaves_nothing_to_choose() {
        let mut machine = Machine::new(1);
        machine.run(1, 2.0, |_| 0.01);
        assert_eq!(machine.controller.choices, [1]);
        assert_eq!(machine.settled(1), 1);
    }
}
