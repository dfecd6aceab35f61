//! The engine: whether it is there, whether it runs, and what it was built for.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use threadrunner_client::find_program;
use threadrunner_core::{ErrorCode, ExitCode};

use super::cpu::{Cpu, used};
use super::{Finding, failure};

/// How long an engine may take to test itself.
const TEST_LIMIT: Duration = Duration::from_secs(20);

const REBUILD: &str =
    "in a checkout of the sources, scripts/build-engine builds it for this machine";

/// What came of asking an engine to test itself.
#[derive(Debug)]
enum Answer {
    /// It did, and says what it found.
    Report(Value),
    /// It knows no such thing: an older one, or one of somebody else's.
    Unsupported,
}

/// The engine and the processor.
pub(super) fn examine() -> Vec<Finding> {
    let cpu = Cpu::of_this_machine();
    let program = match find_program("threadrunner-engine", "THREADRUNNER_ENGINE") {
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
            .map_err(|error| format!("{shown} cannot be started: {error}"))
            .and_then(|child| answer_of(child).map_err(|why| format!("{shown} {why}")))
    };
    let (answer, fence) = (ask("--self-test"), ask("--fence-test"));
    let shown = shown.to_string();
    let (finding, report) = match answer {
        Ok(Answer::Report(report)) => (verdict(&shown, &report), Some(report)),
        Ok(Answer::Unsupported) => {
            (Finding::warning("engine", format!("{shown} cannot test itself"), "update it"), None)
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

/// What keeps a model file from doing harm, as tried from inside.
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
                "an engine reads its model, and nothing else of yours: {tried} attempts from inside"
            ),
        );
    }
    let detail = [missing, wrong].concat().join("; ");
    Finding::warning(
        "fence",
        format!("not whole: {detail}"),
        "load only model files that you trust; a kernel with Landlock and seccomp makes it whole",
    )
}

/// What the engine says of itself: the last line of its standard output that is a JSON object.
fn answer_of(mut child: Child) -> Result<Answer, String> {
    let Some(mut stdout) = child.stdout.take() else {
        return Err("has no standard output".to_owned());
    };
    let (tell, heard) = mpsc::channel();
    let reading = thread::Builder::new().name("answer".to_owned()).spawn(move || {
        let mut text = String::new();
        // What can be read of it is all there is.
        let _ = stdout.read_to_string(&mut text);
        let _ = tell.send(text);
    });
    if let Err(error) = reading {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("cannot be listened to: {error}"));
    }
    let text = heard.recv_timeout(TEST_LIMIT);
    if text.is_err() {
        // Either it is gone already, or it goes now.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| format!("cannot be waited for: {error}"))?;
    let text = text.map_err(|_| format!("did not test itself in {} s", TEST_LIMIT.as_secs()))?;
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

/// What the processor can do, and whether the engine does it.
fn processor(cpu: &Cpu, report: Option<&Value>) -> Finding {
    let can = cpu.levels();
    let detail =
        format!("{}: {}", cpu.model, if can.is_empty() { "-".into() } else { can.join(", ") });
    let info = report.and_then(|report| report["system_info"].as_str()).unwrap_or_default();
    // The dummy computes nothing and has nothing to say about it.
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
            "in a checkout of the sources, scripts/build-engine builds it for this machine; that can be \
             several times as fast",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use serde_json::json;

    fn say(script: &str) -> Result<Answer, String> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        answer_of(command.stderr(Stdio::null()).spawn().unwrap())
    }

    #[test]
    fn the_engines_report_is_its_last_object() {
        let said = say("echo loading; echo '{\"ok\":true,\"build\":\"native\"}'").unwrap();
        assert!(matches!(said, Answer::Report(report) if report["build"] == "native"));
        assert!(say("kill -ILL $$").unwrap_err().contains("signal"));
        assert!(matches!(say("exit 64").unwrap(), Answer::Unsupported));
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
