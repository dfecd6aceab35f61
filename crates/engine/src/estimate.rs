//! Estimates how much memory a model takes, from its file's header, before anything is allocated.
//!
//! The weights are as large as the file. The cache follows from the layers and holds 16-bit
//! numbers. The buffers that a forward pass computes in follow a formula, which was fitted to what
//! llama.cpp reports for models of two architectures (`tests/llama/memory.rs` compares them). If a
//! header leaves something open, the estimate errs on the high side. Once the model is loaded, what
//! was allocated replaces the estimate.

use std::path::Path;

use threadrunner_core::engine_protocol::EngineOptions;
use threadrunner_core::{Failure, Memory};

use crate::gguf::{self, Shape, check_file};

/// The default context: enough for long conversations, and about a gigabyte with a model of a few
/// billion parameters.
pub const DEFAULT_CONTEXT: u32 = 8192;
/// The smallest useful context: a page or two, and an answer.
pub const LEAST_CONTEXT: u32 = 2048;
/// llama.cpp rounds contexts up to multiples of this.
const CONTEXT_STEP: u32 = 256;
/// Bounds on the default number of sequences in a forward pass. Wider passes are hardly cheaper per
/// token.
const FEWEST_SEQUENCES: u32 = 8;
const USEFUL_SEQUENCES: u32 = 64;
/// Within these bounds, sequences together cost at most 1/`PART_FOR_SEQUENCES` of the weights (for
/// logits, and for windows or states if each has its own), and each has `CELLS_FOR_SEQUENCE` cells.
const PART_FOR_SEQUENCES: u64 = 6;
const CELLS_FOR_SEQUENCE: u32 = 128;
/// llama.cpp's default. On two processors with AVX2, a prompt of 512 tokens is read as fast in
/// batches of 256, and 5 to 20 % slower in batches of 128 or 64.
pub const DEFAULT_BATCH: u32 = 512;
/// States or windows beyond those of the sequences in a forward pass: for requests that are paused,
/// and for beginnings of prompts that other requests will share.
pub const SPARE_STATES: u32 = 2;
/// The maximum number of drafts in a forward pass. On two processors with AVX2, decoding 16 tokens
/// at once is 2.1 times as fast as one by one, 12 tokens 2.05 times, and 8 tokens twice.
pub const MOST_DRAFTS: u32 = 15;

/// Bytes for the program itself, its threads, and what it reads and writes.
const PROCESS: u64 = 12 << 20;
/// Bytes for each token of the vocabulary: its text, its score, and the index to find it.
const VOCABULARY_ENTRY: u64 = 200;
/// Bytes of a number in the cache.
const CACHED: u64 = 2;
/// Bytes of a number in computations.
const COMPUTED: u64 = 4;

/// The size of a context, and the number of sequences in a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Cells of the KV cache.
    pub context: u32,
    /// Sequences in a forward pass.
    pub sequences: u32,
}

/// What is known about a model before it is loaded.
#[derive(Debug, Clone)]
pub struct Estimate {
    shape: Shape,
    weights: u64,
    batch: u32,
    /// What the options ask for, if anything.
    context: Option<u32>,
    sequences: Option<u32>,
    /// The maximum number of drafts in a forward pass.
    drafts: u32,
    /// Whether ended requests are parked beside the cache.
    parks: bool,
    /// The estimate of its draft model.
    draft: Option<Box<Self>>,
}

/// Ended requests are parked in memory beside the cache. Together they take at most the cache's
/// size divided by this.
pub const PARKED_PART: u32 = 2;

/// Returns the most bytes that parked requests take beside a cache of `cache` bytes.
pub fn parked(cache: u64) -> u64 {
    cache / u64::from(PARKED_PART)
}

impl Estimate {
    /// Reads the header of the model file at `path`.
    ///
    /// # Errors
    /// When it is not a model file.
    pub fn of_file(path: &Path, options: &EngineOptions) -> Result<Self, Failure> {
        let shape = check_file(path)?.shape;
        let lengths = gguf::parts(path);
        let lengths = lengths.iter().filter_map(|part| Some(part.metadata().ok()?.len()));
        Ok(Self::new(shape, lengths.fold(0, u64::saturating_add), options))
    }

    /// Adds the draft model in the file at `path`, which gets the same extent.
    ///
    /// # Errors
    /// When it is not a model file.
    pub fn with_draft(self, path: &Path, options: &EngineOptions) -> Result<Self, Failure> {
        let draft = Self { drafts: 0, parks: false, ..Self::of_file(path, options)? };
        Ok(Self { draft: Some(Box::new(draft)), ..self })
    }

