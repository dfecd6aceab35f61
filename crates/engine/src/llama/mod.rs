//! The llama.cpp backend: GGUF models on the CPU, or on whatever llama.cpp was built for.
//!
//! [`with_model`] lends a loaded model to a closure, because a context borrows its model: both are
//! locals of one function, on one thread, and everything is freed when it returns.
//!
//! llama.cpp aborts the process on unexpected input. So this module checks everything first: the
//! file ([`crate::gguf`]), the sizes (`load`), every batch (`context`), the logits (`sampler`).

#![expect(unsafe_code, reason = "llama.cpp is C; each call says why it is sound")]

mod attention;
mod backend;
mod context;
mod cpu;
mod draft;
mod draft_load;
mod load;
mod log;
mod metadata;
mod pages;
mod places;
mod reclaim;
mod sampler;
mod self_test;
mod template;
mod threads;
mod weights;

pub use load::{size, with_model};
pub use pages::clear_buffer;
pub use self_test::self_test;
pub(crate) use template::local_zone;
pub(crate) use weights::drives_a_gpu;
