//! Golden tests of the formats on the wires and on disk. Each line in `golden/` is read and written
//! again unchanged, then read as a newer program might write it: with unknown keys, and with
//! unknown words. Lines are added there, never edited.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use threadrunner_core::engine_protocol::{Command, Event};
use threadrunner_core::protocol::{Ask, Ids, JobRecord, Op, Reply, ReplyBody, Request, ask};
use threadrunner_core::{Content, FinishReason, JobMeta, JobSpec, JobStatus, OutputKind};

/// Keys whose values are words.
const WORDS: [&str; 12] = [
    "op",
    "type",
    "event",
    "state",
    "mode",
    "backend",
    "priority",
    "role",
    "finish_reason",
    "code",
    "error_type",
    "status",
];
const FUTURE: &str = "from_the_future";

fn lines(file: &str) -> Vec<Value> {
    file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Visits every object in a value, the outermost first.
fn objects(value: &mut Value, visit: &mut impl FnMut(&mut serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(object);
            object.values_mut().for_each(|value| objects(value, visit));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| objects(value, visit)),
        _ => {}
    }
}

/// The line with an unknown key in each object.
fn with_more(line: &Value) -> Value {
    let mut line = line.clone();
    objects(&mut line, &mut |object| {
        object.insert(FUTURE.to_owned(), json!([1, "a", null]));
    });
    line
}

/// The line once for each word in it, with that word replaced by an unknown one.
fn with_words(line: &Value) -> Vec<Value> {
    let word = |(key, value): (&String, &Value)| {
        (WORDS.contains(&key.as_str()) && value.is_string()).then(|| key.clone())
    };
    let mut found = Vec::new();
    objects(&mut line.clone(), &mut |object| found.extend(object.iter().filter_map(word)));
    let replaced = |which: usize| {
        let (mut line, mut seen) = (line.clone(), 0);
        objects(&mut line, &mut |object| {
            let words: Vec<_> = object.iter().filter_map(word).collect();
            for key in words {
                if seen == which {
                    object.insert(key, FUTURE.into());
                }
                seen += 1;
            }
        });
        line
    };
    (0..found.len()).map(replaced).collect()
}

