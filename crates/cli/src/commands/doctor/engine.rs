//! Checks of the engine: whether it exists and runs, its fence, and what it was built for.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use threadrunner_core::{ErrorCode, ExitCode};
use threadrunner_home::find_engine;

use super::cpu::{Cpu, used};
use super::{Finding, failure};

/// How long the self-test of an engine may take. It takes a second or two, and many times that on a
/// busy machine.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// The longest report that is read, in bytes: a hundred times what an engine writes.
const MAX_REPORT: u64 = 1 << 20;

const REBUILD: &str =
    "run scripts/build-engine in a checkout of the sources to build it for this machine";

/// The outcome of asking an engine to test itself.
#[derive(Debug)]
enum Answer {
    /// It did, and this is its report.
    Report(Value),
    /// It has no self-test: an older engine, or one from elsewhere.
    Unsupported,
    /// It did not finish in time.
    Late,
}

/// Checks the engine and the processor.
pub(super) fn examine() -> Vec<Finding> {
    let cpu = Cpu::of_this_machine();
    let program = match find_engine() {
        Ok(program) => program,
        Err(failed) => {
            let mut findings = vec![Finding::broken("engine", failed)];
            findings.extend(cpu.map(|cpu| processor(&cpu, None)));
            return findings;
        }
    };
    let shown = program.display();
    let ask = |option: &str| {
        Command::new(&program)
            .arg(option)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start {shown}: {error}"))
            .and_then(|child| answer_of(child, TEST_LIMIT).map_err(|why| format!("{shown} {why}")))
    };
    let (answer, fence) = (ask("--self-test"), ask("--fence-test"));
    let shown = shown.to_string();
    let (finding, report) = match answer {
        Ok(Answer::Report(report)) => (verdict(&shown, &report), Some(report)),
        Ok(Answer::Unsupported) => {
            (Finding::warning("engine", format!("{shown} has no self-test"), "update it"), None)
        }
        Ok(Answer::Late) => {
            let limit = TEST_LIMIT.as_secs();
            let detail = format!("{shown} did not finish its self-test in {limit} s{}", load());
            (Finding::warning("engine", detail, "try again when the machine is less busy"), None)
        }
        Err(message) => {
            (Finding::broken("engine", failure(ErrorCode::EngineDied, message, REBUILD)), None)
        }
    };
    let mut findings = vec![finding];
    if let Ok(Answer::Report(report)) = &fence {
        findings.push(fenced(report));
    }
    findings.extend(cpu.map(|cpu| processor(&cpu, report.as_ref())));
    findings
}

/// Checks the fence that keeps a model file from doing harm, as tested from inside an engine.
fn fenced(report: &Value) -> Finding {
    let list = |key: &str| -> Vec<&str> {
        report[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let (missing, wrong) = (list("missing"), list("wrong"));
    if missing.is_empty() && wrong.is_empty() {
        let tried = report["tried"].as_object().map_or(0, serde_json::Map::len);
        return Finding::fine(
            "fence",
            format!(
                "an engine can read none of your files but its model ({tried} tests from inside)"
            ),
        );
    }
    let detail = [missing, wrong].concat().join("; ");
    Finding::warning(
        "fence",
        format!("incomplete: {detail}"),
        "load only model files that you trust, or use a kernel with Landlock and seccomp",
    )
}

/// Waits for the engine's report: the last line of its standard output that is a JSON object.
fn answer_of(mut child: Child, limit: Duration) -> Result<Answer, String> {
    let Some(stdout) = child.stdout.take() else {
        return Err("has no standard output".to_owned());
    };
    let (tell, heard) = mpsc::sync_channel(1);
    let reading = thread::Builder::new().name("answer".to_owned()).spawn(move || {
        let mut text = String::new();
        // After an error, what was read until then has to do.
        let _ = stdout.take(MAX_REPORT).read_to_string(&mut text);
        let _ = tell.send(text);
    });
    if let Err(error) = reading {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("cannot be read from: {error}"));
    }
    let text = heard.recv_timeout(limit);
    if text.is_err() {
        // It may have ended already.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| format!("cannot be waited for: {error}"))?;
    let Ok(text) = text else { return Ok(Answer::Late) };
    let report = text
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object));
    match report {
        Some(report) => Ok(Answer::Report(report)),
        None if status.success() || status.code() == Some(ExitCode::Usage as i32) => {
            Ok(Answer::Unsupported)
        }
        None => Err(format!("failed its self-test ({status})")),
    }
}