    fn new(shape: Shape, weights: u64, options: &EngineOptions) -> Self {
        let deterministic = options.deterministic == Some(true);
        let drafts = !deterministic && options.speculation != Some(false);
        Self {
            shape,
            weights,
            batch: options.batch.unwrap_or(DEFAULT_BATCH),
            context: options.context,
            sequences: if deterministic { Some(1) } else { options.sequences },
            drafts: if drafts { MOST_DRAFTS } else { 0 },
            parks: options.share_prefixes(),
            draft: None,
        }
    }

    /// The extent to create if memory does not matter.
    pub fn wanted(&self) -> Extent {
        let context = self.context.unwrap_or_else(|| self.trained().min(DEFAULT_CONTEXT));
        let sequences = self.sequences.unwrap_or_else(|| self.usual_sequences(context));
        Extent { context, sequences }
    }

    /// The default number of sequences.
    fn usual_sequences(&self, context: u32) -> u32 {
        let of = |sequences| self.own_memory(Extent { context, sequences }).total();
        let each = of(2).saturating_sub(of(1)).max(1);
        let many = self.weights / PART_FOR_SEQUENCES / each;
        let many = u32::try_from(many).unwrap_or(u32::MAX).min(context / CELLS_FOR_SEQUENCE);
        many.clamp(FEWEST_SEQUENCES, USEFUL_SEQUENCES) / FEWEST_SEQUENCES * FEWEST_SEQUENCES
    }

    /// The smallest extent, which is created however little memory there is.
    pub fn least(&self) -> Extent {
        let wanted = self.wanted();
        Extent {
            context: self.context.unwrap_or_else(|| wanted.context.min(LEAST_CONTEXT)),
            sequences: self.sequences.unwrap_or(1),
        }
    }

    /// The largest extent that takes at most `bytes`, or the smallest if even that takes more.
    pub fn fit(&self, bytes: u64) -> Extent {
        let (wanted, least) = (self.wanted(), self.least());
        let mut extent = wanted;
        loop {
            // First shrinks the context. Only if not even the smallest one fits, halves the number
            // of sequences: they cost memory if each has some of its own.
            let fits = |context| self.memory(Extent { context, ..extent }).total() <= bytes;
            let smaller =
                (least.context..wanted.context).rev().filter(|n| n.is_multiple_of(CONTEXT_STEP));
            let context = std::iter::once(wanted.context).chain(smaller).find(|&n| fits(n));
            if let Some(context) = context {
                return Extent { context, ..extent };
            }
            if extent.sequences <= least.sequences {
                return least;
            }
            extent.sequences = (extent.sequences / 2).max(least.sequences);
        }
    }

    /// The memory that a model of this extent takes, in bytes.
    pub fn memory(&self, extent: Extent) -> Memory {
        let own = self.own_memory(extent);
        let Some(draft) = &self.draft else { return own };
        let context = extent.context.min(draft.trained());
        let other = draft.own_memory(Extent { context, ..extent });
        Memory {
            weights: own.weights.saturating_add(other.weights),
            cache: own.cache.saturating_add(other.cache),
            buffers: own.buffers.saturating_add(other.buffers),
            parked: own.parked,
        }
    }

    fn own_memory(&self, extent: Extent) -> Memory {
        let states = u64::from(extent.sequences.saturating_add(SPARE_STATES));
        let cache = (0..self.shape.layers())
            .map(|layer| self.layer(layer, u64::from(extent.context), states))
            .fold(0, u64::saturating_add);
        let buffers = self.buffers(extent, states);
        let parked = if self.parks { parked(cache) } else { 0 };
        Memory { weights: self.weights, cache, buffers, parked }
    }

    /// Bytes of one layer's cache.
    fn layer(&self, layer: u64, context: u64, states: u64) -> u64 {
        let shape = &self.shape;
        let kv_heads = shape.of_layer("attention.head_count_kv", layer);
        let heads = kv_heads.or_else(|| shape.of_layer("attention.head_count", layer));
        let (key, value) = self.head();
        let cells = match self.window(layer) {
            // As in llama.cpp: a window for each state, and room for a batch.
            Some(window) => window
                .saturating_mul(states)
                .saturating_add(self.batch.into())
                .next_multiple_of(CONTEXT_STEP.into())
                .min(context),
            None => context,
        };
        let attention = heads
            .unwrap_or(0)
            .saturating_mul(key.saturating_add(value))
            .saturating_mul(cells)
            .saturating_mul(CACHED);
        // In a hybrid model, a layer without heads is recurrent.
        let recurrent = if heads.unwrap_or(0) == 0 { self.state() } else { 0 };
        attention.saturating_add(recurrent.saturating_mul(states))
    }

