//! A model with random weights, a few megabytes: complete and fast, but what it says is noise.
//!
//! The self-test runs it through every kind of matrix kernel, and tests load it when it does not
//! matter what a model says. Its vocabulary is the 256 bytes and three control tokens, so any text
//! can be tokenized and each byte is one token.

use super::{GgmlType, GgufFile, MetaValue, Tensor};

const EMBEDDING: u64 = 256;
const FEED_FORWARD: u64 = 512;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const HEAD: u64 = EMBEDDING / HEADS as u64;
const BYTES: usize = 256;
/// A chat template in the ChatML format.
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' \
     + message.content + '<|im_end|>\\n' }}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The weight types of the layers. One model has them all, because a faulty build often miscomputes
/// only one of them.
const LAYERS: [GgmlType; 5] =
    [GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::Q4_1, GgmlType::Q4_K, GgmlType::Q6_K];

/// Returns a llama model with random weights, the same for the same seed.
pub fn tiny_model(seed: u64) -> GgufFile {
    let mut file = GgufFile::default();
    let text = |text: &str| MetaValue::String(text.to_owned());
    file.set("general.architecture", text("llama"));
    file.set("general.name", text("tiny random"));
    file.set("llama.block_count", MetaValue::U32(LAYERS.len() as u32));
    file.set("llama.context_length", MetaValue::U32(4096));
    file.set("llama.embedding_length", MetaValue::U32(EMBEDDING as u32));
    file.set("llama.feed_forward_length", MetaValue::U32(FEED_FORWARD as u32));
    file.set("llama.attention.head_count", MetaValue::U32(HEADS));
    file.set("llama.attention.head_count_kv", MetaValue::U32(KV_HEADS));
    file.set("llama.attention.layer_norm_rms_epsilon", MetaValue::F32(1e-5));
    file.set("llama.rope.dimension_count", MetaValue::U32(HEAD as u32));
    file.set("tokenizer.chat_template", text(TEMPLATE));
    vocabulary(&mut file);

    let mut random = Random(seed);
    let vocabulary = BYTES as u64 + CONTROL.len() as u64;
    let mut tensor = |name: String, kind: GgmlType, shape: &[u64]| {
        let data = random.weights(kind, shape);
        file.tensors.push(Tensor { name, kind, shape: shape.to_vec(), data });
    };
    tensor("token_embd.weight".into(), GgmlType::Q8_0, &[EMBEDDING, vocabulary]);
    tensor("output.weight".into(), GgmlType::Q6_K, &[EMBEDDING, vocabulary]);
    tensor("output_norm.weight".into(), GgmlType::F32, &[EMBEDDING]);
    for (layer, kind) in LAYERS.into_iter().enumerate() {
        let kv = HEAD * u64::from(KV_HEADS);
        for (name, shape) in [
            ("attn_q", [EMBEDDING, EMBEDDING]),
            ("attn_k", [EMBEDDING, kv]),
            ("attn_v", [EMBEDDING, kv]),
            ("attn_output", [EMBEDDING, EMBEDDING]),
            ("ffn_gate", [EMBEDDING, FEED_FORWARD]),
            ("ffn_up", [EMBEDDING, FEED_FORWARD]),
            ("ffn_down", [FEED_FORWARD, EMBEDDING]),
        ] {
            tensor(format!("blk.{layer}.{name}.weight"), kind, &shape);
        }
        for name in ["attn_norm", "ffn_norm"] {
            tensor(format!("blk.{layer}.{name}.weight"), GgmlType::F32, &[EMBEDDING]);
        }
    }
    file
}

/// Returns a complete GGUF file that passes every check of the format but makes llama.cpp abort: it
/// claims to use experts and to have none.
pub fn aborting_model() -> GgufFile {
    let mut file = tiny_model(0);
    file.set("llama.expert_count", MetaValue::U32(0));
    file.set("llama.expert_used_count", MetaValue::U32(1));
    file
}

const CONTROL: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"];

