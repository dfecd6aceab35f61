//! Links the engine so that an empty KV cache takes no memory (see `src/zeros.rs`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).as_deref() == Ok(value);
    if is("CARGO_CFG_TARGET_OS", "linux") && std::env::var_os("CARGO_FEATURE_LLAMA").is_some() {
        println!(
            "cargo:rustc-link-arg-bin=threadrunner-engine=-Wl,--wrap=ggml_backend_buffer_clear"
        );
    }
}
