//! `doctor`: checks the installation, and says how to fix it.

mod checks;
mod cpu;
mod engine;
mod places;

use serde::Serialize;
use threadrunner_core::{ErrorCode, ExitCode, Failure};
use threadrunner_home::{Config, Home};

use crate::args::Plain;
use crate::error::CommandResult;
use crate::session::with_session;
use crate::style::{self, Style};
use crate::{cells, output};

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was checked.
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    detail: String,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
    /// The exit code with which a command would fail because of it.
    #[serde(skip)]
    code: ExitCode,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// No problem.
    Fine,
    /// It works, but could be better.
    Warning,
    /// It does not work.
    Broken,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    findings: &'a [Finding],
}

impl Finding {
    fn fine(name: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { name, verdict: Verdict::Fine, detail, mend: None, code: ExitCode::Success }
    }

    fn warning(name: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        let mend = Some(mend.into());
        Self { verdict: Verdict::Warning, mend, ..Self::fine(name, detail) }
    }

    fn broken(name: &'static str, failure: Failure) -> Self {
        Self {
            name,
            verdict: Verdict::Broken,
            detail: failure.message,
            mend: failure.hint,
            code: failure.code.exit_code(),
        }
    }
}

pub(crate) fn run(args: Plain) -> CommandResult {
    let findings = match Home::from_env() {
        Ok(home) => examine(&home)?,
        Err(failure) => vec![Finding::broken("environment", failure)],
    };
    let worst = findings.iter().find(|finding| finding.verdict == Verdict::Broken);
    if args.json {
        output::print_json(&Report { ok: worst.is_none(), findings: &findings })?;
    } else {
        output::print(&text(&findings, style::on_stdout(), output::width()))?;
    }
    Ok(worst.map_or(ExitCode::Success, |finding| finding.code))
}

fn examine(home: &Home) -> Result<Vec<Finding>, crate::error::CommandError> {
    let mut findings = checks::home(home);
    let config = match Config::load(home) {
        Ok(config) => {
            findings.push(checks::config(home));
            findings.extend(checks::config_changes(home));
            findings.extend(checks::workspaces(home, &config));
            findings.extend(places::broken(home, &config));
            config
        }
        Err(failure) => {
            findings.push(Finding::broken("config.toml", failure));
            Config::default()
        }
    };
    findings.extend(checks::runtime_directory(home));
    findings.push(checks::socket(home));
    findings.push(checks::disk(home));
    // Only the findings count, not the exit code of this session.
    with_session(home.clone(), None, async |session| {
        findings.extend(checks::daemon(session).await?);
        Ok(ExitCode::Success)
    })?;
    findings.extend(engine::examine());
    findings.extend(checks::models(home, &config));
    Ok(findings)
}

fn text(findings: &[Finding], coloured: bool, columns: Option<usize>) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (style, mark) = match finding.verdict {
            Verdict::Fine => (Style::Green, "ok  "),
            Verdict::Warning => (Style::Yellow, "warn"),
            Verdict::Broken => (Style::Red, "BAD "),
        };
        let mark = style.paint(mark, coloured);
        let detail = cells::hanging(&finding.detail, width + 8, 6, columns);
        text.push_str(&format!("{mark}  {:<width$}  {detail}\n", finding.name));
        if let Some(mend) = &finding.mend {
            for line in mend.lines() {
                text.push_str(&format!("      {:<width$}  -> {line}\n", ""));
            }
        }
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    text.push_str(&match (count(Verdict::Broken), count(Verdict::Warning)) {
        (0, 0) => "\nno problems found\n".to_owned(),
        (0, warnings) => format!("\nit works; warnings: {warnings}\n"),
        (broken, _) => format!("\n{broken} broken\n"),
    });
    text
}

/// A failure of the installation, with how to fix it.
fn failure(code: ErrorCode, message: impl Into<String>, mend: impl Into<String>) -> Failure {
    Failure::new(code, message).hint(mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_listed_with_what_to_do() {
        let findings = [
            Finding::fine("home", "/h"),
            Finding::warning("processor", "could be faster", "build again"),
            Finding::broken("models", failure(ErrorCode::NoModel, "none", "get one")),
        ];
        assert_eq!(
            text(&findings, false, None),
            "ok    home       /h\n\
             warn  processor  could be faster\n                 -> build again\n\
             BAD   models     none\n                 -> get one\n\
             \n1 broken\n"
        );
        assert_eq!(findings[2].code, ExitCode::Model);
    }
}
