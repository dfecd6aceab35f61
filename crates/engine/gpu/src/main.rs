//! The engine process with GPU support. See [`threadrunner_engine`].

fn main() -> std::process::ExitCode {
    threadrunner_engine::program::main()
}
