//! Writes GGUF files for the self-test and for tests, which need models that nobody publishes.

use super::GgmlType;

const ALIGNMENT: usize = 32;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaValue {
    /// A 32-bit unsigned integer.
    U32(u32),
    /// A 32-bit float.
    F32(f32),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// A list of strings.
    Strings(Vec<String>),
    /// A list of 32-bit signed integers.
    I32s(Vec<i32>),
}

/// A tensor: its shape in GGUF's order (row length first) and its raw data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name.
    pub name: String,
    /// The element type.
    pub kind: GgmlType,
    /// The dimensions.
    pub shape: Vec<u64>,
    /// The data, of the length that type and shape require.
    pub data: Vec<u8>,
}

/// A GGUF file in memory. Its fields are public so that a test can damage it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufFile {
    /// The metadata, in the order in which it is written.
    pub metadata: Vec<(String, MetaValue)>,
    /// The tensors.
    pub tensors: Vec<Tensor>,
}

impl GgufFile {
    /// Sets a metadata value. Replaces an earlier one with the same key.
    pub fn set(&mut self, key: &str, value: MetaValue) {
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    /// Encodes the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(b"GGUF");
        out.extend(3_u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            string(key, &mut out);
            write_value(value, &mut out);
        }
        let mut offset = 0_usize;
        for tensor in &self.tensors {
            string(&tensor.name, &mut out);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().for_each(|length| out.extend(length.to_le_bytes()));
            out.extend(tensor.kind.0.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(&tensor.data);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_value(value: &MetaValue, out: &mut Vec<u8>) {
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    match value {
        MetaValue::U32(value) => {
            kind(out, 4);
            out.extend(value.to_le_bytes());
        }
        MetaValue::F32(value) => {
            kind(out, 6);
            out.extend(value.to_le_bytes());
        }
        MetaValue::Bool(value) => {
            kind(out, 7);
            out.push(u8::from(*value));
        }
        MetaValue::String(text) => {
            kind(out, 8);
            string(text, out);
        }
        MetaValue::Strings(texts) => {
            kind(out, 9);
            kind(out, 8);
            out.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|text| string(text, out));
        }
        MetaValue::I32s(values) => {
            kind(out, 9);
            kind(out, 5);
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
    }
}