/// How busy the machine is, for the end of a message; nothing if that is unknown.
fn load() -> String {
    let known = std::fs::read_to_string("/proc/loadavg").ok();
    let load = known.as_deref().and_then(|text| text.split(' ').next());
    load.map(|load| format!(": the machine's load is {load}")).unwrap_or_default()
}

fn verdict(shown: &str, report: &Value) -> Finding {
    let text = |key: &str| report[key].as_str().unwrap_or_default();
    let mut detail = shown.to_owned();
    for part in [text("version"), text("build")] {
        if !part.is_empty() {
            detail.push_str(&format!(", {part}"));
        }
    }
    match (report["ok"].as_bool(), text("error")) {
        (Some(false), error) => {
            let message = format!("{detail}: its self-test failed: {error}");
            Finding::broken("engine", failure(ErrorCode::EngineDied, message, REBUILD))
        }
        _ => Finding::fine("engine", detail),
    }
}

/// Reports the instruction sets of the processor, and whether the engine uses them.
fn processor(cpu: &Cpu, report: Option<&Value>) -> Finding {
    let can = cpu.levels();
    let detail =
        format!("{}: {}", cpu.model, if can.is_empty() { "-".into() } else { can.join(", ") });
    let info = report.and_then(|report| report["system_info"].as_str()).unwrap_or_default();
    // The dummy computes nothing, and so reports nothing.
    if info.is_empty() {
        return Finding::fine("processor", detail);
    }
    let uses = used(info);
    let unused: Vec<_> = can.iter().filter(|level| !uses.contains(level)).copied().collect();
    if unused.is_empty() {
        Finding::fine("processor", format!("{detail}; the engine uses them"))
    } else {
        Finding::warning(
            "processor",
            format!("{detail}; the engine was built without {}", unused.join(" and ")),
            "run scripts/build-engine in a checkout of the sources to build it for this machine; \
             that can be several times faster",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use serde_json::json;

    fn say(script: &str) -> Result<Answer, String> {
        say_within(script, TEST_LIMIT)
    }

    fn say_within(script: &str, limit: Duration) -> Result<Answer, String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        answer_of(command.stderr(Stdio::null()).spawn().unwrap(), limit)
    }

    #[test]
    fn the_engines_report_is_its_last_object() {
        let said = say("echo loading; echo '{\"ok\":true,\"build\":\"native\"}'").unwrap();
        assert!(matches!(said, Answer::Report(report) if report["build"] == "native"));
        assert!(say("kill -ILL $$").unwrap_err().contains("signal"));
        assert!(matches!(say("exit 64").unwrap(), Answer::Unsupported));
        assert!(matches!(say_within("exec sleep 60", Duration::ZERO).unwrap(), Answer::Late));
    }

    #[test]
    fn a_self_test_that_failed_is_broken() {
        let report = json!({"ok": false, "error": "wrong sum", "version": "1"});
        let finding = verdict("/e", &report);
        assert_eq!(finding.verdict, Verdict::Broken);
        assert!(finding.detail.contains("wrong sum"));
    }

    #[test]
    fn a_fence_with_gaps_is_a_warning_that_names_them() {
        let whole = json!({"missing": [], "wrong": [], "tried": {"read a file": "no"}});
        assert_eq!(fenced(&whole).verdict, Verdict::Fine);
        let gap = json!({"missing": ["files: no Landlock"], "wrong": ["read a file: granted"]});
        let finding = fenced(&gap);
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.detail.contains("no Landlock; read a file: granted"), "{finding:?}");
    }

    #[test]
    fn instructions_that_the_engine_leaves_unused_are_named() {
        let cpu =
            Cpu { model: "Some CPU".into(), flags: ["avx2", "amx_int8"].map(str::to_owned).into() };
        let finding = processor(&cpu, Some(&json!({"system_info": "CPU : AVX2 = 1 | "})));
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.detail.contains("without AMX"), "{}", finding.detail);
        let finding =
            processor(&cpu, Some(&json!({"system_info": "CPU : AVX2 = 1 | AMX_INT8 = 1 | "})));
        assert_eq!(finding.verdict, Verdict::Fine);
    }
}
