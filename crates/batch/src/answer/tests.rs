use threadrunner_core::Usage;

use super::*;
use crate::openai::request::Endpoint;

fn job() -> JobId {
    JobId::parse("1700000000000000_1_1").unwrap()
}

fn end(finish_reason: FinishReason) -> EndFrame {
    EndFrame {
        token: (),
        eos: true,
        job: job(),
        model: "small".into(),
        finish_reason,
        usage: Usage {
            prompt_tokens: 12,
            completion_tokens: 5,
            cached_tokens: 4,
            restored_tokens: 0,
        },
        timings: Timings::default(),
        output: Vec::new(),
    }
}

/// Compares lines with a golden file. Its lines are added to, never edited.
fn assert_golden(lines: Vec<Vec<u8>>, golden: &str) {
    let lines = String::from_utf8(lines.concat()).unwrap();
    for (number, (line, golden)) in (1..).zip(lines.lines().zip(golden.lines())) {
        assert_eq!(line, golden, "line {number}");
    }
    assert_eq!(lines.lines().count(), golden.lines().count());
}

#[test]
fn openai_results_are_those_of_the_golden_file() {
    let (created, job) = (1_700_000_000, job());
    let mut lines = Vec::new();
    for endpoint in [Endpoint::Chat, Endpoint::Completions] {
        let unnamed = |id, line| Label::unnamed(Form::OpenAi(endpoint), id, line);
        let named = unnamed(Value::Null, 3).named("r-1".into());
        let (numbered, unread) = (unnamed("4".into(), 4), unnamed(Value::Null, 5));
        for finish in [
            FinishReason::Stop,
            FinishReason::Length,
            FinishReason::Repetition,
            FinishReason::Canceled,
            FinishReason::Unknown,
        ] {
            lines.push(answered(&named, "Hi \"you\"\nä", &end(finish), created));
        }
        lines.push(answered(&numbered, "", &end(FinishReason::Stop), created));
        let mut fail = |label: &Label, failure: Failure, job, first| {
            lines.push(failed(label, &failure, job, first));
        };
        for code in [
            ErrorCode::InvalidRequest,
            ErrorCode::NoModel,
            ErrorCode::ModelNotFound,
            ErrorCode::EmptyPrompt,
            ErrorCode::ContextExceeded,
            ErrorCode::EngineDied,
            ErrorCode::Timeout,
            ErrorCode::Internal,
        ] {
            fail(&named, Failure::new(code, "it failed"), Some(&job), None);
        }
        let late = Failure::new(ErrorCode::Timeout, "it failed").hint("try again");
        fail(&named, late, Some(&job), None);
        let code = ErrorCode::InvalidRequest;
        let repeated = Failure::new(code, "line 1 already has the id \"4\"");
        fail(&numbered, repeated, None, Some(1));
        fail(&unread, Failure::new(code, "bad").hint("h"), None, None);
    }
    assert_golden(lines, include_str!("../../tests/golden/results.jsonl"));
}

#[test]
fn results_in_our_own_format_are_those_of_the_golden_file() {
    let unnamed = |id, line| Label::unnamed(Form::Own, id, line);
    let named = unnamed(Value::Null, 3).named("a".into());
    let (numbered, unread) = (unnamed(4.into(), 4), unnamed(Value::Null, 5));
    let code = ErrorCode::InvalidRequest;
    let late = Failure::new(ErrorCode::Timeout, "it failed").hint("try again");
    let repeated = Failure::new(code, "line 1 already has the id \"a\"");
    let lines = vec![
        answered(&named, "Hi", &end(FinishReason::Stop), 0),
        answered(&numbered, "Hi", &end(FinishReason::Length), 0),
        failed(&named, &late, Some(&job()), None),
        failed(&named, &repeated, None, Some(1)),
        failed(&unread, &Failure::new(code, "bad"), None, None),
    ];
    assert_golden(lines, include_str!("../../tests/golden/own_results.jsonl"));
}
