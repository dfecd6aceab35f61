//! The dimensions of a model, from its GGUF header.

/// A single number, or one for each layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Count {
    One(u64),
    Each(Vec<u64>),
}

/// The keys that are kept, without their architecture prefix. The others are dropped: a header can
/// be as long as its file.
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
/// Those that llama.cpp's interface returns as signed 32-bit numbers.
const SIGNED: &[&str] = &[
    "attention.head_count",
    "attention.head_count_kv",
    "block_count",
    "context_length",
    "embedding_length",
    "vocab_size",
];
/// The maximum number of values kept. Only those of one architecture are of use.
const MOST_KEPT: usize = 64;
/// The largest signed 32-bit number.
pub(super) const MOST_SIGNED: u64 = i32::MAX as u64;
/// More layers than any model has.
pub(super) const MOST_LAYERS: u64 = 4096;

/// The dimensions of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    architecture: String,
    counts: Vec<(String, Count)>,
    tokens: u64,
}

impl Shape {
    /// Whether the value of this key is needed.
    pub(super) fn wants(key: &str) -> bool {
        key == TOKENS || key.split_once('.').is_some_and(|(_, rest)| KEPT.contains(&rest))
    }

    /// Keeps a value, if there are not too many already.
    pub(super) fn keep(&mut self, key: &str, count: Count) {
        if self.counts.len() < MOST_KEPT {
            self.counts.push((key.to_owned(), count));
        }
    }

    /// Sets the number of tokens in the vocabulary.
    pub(super) fn set_tokens(&mut self, tokens: u64) {
        self.tokens = tokens;
    }

    pub(super) fn set_architecture(&mut self, architecture: &str) {
        architecture.clone_into(&mut self.architecture);
    }

    /// A number that is too large for llama.cpp's interface, and its key, if there is one.
    pub(super) fn too_large(&self) -> Option<(&'static str, u64)> {
        let numbers = SIGNED.iter().filter_map(|key| Some((*key, self.number(key)?)));
        numbers.into_iter().find(|(_, number)| *number > MOST_SIGNED)
    }

    /// The model family, by llama.cpp's name.
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

    /// Returns a number, or the largest if there is one for each layer.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.count(key)? {
            Count::One(number) => Some(*number),
            Count::Each(numbers) => numbers.iter().max().copied(),
        }
    }

    /// Returns the number for one layer.
    pub fn of_layer(&self, key: &str, layer: u64) -> Option<u64> {
        match self.count(key)? {
            Count::One(number) => Some(*number),
            Count::Each(numbers) => numbers.get(usize::try_from(layer).ok()?).copied(),
        }
    }

    /// The number of layers, at most `MOST_LAYERS`.
    pub fn layers(&self) -> u64 {
        self.number("block_count").unwrap_or(0).min(MOST_LAYERS)
    }

    /// The number of tokens in the vocabulary.
    pub fn vocabulary(&self) -> u64 {
        self.tokens.max(self.number("vocab_size").unwrap_or(0))
    }
}

/// The key of the token list. Its length is the size of the vocabulary.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
