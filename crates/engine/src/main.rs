//! The engine process. See [`threadrunner_engine`].

#[cfg(all(feature = "llama", target_os = "linux"))]
mod zeros;

fn main() -> std::process::ExitCode {
    threadrunner_engine::program::main()
}