fn read<T: DeserializeOwned>(line: &Value) -> T {
    serde_json::from_value(line.clone()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Checks that answers, events and records are read despite unknown keys and words.
fn is_open<T: Serialize + DeserializeOwned>(file: &str) {
    lines(file).iter().for_each(line_is_open::<T>);
}

fn line_is_open<T: Serialize + DeserializeOwned>(line: &Value) {
    assert_eq!(serde_json::to_value(read::<T>(line)).unwrap(), *line);
    read::<T>(&with_more(line));
    for line in with_words(line) {
        read::<T>(&line);
    }
}

/// How to check the answer to an operation; `None` if the answer is not a single value.
fn answer_check(op: &Op) -> Option<fn(&Value)> {
    fn of<A: Ask>() -> Option<fn(&Value)> {
        Some(line_is_open::<A::Answer>)
    }
    match op {
        Op::Simple(_) | Op::Run(_) | Op::Follow(_) | Op::Watch(_) => None,
        Op::Submit(_) => of::<ask::Submit>(),
        Op::Wait(_) => of::<ask::Wait>(),
        Op::Job(_) => of::<ask::Job>(),
        Op::Result(_) => of::<ask::Result>(),
        Op::Jobs(query) if query.ids => of::<Ids>(),
        Op::Jobs(_) => of::<ask::Jobs>(),
        Op::Cancel(_) => of::<ask::Cancel>(),
        Op::Retry(_) => of::<ask::Retry>(),
        Op::Rm(_) => of::<ask::Rm>(),
        Op::Prune(_) => of::<ask::Prune>(),
        Op::Sessions(_) => of::<ask::Sessions>(),
        Op::Session(_) => of::<ask::Session>(),
        Op::UndoSession(_) => of::<ask::UndoSession>(),
        Op::RmSession(_) => of::<ask::RmSession>(),
        Op::Ps => of::<ask::Ps>(),
        Op::Status => of::<ask::Status>(),
        Op::Load(_) => of::<ask::Load>(),
        Op::Unload(_) => of::<ask::Unload>(),
        Op::Stop(_) => of::<ask::Stop>(),
    }
}

/// Checks that orders are read despite unknown keys, but refused for unknown words, which the error
/// names.
fn is_strict<T>(file: &str, read: impl Fn(&Value) -> Result<T, String>) {
    for line in lines(file) {
        read(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        read(&with_more(&line)).unwrap_or_else(|error| panic!("{line}: {error}"));
        for line in with_words(&line) {
            let error = read(&line).err().unwrap_or_else(|| panic!("{line}"));
            assert!(error.contains(FUTURE), "{line}: {error}");
        }
    }
}

#[test]
fn answers_events_and_records_of_the_future_are_read() {
    is_open::<Reply>(include_str!("golden/replies.jsonl"));
    is_open::<Event>(include_str!("golden/events.jsonl"));
    is_open::<JobMeta>(include_str!("golden/meta.jsonl"));
    is_open::<JobRecord>(include_str!("golden/records.jsonl"));
}

#[test]
fn every_operation_has_a_golden_request_and_answer_which_may_grow() {
    let answers = lines(include_str!("golden/answers.jsonl"));
    for line in lines(include_str!("golden/requests.jsonl")) {
        let op = Request::parse(line.to_string().as_bytes()).unwrap().op;
        let Some(check) = answer_check(&op) else { continue };
        let ids = line["ids"] == true;
        let of_op =
            |answer: &&Value| answer["op"] == line["op"] && answer["data"]["ids"].is_array() == ids;
        let answers: Vec<_> = answers.iter().filter(of_op).collect();
        assert!(!answers.is_empty(), "answers.jsonl: {}", line["op"]);
        answers.iter().for_each(|answer| check(&answer["data"]));
    }
    let asked: Vec<_> = lines(include_str!("golden/requests.jsonl"));
    for answer in answers {
        assert!(asked.iter().any(|line| line["op"] == answer["op"]), "requests.jsonl: {answer}");
    }
}

#[test]
fn orders_of_the_future_are_refused_where_they_ask_for_what_nobody_knows() {
    let request = |line: &Value| {
        let read = Request::parse(line.to_string().as_bytes());
        read.map(|request| request.to_json()).map_err(|(_, failure)| failure.message)
    };
    is_strict(include_str!("golden/requests.jsonl"), request);
    for line in lines(include_str!("golden/requests.jsonl")) {
        assert_eq!(request(&line).unwrap(), line);
    }

    let job = |line: &Value| {
        serde_json::from_value::<JobSpec>(line.clone()).map_err(|error| error.to_string())
    };
    is_strict(include_str!("golden/job.jsonl"), job);
    for line in lines(include_str!("golden/job.jsonl")) {
        assert_eq!(serde_json::to_value(read::<JobSpec>(&line)).unwrap(), line);
    }

    for line in lines(include_str!("golden/commands.jsonl")) {
        assert_eq!(serde_json::to_value(read::<Command>(&line)).unwrap(), line);
        read::<Command>(&with_more(&line));
    }
}

#[test]
fn what_is_not_known_says_so() {
    let event = json!({"id": 1, "event": FUTURE, "job": 7});
    assert!(
        matches!(read::<Reply>(&event).body, ReplyBody::Event(event) if event == read(&event_of(FUTURE)))
    );
    let frame = read::<Reply>(&json!({"id": 1, FUTURE: 7}));
    assert!(matches!(frame.body, ReplyBody::Unknown(_)));
    // A known kind must be whole: it may be the last frame.
    for torn in [json!({"error": "no"}), json!({"eos": true}), json!({"event": "queued"})] {
        assert!(serde_json::from_value::<Reply>(torn.clone()).is_err(), "{torn}");
    }
    let smell = json!({"type": FUTURE, "smell": [1]});
    let parts = json!([{"type": "text", "text": "a"}, smell]);
    assert_eq!(serde_json::to_value(read::<Content>(&parts)).unwrap(), parts);
    let output = read::<Event>(&json!({"event": "output", "id": 1, "output": smell}));
    let Event::Output { output, .. } = output else { panic!("{output:?}") };
    assert_eq!(output.kind(), OutputKind::Unknown);
    assert_eq!(serde_json::to_value(&output).unwrap(), smell);
    assert_eq!(read::<Event>(&event_of(FUTURE)), Event::Unknown);
    assert_eq!(read::<Command>(&json!({"op": FUTURE, "id": 1})), Command::Unknown);
    assert_eq!(read::<FinishReason>(&FUTURE.into()), FinishReason::Unknown);
    assert_eq!(read::<JobStatus>(&FUTURE.into()), JobStatus::Unknown);
    assert!(!JobStatus::Unknown.is_final());
}

fn event_of(word: &str) -> Value {
    json!({"event": word})
}