    /// The lengths of a key and of a value.
    fn head(&self) -> (u64, u64) {
        let heads = self.shape.number("attention.head_count").unwrap_or(1).max(1);
        let usual = self.embedding() / heads;
        let length = |key| self.shape.number(key).unwrap_or(usual);
        (length("attention.key_length"), length("attention.value_length"))
    }

    /// The window of a layer's attention. Which layers have one is defined in llama.cpp, not in the
    /// file. In architectures unknown here, no layer is assumed to have one.
    fn window(&self, layer: u64) -> Option<u64> {
        let window = self.shape.number("attention.sliding_window").filter(|window| *window > 0)?;
        let every = match self.shape.architecture() {
            "gemma2" | "gpt-oss" => 2,
            "cohere2" => 4,
            "gemma3" => 6,
            _ => return None,
        };
        (!(layer + 1).is_multiple_of(every)).then_some(window)
    }

    /// Bytes of a recurrent layer's state (Mamba's two: convolution and SSM).
    fn state(&self) -> u64 {
        let number = |key: &str| self.shape.number(key).unwrap_or(0);
        let (inner, state) = (number("ssm.inner_size"), number("ssm.state_size"));
        let groups = number("ssm.group_count").saturating_mul(state).saturating_mul(2);
        let columns = number("ssm.conv_kernel").saturating_sub(1);
        let convolved = columns.saturating_mul(inner.saturating_add(groups));
        convolved.saturating_add(inner.saturating_mul(state)).saturating_mul(COMPUTED)
    }

    /// Bytes of everything but the weights and the cache.
    fn buffers(&self, extent: Extent, states: u64) -> u64 {
        let batch = u64::from(self.batch.max(extent.sequences));
        let (key, _) = self.head();
        let heads = self.shape.number("attention.head_count").unwrap_or(1);
        let number = |key: &str| self.shape.number(key).unwrap_or(0);
        let experts =
            number("expert_feed_forward_length").saturating_mul(number("expert_used_count"));
        let wide = number("feed_forward_length").max(experts);
        // Two tensors of the feed-forward network, four of the embedding, four of the attention.
        let row = wide
            .saturating_mul(2)
            .saturating_add(self.embedding().saturating_mul(4))
            .saturating_add(key.saturating_mul(heads).saturating_mul(4))
            .saturating_mul(COMPUTED);
        // A mask tells for each token which cells it sees; windows have a mask of their own.
        let masks = if self.shape.number("attention.sliding_window").is_some() { 2 } else { 1 };
        let mask = u64::from(extent.context) * masks * CACHED;
        // Logits are held twice: as computed and as read. A forward pass with drafts has few other
        // tokens, so its logits reuse the memory of earlier tensors.
        let rows = states.saturating_mul(2).saturating_add(u64::from(self.drafts));
        let logits = self.shape.vocabulary().saturating_mul(rows).saturating_mul(COMPUTED);
        batch
            .saturating_mul(row.saturating_add(mask))
            .saturating_add(logits)
            .saturating_add(self.shape.vocabulary().saturating_mul(VOCABULARY_ENTRY))
            .saturating_add(PROCESS)
    }

    fn embedding(&self) -> u64 {
        self.shape.number("embedding_length").unwrap_or(0)
    }

