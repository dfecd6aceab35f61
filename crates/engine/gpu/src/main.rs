//! The engine process with GPU support; everything it does is in [`threadrunner_engine`].

fn main() -> std::process::ExitCode {
    threadrunner_engine::program::main()
}
