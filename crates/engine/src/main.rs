//! The engine process. See [`threadrunner_engine`].

fn main() -> std::process::ExitCode {
    threadrunner_engine::program::main()
}
