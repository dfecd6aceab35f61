use serde_json::{Value, json};

use super::request::Endpoint;
use crate::input::Line;
use crate::label::Form;
use crate::line::Reader;

const REQUESTS: &str = include_str!("../../tests/golden/requests.jsonl");
const SUBMISSIONS: &str = include_str!("../../tests/golden/submissions.jsonl");

/// What the line of that number is read as, as a line of the golden file.
fn read(reader: &mut Reader, number: u64, text: &str) -> Value {
    let line = Line { number, bytes: Some(text.as_bytes().to_vec()) };
    let (label, asked) = reader.read(&line);
    let form = match label.form {
        Form::OpenAi(Endpoint::Chat) => "chat",
        Form::OpenAi(Endpoint::Completions) => "completion",
        Form::Own => "own",
    };
    let mut read = json!({"form": form, "id": label.id, "named": label.named});
    match asked {
        Ok(asked) => {
            read["submission"] = json!(asked.submission);
            read["unknown"] = json!(asked.unknown);
        }
        Err(failure) => read["failure"] = json!(failure),
    }
    read
}

#[test]
fn requests_are_read_as_the_golden_file_says() {
    let mut reader = Reader::default();
    for (number, (request, golden)) in (1..).zip(REQUESTS.lines().zip(SUBMISSIONS.lines())) {
        let golden: Value = serde_json::from_str(golden).unwrap();
        assert_eq!(read(&mut reader, number, request), golden, "{request}");
    }
    assert_eq!(REQUESTS.lines().count(), SUBMISSIONS.lines().count());
}

#[test]
fn a_list_is_no_message_and_no_part_of_one() {
    let mut reader = Reader::default();
    for (messages, said) in [
        (json!([["user", "x"]]), "there is no role null"),
        (json!([{"role": "user", "content": [["x"]]}]), "only text parts"),
    ] {
        let body = json!({"messages": messages});
        let line = json!({"custom_id": "a", "url": "/v1/chat/completions", "body": body});
        let read = read(&mut reader, 1, &line.to_string());
        let message = read["failure"]["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
    }
}
