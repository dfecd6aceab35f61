//! Writes the initial corpus, one valid input of each kind, to the given folder.

use std::path::PathBuf;
use std::{env, fs, io};

use threadrunner_engine::gguf::tiny_model;

const REQUEST: &str = r#"{"v":1,"id":7,"op":"submit","prompt":"Hello","messages":null,"priority":"batch","tags":["a"],
"temperature":0.5,"stop":["x"],"after":["1700000000000000_1"],"session":"s","keep_alive":"10m"}"#;
const COMMAND: &str =
    r#"{"op":"generate","id":1,"input":{"raw":"Hi"},"params":{"seed":1},"priority":"normal"}"#;
const JOB: &str = r#"{"v":1,"model":{"backend":"dummy"},"max_tokens":3,"attempts":1}"#;
const META: &str = r#"{"submitted_at":"2026-01-02T03:04:05.000006Z","mode":"text","tags":["a"]}"#;

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::args_os().nth(1).expect("usage: seeds FOLDER"));
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(root.join(target))?;
        fs::write(root.join(target).join(name), bytes)
    };
    write("frames", "request", REQUEST.as_bytes())?;
    write("frames", "command", COMMAND.as_bytes())?;
    let framed = [&(REQUEST.len() as u32).to_le_bytes()[..], REQUEST.as_bytes()].concat();
    write("frames", "framed", &framed)?;
    write("gguf", "tiny", &tiny_model(1).to_bytes())?;
    let job = [b"Hello".as_slice(), JOB.as_bytes(), META.as_bytes(), b"text"];
    write("jobs", "whole", &job.join(&0xff))?;
    write("jobs", "prompt", b"Hello")
}
