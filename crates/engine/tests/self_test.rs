//! The self-test, run as a process, as the scripts run it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::ffi::OsStr;
use std::process::{Command, Output};

use serde_json::Value;

fn self_test(arguments: &[&OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_threadrunner-engine"))
        .arg("--self-test")
        .args(arguments)
        .env("GGML_NO_BACKTRACE", "1")
        .output()
        .unwrap()
}

fn report(output: &Output) -> Value {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{output:?}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn this_build_passes_and_says_what_it_is() {
    let output = self_test(&[]);
    let report = report(&output);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(report["ok"], true);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["build"].is_string());
}

#[cfg(feature = "llama")]
mod llama {
    use std::os::unix::process::ExitStatusExt;

    use threadrunner_engine::gguf::{MetaValue, aborting_model, tiny_model};

    use super::*;

    fn on(bytes: &[u8]) -> Output {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        self_test(&[path.as_os_str()])
    }

    #[test]
    fn it_tells_the_processors_features_and_the_speed() {
        let report = report(&self_test(&[]));
        assert!(report["system_info"].as_str().unwrap().contains("CPU"));
        assert!(report["prompt_tokens_per_s"].as_f64().unwrap() > 0.0);
        let used: Vec<&str> =
            report["cpu"]["used"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
        assert!(!used.is_empty(), "{report}");
    }

    #[test]
    fn a_model_that_cannot_be_loaded_is_a_report_and_not_a_crash() {
        let mut unknown = tiny_model(1);
        unknown.set("general.architecture", MetaValue::String("nonsense".into()));
        let mut lacking = tiny_model(1);
        lacking.tensors.retain(|tensor| tensor.name != "output_norm.weight");
        for (bytes, reason) in [
            (unknown.to_bytes(), "unknown model architecture"),
            (lacking.to_bytes(), "output_norm.weight"),
            (tiny_model(1).to_bytes()[..5000].to_vec(), "cut short"),
            (vec![0x5a; 1000], "not a GGUF file"),
        ] {
            let output = on(&bytes);
            assert_eq!(output.status.code(), Some(3), "{output:?}");
            let report = report(&output);
            assert_eq!(report["ok"], false);
            assert!(report["error"].as_str().unwrap().contains(reason), "{report}");
        }
    }

    #[test]
    fn another_model_is_tested_where_one_is_named() {
        let output = on(&tiny_model(7).to_bytes());
        assert_eq!(report(&output)["ok"], true, "{output:?}");
    }

    #[test]
    fn weights_that_are_no_numbers_are_noticed() {
        let mut broken = tiny_model(1);
        let output = broken.tensors.iter_mut().find(|tensor| tensor.name == "output.weight");
        // The scale, at the end of each block of 256 six-bit numbers, becomes NaN.
        for block in output.unwrap().data.chunks_mut(210) {
            block[208..].copy_from_slice(&0x7e00_u16.to_le_bytes());
        }
        let output = on(&broken.to_bytes());
        assert!(report(&output)["error"].as_str().unwrap().contains("not numbers"), "{output:?}");
    }

    /// The daemon must survive this. If llama.cpp learns to refuse this file, find another.
    #[test]
    fn there_is_a_whole_file_on_which_llama_cpp_aborts() {
        let output = on(&aborting_model().to_bytes());
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    }
}
