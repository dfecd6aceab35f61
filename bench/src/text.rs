//! Prompts: prose generated from a seed, with a given length in tokens.

/// With a space before it, each word is one token in the vocabularies of SmolLM2 and Gemma.
const NOUNS: [&str; 32] = [
    "river", "letter", "morning", "window", "garden", "road", "teacher", "station", "village",
    "market", "doctor", "winter", "farmer", "bridge", "house", "story", "machine", "island",
    "table", "captain", "forest", "summer", "library", "mountain", "engine", "paper", "student",
    "valley", "field", "king", "ship", "city",
];
const ADJECTIVES: [&str; 16] = [
    "old", "small", "quiet", "bright", "young", "heavy", "early", "strange", "green", "famous",
    "distant", "simple", "careful", "busy", "cold", "open",
];
const VERBS: [&str; 16] = [
    "found",
    "carried",
    "followed",
    "changed",
    "watched",
    "built",
    "remembered",
    "left",
    "reached",
    "described",
    "opened",
    "needed",
    "sold",
    "moved",
    "visited",
    "protected",
];
const PLACES: [&str; 8] =
    ["near", "behind", "under", "after", "before", "beside", "without", "across"];
const JOINTS: [&str; 6] = ["and", "but", "while", "because", "until", "when"];

/// A source of random numbers and prose that depend only on its seed.
#[derive(Debug, Clone)]
pub struct Text(u64);

impl Text {
    /// Starts from a seed; equal seeds make equal texts.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.random() % limit
    }

    /// A number from 0 to 1, without 1.
    pub fn share(&mut self) -> f64 {
        (self.random() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Sentences with this many tokens. The last one is left open, so that the model has more to
    /// say.
    pub fn prose(&mut self, tokens: usize) -> String {
        let mut text = String::new();
        let mut pieces = 0;
        while pieces < tokens {
            for piece in self.sentence() {
                // A finished sentence could end the answer too.
                let piece = if pieces + 1 == tokens && piece == "." { "and" } else { piece };
                if !text.is_empty() && !matches!(piece, "." | ",") {
                    text.push(' ');
                }
                text.push_str(piece);
                pieces += 1;
                if pieces == tokens {
                    break;
                }
            }
        }
        text
    }

    /// The words and punctuation of a sentence.
    fn sentence(&mut self) -> Vec<&'static str> {
        let mut words = vec!["The"];
        self.clause(&mut words);
        while self.below(2) == 0 {
            words.extend([",", self.one_of(&JOINTS), "the"]);
            self.clause(&mut words);
        }
        words.push(".");
        words
    }

    fn clause(&mut self, words: &mut Vec<&'static str>) {
        self.thing(words);
        words.extend([self.one_of(&VERBS), "the"]);
        self.thing(words);
        if self.below(2) == 0 {
            words.extend([self.one_of(&PLACES), "the"]);
            self.thing(words);
        }
    }

    fn thing(&mut self, words: &mut Vec<&'static str>) {
        if self.below(2) == 0 {
            words.push(self.one_of(&ADJECTIVES));
        }
        words.push(self.one_of(&NOUNS));
    }

    fn one_of(&mut self, words: &[&'static str]) -> &'static str {
        words[self.below(words.len() as u64) as usize]
    }

    /// The next number of SplitMix64.
    fn random(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Repeats a few words of one token each, `count` in all; another `from` gives another order.
pub fn words(from: usize, count: usize) -> String {
    const WORDS: [&str; 8] =
        ["river", "stone", "letter", "morning", "window", "garden", "paper", "road"];
    let word = |n: usize| WORDS[(n * 5 + from + n / 7) % WORDS.len()];
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_as_long_as_it_is_to_be() {
        for tokens in [1, 15, 380] {
            let text = Text::new(7).prose(tokens);
            let pieces = text.split([' ', '.', ',']).filter(|word| !word.is_empty()).count()
                + text.matches(['.', ',']).count();
            assert_eq!(pieces, tokens, "{text}");
            assert!(!text.ends_with('.'), "{text}");
        }
        assert_eq!(Text::new(7).prose(50), Text::new(7).prose(50));
        assert_ne!(Text::new(7).prose(15), Text::new(8).prose(15));
    }
}