    /// The context that the model was trained with.
    fn trained(&self) -> u32 {
        let trained = self.shape.number("context_length").unwrap_or(u64::from(DEFAULT_CONTEXT));
        u32::try_from(trained).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{MetaValue, check, tiny_model};

    fn estimate(
        change: impl FnOnce(&mut crate::gguf::GgufFile),
        options: EngineOptions,
    ) -> Estimate {
        let mut file = tiny_model(1);
        change(&mut file);
        let bytes = file.to_bytes();
        let summary = check(&bytes[..], bytes.len() as u64).unwrap();
        Estimate::new(summary.shape, bytes.len() as u64, &options)
    }

    fn plain() -> Estimate {
        estimate(|_| (), EngineOptions::default())
    }

    #[test]
    fn the_cache_is_what_the_layers_have() {
        let plain = plain();
        // 5 layers, 2 heads, 64 numbers for a key and 64 for a value, 2 bytes each.
        let cell = 5 * 2 * (64 + 64) * 2;
        let memory = plain.memory(Extent { context: 1024, sequences: 8 });
        assert_eq!(memory.cache, cell * 1024);
        assert!(memory.weights > 1_000_000 && memory.buffers > PROCESS, "{memory:?}");
        // The context that the model was trained with.
        assert_eq!(plain.wanted(), Extent { context: 4096, sequences: 32 });
        assert_eq!(plain.least(), Extent { context: LEAST_CONTEXT, sequences: 1 });
    }

    #[test]
    fn a_layer_has_the_heads_that_the_file_gives_it() {
        let each = estimate(
            |file| {
                let heads = MetaValue::I32s(vec![2, 0, 0, 1, 1]);
                file.set("llama.attention.head_count_kv", heads);
            },
            EngineOptions::default(),
        );
        assert_eq!(each.memory(each.wanted()).cache, (2 + 1 + 1) * 128 * 2 * 4096);
    }

    #[test]
    fn windows_and_states_cost_by_the_sequence() {
        let windows = estimate(
            |file| {
                let renamed = file
                    .metadata
                    .iter()
                    .map(|(key, value)| (key.replace("llama.", "gemma3."), value.clone()));
                file.metadata = renamed.collect();
                file.set("general.architecture", MetaValue::String("gemma3".into()));
                file.set("gemma3.attention.sliding_window", MetaValue::U32(128));
            },
            EngineOptions { batch: Some(256), ..EngineOptions::default() },
        );
        // All five layers have a window; a sixth would not.
        let cells = |sequences: u64| (128 * (sequences + 2) + 256).next_multiple_of(256);
        for sequences in [1, 8] {
            let memory = windows.memory(Extent { context: 4096, sequences });
            assert_eq!(memory.cache, 5 * 2 * 128 * 2 * cells(sequences.into()));
        }
        let recurrent = estimate(
            |file| {
                file.set("llama.attention.head_count_kv", MetaValue::U32(0));
                for (key, value) in [("conv_kernel", 4), ("inner_size", 100), ("state_size", 16)] {
                    file.set(&format!("llama.ssm.{key}"), MetaValue::U32(value));
                }
            },
            EngineOptions::default(),
        );
        let memory = recurrent.memory(Extent { context: 4096, sequences: 4 });
        assert_eq!(memory.cache, 5 * (3 * 100 + 100 * 16) * 4 * (4 + 2));
    }

    #[test]
    fn the_largest_context_that_fits_is_made_and_no_smaller_one_than_is_of_use() {
        let plain = plain();
        let total = |context| plain.memory(Extent { context, sequences: 32 }).total();
        assert_eq!(plain.fit(u64::MAX), plain.wanted());
        assert_eq!(plain.fit(total(4096)).context, 4096);
        assert_eq!(plain.fit(total(4096) - 1).context, 3840);
        assert_eq!(plain.fit(total(3000)).context, 2816);
        assert_eq!(plain.fit(total(2048)), Extent { context: 2048, sequences: 32 });
        assert_eq!(plain.fit(0), plain.least());
    }

    #[test]
    fn as_many_sequences_are_made_as_cost_little_beside_the_weights() {
        let sequences = |weights: u64, options: EngineOptions| {
            let estimate = Estimate { weights, ..estimate(|_| (), options) };
            estimate.wanted().sequences
        };
        let options = EngineOptions::default;
        // Each sequence costs two rows of logits.
        let each = plain().shape.vocabulary() * 2 * COMPUTED;
        assert_eq!(sequences(0, options()), 8);
        assert_eq!(sequences(each * 6 * 16 - 1, options()), 8);
        assert_eq!(sequences(each * 6 * 16, options()), 16);
        // The limit is 4096 cells, at 128 for each sequence.
        assert_eq!(sequences(u64::MAX, options()), 32);
        let context = EngineOptions { context: Some(1 << 20), ..options() };
        assert_eq!(sequences(u64::MAX, context), 64);
        let asked = EngineOptions { sequences: Some(3), ..options() };
        assert_eq!(sequences(u64::MAX, asked), 3);
    }

    #[test]
    fn what_the_options_say_is_not_changed() {
        let options = EngineOptions {
            context: Some(1 << 20),
            sequences: Some(3),
            ..EngineOptions::default()
        };
        let asked = estimate(|_| (), options);
        let extent = Extent { context: 1 << 20, sequences: 3 };
        assert_eq!((asked.wanted(), asked.least(), asked.fit(0)), (extent, extent, extent));
    }

    #[test]
    fn numbers_beyond_measure_are_a_lot_and_no_panic() {
        // Larger counts are refused with the file.
        let most = MetaValue::U32(i32::MAX as u32);
        let huge = estimate(
            |file| {
                for key in ["embedding_length", "feed_forward_length", "attention.head_count_kv"] {
                    file.set(&format!("llama.{key}"), most.clone());
                }
                file.set("llama.block_count", most.clone());
                file.set("llama.attention.head_count", MetaValue::U32(0));
            },
            EngineOptions { context: Some(u32::MAX), ..EngineOptions::default() },
        );
        assert!(huge.memory(huge.wanted()).total() > 1 << 60);
        huge.fit(0);
    }
}
