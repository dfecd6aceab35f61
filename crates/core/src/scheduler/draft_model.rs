//! Tracks a draft model: how often it is right ([`Skill`]) and what its guesses cost
//! ([`GuessCosts`]).
//!
//! Unlike a looked-up guess, a model's guess has to be computed before anyone knows whether it was
//! right, so only computed guesses count. A model that does not pay off is no longer asked, except
//! for a few forward passes now and then ([`Probes`]), and what was measured fades.

use super::draft::{Costs, FORGET, Outlook, RECENT};

/// The assumed skill of a draft model that has not guessed yet.
const AT_FIRST: Outlook = Outlook { first: 0.7, next: 0.75 };

/// The weight of a run of guesses in the skill averaged over all requests.
const GENERAL: f64 = 0.05;

/// The assumed cost of one guess before it is measured, relative to a one-token pass of the main
/// model; low, so that the draft model gets tried.
const COST_AT_FIRST: f64 = 0.15;

/// How much of its weight a measured skill loses with each token sampled without asking the draft
/// model.
const FADE: f64 = 0.0005;

/// The draft model is tried after this many forward passes without it, because its skill and cost
/// at the current number of sequences cannot be learned in any other way.
const PROBE_AFTER: u32 = 512;

/// How many passes a try lasts.
const PROBE: u32 = 4;

/// When to try a draft model that does not seem to pay off.
#[derive(Debug)]
pub(super) struct Probes {
    /// Passes without it; from [`PROBE_AFTER`] on, passes of the current try.
    passes: u32,
}

impl Default for Probes {
    /// A model that was never tried is tried at once.
    fn default() -> Self {
        Self { passes: PROBE_AFTER }
    }
}

impl Probes {
    /// Whether to try it now.
    pub(super) fn due(&self) -> bool {
        self.passes >= PROBE_AFTER
    }

    /// Records a pass without it.
    pub(super) fn not_asked(&mut self) {
        self.passes = (self.passes + 1).min(PROBE_AFTER);
    }

    /// Records a pass with its guesses.
    pub(super) fn asked(&mut self) {
        self.passes = match self.passes {
            probing if (PROBE_AFTER..PROBE_AFTER + PROBE - 1).contains(&probing) => probing + 1,
            _ => 0,
        };
    }
}

/// How often the guesses of a draft model are accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Skill(Outlook);

impl Default for Skill {
    fn default() -> Self {
        Self(AT_FIRST)
    }
}

impl Skill {
    pub(super) fn outlook(&self) -> Outlook {
        self.0
    }

    /// Records that the first `right` of `guesses` guesses in a row were accepted.
    pub(super) fn observe(&mut self, guesses: usize, right: usize) {
        self.weigh(guesses, right, RECENT);
    }

    /// The same for guesses in any sequence, which says less about the others.
    pub(super) fn observe_any(&mut self, guesses: usize, right: usize) {
        self.weigh(guesses, right, GENERAL);
    }

    fn weigh(&mut self, guesses: usize, right: usize, weight: f64) {
        // Guesses after the first wrong one were never checked.
        for place in 0..guesses.min(right + 1) {
            let estimate = if place == 0 { &mut self.0.first } else { &mut self.0.next };
            *estimate += (f64::from(u8::from(place < right)) - *estimate) * weight;
        }
    }

    /// Records a token sampled without the draft model.
    pub(super) fn fade(&mut self) {
        self.0.first += (AT_FIRST.first - self.0.first) * FADE;
        self.0.next += (AT_FIRST.next - self.0.next) * FADE;
    }
}

/// Measured cost of one forward pass of the draft model, by the number of sequences in it.
#[derive(Debug, Default)]
pub(super) struct GuessCosts(Costs);

impl GuessCosts {
    /// Records that `guesses` guesses in a row, for `sequences` sequences side by side, took this
    /// long.
    pub(super) fn observe(&mut self, sequences: usize, guesses: usize, seconds: f64) {
        if sequences == 0 || guesses == 0 {
            return;
        }
        self.0.observe(sequences, seconds / guesses as f64);
    }

    /// The cost of these numbers of guesses, relative to a one-token pass of the main model, whose
    /// `costs` are given. One pass computes the i-th guess of every sequence.
    pub(super) fn of(&self, guesses: &[usize], costs: &Costs) -> f64 {
        let one = match (self.0.seconds(), costs.seconds()) {
            (Some(one), Some(whole)) if whole > 0.0 => one / whole,
            _ => COST_AT_FIRST,
        };
        let most = guesses.iter().copied().max().unwrap_or(0);
        let width = |pass: usize| guesses.iter().filter(|n| **n > pass).count();
        (0..most).map(|pass| one * self.0.ratio(width(pass))).sum()
    }

    /// Records a pass without guesses.
    pub(super) fn fade(&mut self) {
        self.0.cheapen(1.0 - FORGET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_a_few_passes_at_the_beginning_and_rarely_after_it() {
        let mut probes = Probes::default();
        let mut due = Vec::new();
        for pass in 0..1100 {
            match probes.due() {
                true => {
                    due.push(pass);
                    probes.asked();
                }
                false => probes.not_asked(),
            }
        }
        assert_eq!(due, [0, 1, 2, 3, 516, 517, 518, 519, 1032, 1033, 1034, 1035]);
    }

    #[test]
    fn only_what_was_compared_counts() {
        let mut skill = Skill::default();
        skill.observe(5, 0);
        assert!(skill.outlook().first < AT_FIRST.first);
        assert_eq!(skill.outlook().next, AT_FIRST.next);
        let mut skill = Skill::default();
        skill.observe(5, 5);
        assert!(skill.outlook().first > AT_FIRST.first);
        assert!(skill.outlook().next > AT_FIRST.next);
    }

    #[test]
    fn what_was_thought_of_it_fades() {
        let mut skill = Skill::default();
        for _ in 0..100 {
            skill.observe(3, 0);
        }
        assert!(skill.outlook().first < 0.01);
        for _ in 0..500 {
            skill.fade();
        }
        assert!(skill.outlook().first < 0.3, "{skill:?}");
        for _ in 0..10_000 {
            skill.fade();
        }
        assert!(skill.outlook().first > 0.6, "{skill:?}");
    }

    #[test]
    fn guesses_cost_what_was_measured_beside_the_model_that_they_are_for() {
        let mut costs = Costs::default();
        let mut guesses = GuessCosts::default();
        assert_eq!(guesses.of(&[], &costs), 0.0);
        assert_eq!(guesses.of(&[0, 0], &costs), 0.0);
        assert_eq!(guesses.of(&[2], &costs), 2.0 * COST_AT_FIRST);
        costs.observe(1, 0.100);
        guesses.observe(1, 4, 0.080);
        assert!((guesses.of(&[3], &costs) - 0.6).abs() < 1e-9);
        // Side by side is cheaper than one after the other.
        let both = guesses.of(&[3, 3], &costs);
        assert!(0.6 < both && both < 1.2, "{both}");
        for _ in 0..2000 {
            guesses.fade();
        }
        assert!(guesses.of(&[3], &costs) < 0.3);
    }

    #[test]
    fn what_was_only_seen_side_by_side_is_thought_to_be_cheaper_alone() {
        let mut costs = Costs::default();
        costs.observe(1, 0.100);
        let mut guesses = GuessCosts::default();
        guesses.observe(4, 1, 0.040);
        let alone = guesses.of(&[1], &costs);
        assert!(0.0 < alone && alone < 0.4, "{alone}");
        assert!((guesses.of(&[1, 1, 1, 1], &costs) - 0.4).abs() < 1e-9);
    }
}
