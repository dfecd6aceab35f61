//! The engine process: one loaded model, one forward pass for everybody.

pub mod gguf;
#[cfg(feature = "llama")]
pub mod llama;
