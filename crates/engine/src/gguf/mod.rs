//! GGUF, the format of model files.
//!
//! Files are checked before llama.cpp opens them ([`check_file`]), and written for the self-test
//! and for tests ([`GgufFile`], [`tiny_model`]). None of this needs llama.cpp, so every build
//! compiles and tests all of it.

mod check;
mod file;
mod ggml_type;
mod parts;
mod shape;
#[cfg(test)]
mod tests;
mod tiny;
mod write;

pub use check::{CheckError, Summary, check};
pub use file::{FileError, check_file};
pub use ggml_type::GgmlType;
pub(crate) use parts::parts;
pub use shape::Shape;
pub use tiny::{aborting_model, tiny_model};
pub use write::{GgufFile, MetaValue, Tensor};
