//! What a GGUF file says of the model's size, in numbers.

/// A number, or one for each layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Count {
    One(u64),
    Each(Vec<u64>),
}

/// The keys that are kept, without the architecture before them. The rest of a header can be as
/// long as its file.
const KEPT: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "ssm.conv_kernel",
    "ssm.group_count",
    "ssm.inner_size",
    "ssm.state_size",
    "vocab_size",
];
/// Of more than one architecture's there is no use.
const MOST_KEPT: usize = 64;
/// More layers than any model has.
pub(super) const MOST_LAYERS: u64 = 4096;

/// The numbers of a model's architecture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    architecture: String,
    counts: Vec<(String, Count)>,
    tokens: u64,
}

impl Shape {
    /// Whether the value of this key is of interest.
    pub(super) fn wants(key: &str) -> bool {
        key == TOKENS || key.split_once('.').is_some_and(|(_, rest)| KEPT.contains(&rest))
    }

    /// Keeps a value.
    pub(super) fn keep(&mut self, key: &str, count: Count) {
        if self.counts.len() < MOST_KEPT {
            self.counts.push((key.to_owned(), count));
        }
    }

    /// Takes note of how many tokens the vocabulary has.
    pub(super) fn set_tokens(&mut self, tokens: u64) {
        self.tokens = tokens;
    }

    pub(super) fn set_architecture(&mut self, architecture: &str) {
        architecture.clone_into(&mut self.architecture);
    }

    /// Which of llama.cpp's models this is.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    fn count(&self, key: &str) -> Option<&Count> {
        let of_this = |name: &str| {
            let rest = name.strip_prefix(&self.architecture)?.strip_prefix('.')?;
            (rest == key).then_some(())
        };
        self.counts.iter().find(|(name, _)| of_this(name).is_some()).map(|(_, count)| count)
    }

    /// A number; where there is one for each layer, the greatest.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.count(key)? {
            Count::One(number) => Some(*number),
            Count::Each(numbers) => numbers.iter().max().copied(),
        }
    }

    /// A number of one layer.
    pub fn of_layer(&self, key: &str, layer: u64) -> Option<u64> {
        match self.count(key)? {
            Count::One(number) => Some(*number),
            Count::Each(numbers) => numbers.get(usize::try_from(layer).ok()?).copied(),
        }
    }

    /// How many layers, at most `MOST_LAYERS`.
    pub fn layers(&self) -> u64 {
        self.number("block_count").unwrap_or(0).min(MOST_LAYERS)
    }

    /// How many tokens the vocabulary has.
    pub fn vocabulary(&self) -> u64 {
        self.tokens.max(self.number("vocab_size").unwrap_or(0))
    }
}

/// The list whose length is the vocabulary's.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
