//! What is known of a draft model: how often it is right, and what its guesses cost.
//!
//! Unlike what is looked up, a guess of a model has to be computed before it is known whether it
//! was right. So it is counted only where it was computed. Where it turned out not to pay it is not
//! computed any more, but for a few forward passes now and then ([`Probes`]), and what was thought of
//! it fades.

use super::draft::{Costs, FORGET, Outlook, RECENT};

/// What is thought of a draft model that has not guessed yet.
const AT_FIRST: Outlook = Outlook { first: 0.7, next: 0.75 };

/// The weight of a run of guesses in what is thought of the model whoever is answered.
const GENERAL: f64 = 0.05;

/// What one guess is thought to take before it was measured, beside a forward pass of one token of
/// the model that it guesses for: little, so that it is tried.
const COST_AT_FIRST: f64 = 0.15;

/// With each token that is sampled without asking the draft model, what is thought of it loses this
/// much of its weight.
const FADE: f64 = 0.0005;

/// After so many forward passes without a draft model it is tried: what side by side it is right in,
/// and takes, is known from nothing else.
const PROBE_AFTER: u32 = 512;

/// How many passes it is tried for then.
const PROBE: u32 = 4;

/// When to try a draft model that nobody would ask.
#[derive(Debug)]
pub(super) struct Probes {
    /// Passes without it; beyond [`PROBE_AFTER`], those of the probe.
    passes: u32,
}

impl Default for Probes {
    /// One that was never tried is tried at once.
    fn default() -> Self {
        Self { passes: PROBE_AFTER }
    }
}

impl Probes {
    /// Whether it is to be tried now.
    pub(super) fn due(&self) -> bool {
        self.passes >= PROBE_AFTER
    }

    /// A pass was done without it.
    pub(super) fn not_asked(&mut self) {
        self.passes = (self.passes + 1).min(PROBE_AFTER);
    }

    /// A pass was done with its guesses.
    pub(super) fn asked(&mut self) {
        self.passes = match self.passes {
            probing if (PROBE_AFTER..PROBE_AFTER + PROBE - 1).contains(&probing) => probing + 1,
            _ => 0,
        };
    }
}

/// How often the guesses of a draft model come true.
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

    /// Of so many guesses in a row the first `right` came true.
    pub(super) fn observe(&mut self, guesses: usize, right: usize) {
        self.weigh(guesses, right, RECENT);
    }

    /// The same of any sequence, which says less about the others.
    pub(super) fn observe_any(&mut self, guesses: usize, right: usize) {
        self.weigh(guesses, right, GENERAL);
    }

    fn weigh(&mut self, guesses: usize, right: usize, weight: f64) {
        // What follows the first wrong one was never compared to anything.
        for place in 0..guesses.min(right + 1) {
            let estimate = if place == 0 { &mut self.0.first } else { &mut self.0.next };
            *estimate += (f64::from(u8::from(place < right)) - *estimate) * weight;
        }
    }

    /// A token came without it.
    pub(super) fn fade(&mut self) {
        self.0.first += (AT_FIRST.first - self.0.first) * FADE;
        self.0.next += (AT_FIRST.next - self.0.next) * FADE;
    }
}

/// What a draft model was seen to take for one token more of each of some sequences.
#[derive(Debug, Default)]
pub(super) struct GuessCosts(Costs);

impl GuessCosts {
    /// That many guesses in a row took so long, for so many sequences side by side.
    pub(super) fn observe(&mut self, sequences: usize, guesses: usize, seconds: f64) {
        if sequences == 0 || guesses == 0 {
            return;
        }
        self.0.observe(sequences, seconds / guesses as f64);
    }

    /// What all of these guesses take: the i-th of each sequence is computed in one pass. A multiple of
    /// what a pass of one token takes of the model that `costs` are of.
    pub(super) fn of(&self, guesses: &[usize], costs: &Costs) -> f64 {
        let one = match (self.0.seconds(), costs.seconds()) {
            (Some(one), Some(whole)) if whole > 0.0 => one / whole,
            _ => COST_AT_FIRST,
        };
        let most = guesses.iter().copied().max().unwrap_or(0);
        let width = |pass: usize| guesses.iter().filter(|n| **n > pass).count();
        (0..most).map(|pass| one * self.0.ratio(width(pass))).sum()
    }

    /// A pass was done without them.
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
        // Side by side they are cheaper than one after the other.
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
