//! The engine process. See [`threadrunner_engine`].

fn main() {}
