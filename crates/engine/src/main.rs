//! The engine process. See [`threadrunner_engine`], whose `program::main` the package with GPU
//! support (`gpu/`) runs too.

#[cfg(all(feature = "llama", target_os = "linux"))]
mod zeros;

fn main() -> std::process::ExitCode {
    threadrunner_engine::program::main()
}
