//! Messages and answers that are more than text: images and tools in, calls and vectors out.

use std::fs;

use serde_json::{Value, json};
use threadrunner_tests::{Frames, TestHome};

fn run(messages: &Value) -> Value {
    json!({"v": 1, "id": 1, "op": "run", "messages": messages, "stream": false})
}

fn image() -> Value {
    json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}})
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": {}}}])
}

fn call() -> Value {
    json!({"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}})
}

#[test]
fn texts_of_a_newer_client_are_text() {
    let home = TestHome::new();
    let parts = json!([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]);
    let messages =
        json!([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]);
    let frames = home.connect().ask(&run(&messages));
    assert!(Frames::text(&frames).ends_with("amet one. two."), "{frames:?}");
    let id = home.jobs_in("output").pop().unwrap();
    let job = fs::read_to_string(home.workspace("output").join(id).join("job.json")).unwrap();
    let job: Value = serde_json::from_str(&job).unwrap();
    assert_eq!(job["messages"][0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(job["messages"][1], json!({"role": "user", "content": "one two"}));
}

#[test]
fn a_model_that_takes_text_alone_is_sent_nothing_else() {
    let home = TestHome::new();
    let ask = |request: &Value| home.connect().ask(request).pop().unwrap();
    let picture = run(&json!([{"role": "user", "content": [image()]}]));
    let mut with_tools = run(&json!([{"role": "user", "content": "Rain?"}]));
    with_tools["tools"] = tools();
    // The first is refused when the model is loaded, the others when they are submitted.
    for (request, what) in [(&picture, "images"), (&picture, "images"), (&with_tools, "tools")] {
        let error = ask(request);
        assert_eq!(error["code"], "unsupported", "{error}");
        let said = format!("model 'dummy' takes no {what}: it takes text");
        assert_eq!(error["error"], said, "{error}");
        assert_eq!(
            (&error["error_type"], &error["retryable"]),
            (&json!("ModelLoad"), &json!(false))
        );
    }
    // The job of the first tells it, too.
    let id = home.jobs_in("failed").pop().unwrap();
    let told = home.run(["follow", &id]).expect(6).stderr;
    assert!(told.contains("takes no images"), "{told}");
    let unknown = run(&json!([{"role": "user", "content": [{"type": "input_audio"}]}]));
    let error = ask(&unknown);
    assert_eq!(error["code"], "invalid_request", "{error}");
    assert!(error["error"].as_str().unwrap().contains("`input_audio`"), "{error}");
}

#[test]
fn a_model_that_takes_images_and_tools_is_sent_them() {
    let script = json!({"inputs": ["images", "tools"], "transcript": true});
    let home = TestHome::new().dummy(&script);
    let messages = json!([
        {"role": "user", "content": [{"type": "text", "text": "See "}, image()]},
        {"role": "assistant", "content": null, "tool_calls": [call()]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    ]);
    let mut request = run(&messages);
    request["tools"] = tools();
    let text = Frames::text(&home.connect().ask(&request));
    let said = "weather. user. See. image. assistant. weather. tool. rain.";
    assert!(text.ends_with(said), "{text}");
    let info = &home.run(["ps", "--json"]).expect(0).json()["models"][0]["info"];
    assert_eq!(info["inputs"], json!(["images", "tools"]));
}

/// An engine that answers with tool calls and a vector, and then with what it was sent.
const ENGINE: &str = r#"if hear()["op"] == "size":
    say("sized", wanted={}, least={})
    sys.exit()
say("ready", engine={}, model={"name": "m", "n_ctx": 4096, "n_batch": 512, "n_seq_max": 4,
    "inputs": ["tools", "smells"], "outputs": ["reasoning", "tool_calls", "embedding"]})
while True:
    asked = hear()
    if asked["op"] != "generate":
        continue
    id, chat, reason = asked["id"], asked["input"]["chat"], "stop"
    if "tools" in asked["input"] and chat[-1]["role"] == "user":
        call = {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": "{}"}}
        say("output", id=id, output={"type": "reasoning", "text": "Hm."})
        say("output", id=id, output={"type": "smell"})
        say("output", id=id, output={"type": "tool_calls", "tool_calls": [call]})
        reason = "tool_calls"
    elif chat[-1]["content"] == "vector":
        say("output", id=id, output={"type": "embedding", "embedding": [0.5, -0.25]})
    else:
        say("text", id=id, text=json.dumps(chat))
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    say("finished", id=id, finish_reason=reason, usage=usage, timings={"prefill_ms": 1.0, "decode_ms": 1.0})
"#;

fn home_with_engine() -> TestHome {
    TestHome::new().config("").engine_in_python("", ENGINE)
}

#[test]
fn calls_of_tools_are_told_kept_and_part_of_the_conversation() {
    let home = home_with_engine();
    let calls = json!({"type": "tool_calls", "tool_calls": [call()]});
    let output = json!([{"type": "reasoning", "text": "Hm."}, calls]);
    let mut request = run(&json!([{"role": "user", "content": "Rain?"}]));
    request["tools"] = tools();
    request["session"] = "trip".into();
    let mut client = home.connect();
    let end = client.ask(&request).pop().unwrap();
    assert_eq!((&end["output"], &end["finish_reason"]), (&output, &json!("tool_calls")), "{end}");
    let job = end["job"].as_str().unwrap();

    let told = home.run(["result", job, "--json"]).expect(0).json();
    assert_eq!((&told["output"], &told["text"]), (&output, &json!("")));
    assert_eq!(told["artifacts"], json!(["result.txt", "output.json"]));
    for command in ["result", "follow"] {
        let line: Value = home.run([command, job]).expect(0).json();
        assert_eq!(line, calls, "{command}");
    }
    let refused = home.run(["--detach", &format!("Why? {{{{result:{job}}}}}")]).expect(0).stdout;
    let failed = home.run(["wait", refused.trim()]).expect(6).stderr;
    assert!(failed.contains("its answer is not text (reasoning and tool_calls)"), "{failed}");

    let result = json!([{"role": "tool", "content": "rain", "tool_call_id": "c1"}]);
    let mut next = run(&result);
    next["session"] = "trip".into();
    let heard: Value = serde_json::from_str(&Frames::text(&client.ask(&next))).unwrap();
    let answered = json!({"role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [call()]});
    assert_eq!(heard, json!([{"role": "user", "content": "Rain?"}, answered, result[0]]));
    let shown = home.run(["sessions", "show", "trip"]).expect(0).stdout;
    assert!(shown.contains("[weather({})]"), "{shown}");
    let exported = home.run(["sessions", "export", "trip"]).expect(0).json();
    assert_eq!(exported["messages"][1], answered);
}

#[test]
fn a_vector_is_an_answer() {
    let home = home_with_engine();
    let vector = json!({"type": "embedding", "embedding": [0.5, -0.25]});
    assert_eq!(home.run(["vector"]).expect(0).json(), vector);
    let answer = home.run(["vector", "--json"]).expect(0).json();
    assert_eq!((&answer["output"], &answer["text"]), (&json!([vector]), &json!("")));
    let lines = home.run_with_input(["batch", "-"], b"{\"prompt\": \"vector\"}\n").expect(0);
    assert_eq!(lines.json()["output"], json!([vector]));
}
