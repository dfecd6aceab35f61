use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read_json<T: serde::de::DeserializeOwned>(name: &str) -> BTreeMap<String, T> {
    serde_json::from_str(&std::fs::read_to_string(golden().join(name)).unwrap()).unwrap()
}

/// The moment at which the golden files were rendered.
fn then(format: &str) -> String {
    let time = jiff::civil::date(2025, 7, 4).at(9, 5, 3, 0).in_tz("UTC").unwrap();
    time.strftime(format).to_string()
}

fn compile(source: &str) -> Result<ChatTemplate, TemplateError> {
    ChatTemplate::compile(source, SpecialTokens { bos: "<s>".into(), eos: "</s>".into() }, then)
}

fn message(content: &str) -> Message {
    Message { role: Role::User, content: content.into() }
}

fn render(source: &str) -> Result<String, TemplateError> {
    compile(source)?.render(&[message("hi")])
}

#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Text(String),
    Error(String),
}

#[test]
fn templates_render_as_python_renders_them() {
    let conversations = read_json::<Vec<Message>>("conversations.json");
    let expected = read_json::<BTreeMap<String, Expected>>("expected.json");
    assert!(expected.len() >= 12);
    let mut different = Vec::new();
    for (file, conversation, expected) in expected.iter().flat_map(|(file, all)| {
        all.iter().map(move |(conversation, expected)| (file, conversation, expected))
    }) {
        let source = std::fs::read_to_string(golden().join("templates").join(file)).unwrap();
        let template = compile(&source).unwrap_or_else(|error| panic!("{file}: {error:?}"));
        let ours = match template.render(&conversations[conversation]) {
            Ok(text) => Expected::Text(text),
            Err(TemplateError::Refused(message)) => Expected::Error(message),
            Err(error) => panic!("{file}, {conversation}: {error:?}"),
        };
        if ours != *expected {
            different.push(format!("{file}, {conversation}:\n  {expected:?}\n  {ours:?}"));
            break;
        }
    }
    assert!(different.is_empty(), "Python's, then ours:\n{}", different.join("\n"));
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let endless =
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    assert!(matches!(render(endless), Err(TemplateError::Broken(_))));
}

#[test]
fn a_broken_template_says_where_and_shows_no_prompt() {
    let error = compile("fine\n{% if %}").unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
    let error = render("{{ messages[0].content.nonsense() }}").unwrap_err().to_string();
    assert!(!error.contains("hi"), "{error}");
}

#[test]
fn the_local_time_is_formatted() {
    let year: u32 = local_time("%Y").parse().unwrap();
    assert!(year >= 2025);
    assert_eq!(render("{{ strftime_now('%d %b %Y, %H:%M') }}").unwrap(), "04 Jul 2025, 09:05");
}
