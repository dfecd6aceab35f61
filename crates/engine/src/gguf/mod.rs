//! GGUF, the format of model files: checked before llama.cpp opens one, and written for tests.
//!
//! Nothing here needs llama.cpp, so all of it is compiled and tested in every build.

mod check;
mod file;
mod ggml_type;

pub use check::{CheckError, Summary, check};
pub use file::{FileError, check_file};
pub use ggml_type::GgmlType;
