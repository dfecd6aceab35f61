use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use threadrunner_core::Role;

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read_json<T: serde::de::DeserializeOwned>(name: &str) -> BTreeMap<String, T> {
    serde_json::from_str(&std::fs::read_to_string(golden().join(name)).unwrap()).unwrap()
}

/// The time at which the golden files were rendered.
fn then(format: &str) -> String {
    time::strftime(format, &jiff::civil::date(2025, 7, 4).at(9, 5, 3, 0).in_tz("UTC").unwrap())
}

fn compile(source: &str) -> Result<ChatTemplate, TemplateError> {
    ChatTemplate::compile(source, SpecialTokens { bos: "<s>".into(), eos: "</s>".into() }, then)
}

fn message(content: &str) -> Message {
    Message::new(Role::User, content)
}

fn render(source: &str) -> Result<String, TemplateError> {
    compile(source)?.render(&[message("hi")], &[])
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
        let ours = match template.render_as_is(&conversations[conversation], &[]) {
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

#[derive(serde::Deserialize)]
struct Expressions {
    prelude: String,
    results: BTreeMap<String, Expected>,
}

/// `differences.json` holds our output for expressions that are known to differ; the test checks
/// that each still does.
#[test]
fn expressions_are_what_python_makes_of_them() {
    let read = |name: &str| std::fs::read_to_string(golden().join(name)).unwrap();
    let Expressions { prelude, results } = serde_json::from_str(&read("expressions.json")).unwrap();
    let differences: BTreeMap<String, Expected> =
        serde_json::from_str(&read("differences.json")).unwrap();
    assert!(results.len() > 500);
    let evaluate = |expression: &str| {
        let template = compile(&format!("{prelude}{{{{ {expression} }}}}"));
        // minijinja panics at some.
        let rendered = std::panic::catch_unwind(AssertUnwindSafe(|| template?.render(&[], &[])));
        match rendered {
            Ok(Ok(text)) => Expected::Text(text),
            Ok(Err(_)) | Err(_) => Expected::Error(String::new()),
        }
    };
    let mut wrong = Vec::new();
    for (expression, python) in &results {
        let python = match python {
            Expected::Error(_) => &Expected::Error(String::new()),
            text => text,
        };
        let expected = differences.get(expression).unwrap_or(python);
        let ours = evaluate(expression);
        if ours != *expected || (expected == python) == differences.contains_key(expression) {
            wrong.push(format!("{expression}\n  {python:?}\n  {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "Python's, then ours:\n{}", wrong.join("\n"));
    assert!(differences.keys().all(|expression| results.contains_key(expression)));
}

#[test]
fn instructions_are_in_every_templates_text() {
    let conversations = read_json::<Vec<Message>>("conversations.json");
    let messages = &conversations["with a system message"];
    let system = messages[0].content.to_string();
    let folder = std::fs::read_dir(golden().join("templates")).unwrap();
    for path in folder.map(|entry| entry.unwrap().path()) {
        let template = compile(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let text = template.render(messages, &[]).unwrap();
        assert!(text.contains(system.as_str()), "{}: {text}", path.display());
    }
}

#[test]
fn a_template_without_a_place_for_instructions_has_them_in_the_users_turn() {
    let turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let refuses = "{% for m in messages %}{% if m.role == 'system' %}\
        {{ raise_exception('System role not supported') }}{% endif %}{% endfor %}";
    let drops = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}";
    let first = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}\
        {{ raise_exception('it must be the first') }}{% endif %}{% endfor %}";
    let said = |role, text: &str| Message::new(role, text);
    let begins = [said(Role::System, "Be brief."), said(Role::User, "Hi")];
    let midway =
        [&begins[..], &[said(Role::System, "In French."), said(Role::User, "Bye")]].concat();
    for (template, begun, gone_on) in [
        (refuses, "<user>Be brief.\nHi", "<user>Be brief.\nHi<user>In French.\nBye"),
        (drops, "<user>Be brief.\nHi", "<user>Be brief.\nHi<user>In French.\nBye"),
        (first, "<system>Be brief.<user>Hi", "<system>Be brief.<user>Hi<user>In French.\nBye"),
        ("", "<system>Be brief.<user>Hi", "<system>Be brief.<user>Hi<system>In French.<user>Bye"),
    ] {
        let template = compile(&format!("{template}{turns}")).unwrap();
        assert_eq!(template.render(&begins, &[]).unwrap(), begun);
        assert_eq!(template.render(&midway, &[]).unwrap(), gone_on);
    }
    // A refusal for another reason stays one.
    let never = compile("{{ raise_exception('no') }}").unwrap();
    assert!(matches!(never.render(&begins, &[]), Err(TemplateError::Refused(why)) if why == "no"));
}

#[test]
fn tools_are_there_if_there_are_any_and_calls_have_arguments_that_are_objects() {
    let shows = compile(
        "{% if tools is defined %}{{ tools | tojson }}{% endif %}\
         {% for m in messages %}<{{ m.role }}>{{ m.content }}\
         {% for c in m.tool_calls %}{{ c.function.name }}({{ c.function.arguments.city }})\
         {% endfor %}{% endfor %}",
    )
    .unwrap();
    let json = serde_json::json!([
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": null, "tool_calls": [{
            "id": "1", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\":\"Rome\"}"},
        }]},
        {"role": "tool", "content": "no", "tool_call_id": "1"},
    ]);
    let messages: Vec<Message> = serde_json::from_value(json).unwrap();
    let talk = "<user>Rain?<assistant>weather(Rome)<tool>no";
    assert_eq!(shows.render(&messages, &[]).unwrap(), talk);
    let tools = serde_json::json!([{"type": "function", "function": {"name": "weather"}}]);
    let tools: Vec<Tool> = serde_json::from_value(tools).unwrap();
    let shown = r#"[{"function": {"name": "weather"}, "type": "function"}]"#;
    assert_eq!(shows.render(&messages, &tools).unwrap(), format!("{shown}{talk}"));
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let endless =
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    assert!(matches!(render(endless), Err(TemplateError::Broken(_))));
}

#[test]
fn a_template_that_asks_for_too_much_is_refused() {
    let cyclic = "{% set n = namespace() %}{% set n.a = n %}";
    let doubled = |start: &str, double: &str| {
        format!(
            "{{% set n = namespace(a={start}) %}}{{% for i in range(40) %}}\
             {{% set n.a = {double} %}}{{% endfor %}}"
        )
    };
    let long = "{% set a = 'a' * 100000 %}";
    for template in [
        format!("{cyclic}{{{{ n }}}}"),
        format!("{cyclic}{{{{ 'a' ~ n }}}}"),
        format!("{cyclic}{{{{ {{n: 1}} | length }}}}"),
        "{% set n = namespace() %}{% set n.a = [{'b': [n]}] %}{{ n }}".into(),
        "{% set n = namespace() %}{% set n.a | default(n, true) %}{% endset %}{{ n }}".into(),
        "{% set n = namespace() %}{% for i in [1, n] %}{% set n.a = loop %}{% endfor %}".into(),
        doubled("'abcdefgh'", "n.a ~ n.a"),
        doubled("'abcdefgh'", "n.a + n.a"),
        doubled("[1, 2]", "n.a + n.a"),
        doubled("[]", "[n.a, n.a]") + "{{ n.a }}",
        doubled("[]", "{'a': n.a, 'b': n.a}") + "{{ n.a | tojson }}",
        "{% set n = namespace(a=1) %}{% for i in range(10000) %}{% set n.a = [n.a] %}{% endfor %}"
            .into(),
        "{{ '{:>99999999999}'.format(1) }}".into(),
        "{{ '{:.99999999999f}'.format(1.5) }}".into(),
        "{{ ('{:>1000000}' * 1000).format(1) }}".into(),
        "{{ '%99999999999d' | format(1) }}".into(),
        format!("{long}{{{{ ('{{0}}' * 1000).format(a) }}}}"),
        format!("{long}{{{{ a.join(a) }}}}"),
        format!("{long}{{{{ a | join(a) }}}}"),
        "{{ ('\\t' * 1000).expandtabs(1000000) }}".into(),
    ] {
        assert!(matches!(render(&template), Err(TemplateError::Broken(_))), "{template}");
    }
}

#[test]
fn a_namespace_holds_what_a_template_puts_there() {
    let template = "{% set n = namespace(a=[]) %}\
        {%- for i in [1, 2] -%}{%- set n.a = n.a + [{'i': i}] -%}{%- endfor -%}\
        {% set n.b, c = 'x', 2 %}{% set n.d = 1, %}{% set n.e %}y{% endset %}\
        {% set n.f | upper %}z{% endset %}{% set n.g = 1 if n.b == 'y' else 2 %}\
        {{ [n.a, n.b, n.d, n.e, n.f, n.g] }}";
    let shown = "[[{'i': 1}, {'i': 2}], 'x', (1,), 'y', 'Z', 2]";
    assert_eq!(render(template).unwrap(), shown);
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