fn vocabulary(file: &mut GgufFile) {
    let mut tokens: Vec<String> = (0..=255).map(|byte| byte_token(byte).to_string()).collect();
    tokens.extend(CONTROL.map(str::to_owned));
    const NORMAL: i32 = 1;
    const CONTROL_TYPE: i32 = 3;
    let kinds = (0..tokens.len()).map(|id| if id < BYTES { NORMAL } else { CONTROL_TYPE });
    let kinds = MetaValue::I32s(kinds.collect());
    let id = |offset: usize| MetaValue::U32((BYTES + offset) as u32);
    file.set("tokenizer.ggml.model", MetaValue::String("gpt2".to_owned()));
    file.set("tokenizer.ggml.pre", MetaValue::String("gpt-2".to_owned()));
    file.set("tokenizer.ggml.tokens", MetaValue::Strings(tokens));
    file.set("tokenizer.ggml.token_type", kinds);
    file.set("tokenizer.ggml.merges", MetaValue::Strings(Vec::new()));
    file.set("tokenizer.ggml.bos_token_id", id(2));
    file.set("tokenizer.ggml.eos_token_id", id(1));
    file.set("tokenizer.ggml.add_bos_token", MetaValue::Bool(false));
}

/// The character that stands for a byte in byte-level BPE vocabularies: the byte itself if it is
/// printable, else one from U+0100 on.
fn byte_token(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !printable(*other)).count() as u32;
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// SplitMix64: enough randomness for weights.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Generates random blocks of a type. Only the scales are chosen, so that weights are about one
    /// over the square root of the row's length and activations stay in bounds.
    fn weights(&mut self, kind: GgmlType, shape: &[u64]) -> Vec<u8> {
        let (_, block_bytes) = kind.block().unwrap_or((1, 4));
        let bytes = kind.bytes(shape).unwrap_or(0);
        if kind == GgmlType::F32 {
            // Norms: all ones.
            return (0..bytes / 4).flat_map(|_| 1_f32.to_le_bytes()).collect();
        }
        let deviation = 1.0 / (shape.first().copied().unwrap_or(1) as f32).sqrt();
        let mut out = Vec::with_capacity(bytes as usize);
        for _ in 0..bytes / block_bytes {
            let start = out.len();
            while out.len() < start + block_bytes as usize {
                out.extend(self.next().to_le_bytes());
            }
            out.truncate(start + block_bytes as usize);
            let mut scale = |offset: usize, value: f32| {
                out[start + offset..start + offset + 2].copy_from_slice(&half(value));
            };
            match kind {
                // A random nibble less 8 has a standard deviation of 4.6, a random byte one of 74.
                GgmlType::Q4_0 => scale(0, deviation / 4.6),
                GgmlType::Q8_0 => scale(0, deviation / 74.0),
                GgmlType::Q4_1 => {
                    scale(0, deviation / 4.6);
                    scale(2, -7.5 * deviation / 4.6);
                }
                // A nibble times a six-bit scale, less a six-bit offset.
                GgmlType::Q4_K => {
                    scale(0, deviation / 250.0);
                    scale(2, 7.5 * deviation / 250.0);
                }
                // Six bits less 32, times a signed byte; the block's own scale comes last.
                _ => scale(block_bytes as usize - 2, deviation / (18.5 * 74.0)),
            }
        }
        out
    }
}

/// Converts a small number of either sign to a 16-bit float. Truncates instead of rounding.
fn half(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    let mantissa = (bits & 0x7f_ffff) | 0x80_0000;
    let small = if exponent > 0 {
        ((exponent as u32) << 10) | ((mantissa >> 13) & 0x3ff)
    } else {
        mantissa.checked_shr((14 - exponent) as u32).unwrap_or(0)
    };
    ((sign | small) as u16).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_right_above_and_below_the_normal_range() {
        assert_eq!(half(1.0), 0x3c00_u16.to_le_bytes());
        assert_eq!(half(-0.5), 0xb800_u16.to_le_bytes());
        assert_eq!(half(2.0_f32.powi(-15)), 0x0200_u16.to_le_bytes());
        assert_eq!(half(2.0_f32.powi(-24)), 0x0001_u16.to_le_bytes());
        assert_eq!(half(1e-12), [0, 0]);
    }

    #[test]
    fn bytes_have_the_characters_of_gpt2() {
        assert_eq!(byte_token(b'a'), 'a');
        assert_eq!(byte_token(b' '), 'Ġ');
        assert_eq!(byte_token(b'\n'), 'Ċ');
        let all: std::collections::HashSet<char> = (0..=255).map(byte_token).collect();
        assert_eq!(all.len(), 256);
    }
}
