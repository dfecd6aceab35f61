use super::*;
use serde_json::json;

fn parse(value: &Value) -> Result<Request, (Option<RequestId>, Failure)> {
    Request::parse(value.to_string().as_bytes())
}

fn reply(value: Value) -> Reply {
    let reply: Reply = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&reply).unwrap(), value);
    reply
}

#[test]
fn the_simplest_form_is_a_prompt() {
    let request = parse(&json!({"v": 1, "prompt": "Hello", "stream": true})).unwrap();
    assert_eq!(request.id, None);
    let Op::Simple(submission) = request.op else { panic!("{request:?}") };
    assert_eq!((submission.prompt.as_str(), submission.stream), ("Hello", Some(true)));
}

#[test]
fn an_unknown_version_is_answered_with_those_spoken_and_the_id() {
    for v in [json!(0), json!(2), json!("1"), Value::Null] {
        let (id, failure) = parse(&json!({"v": v, "id": "x", "op": "ps"})).unwrap_err();
        assert_eq!(id, Some(RequestId::Text("x".into())));
        assert_eq!(failure.code, ErrorCode::UnsupportedVersion);
        assert!(failure.message.contains("[1]"), "{failure}");
    }
}

#[test]
fn stop_is_understood_in_every_version() {
    let request = parse(&json!({"v": 99, "op": "stop"})).unwrap();
    assert_eq!(request.op, Op::Stop(StopQuery { now: false }));
}

#[test]
fn what_is_no_request_is_named() {
    for (frame, code) in [
        (&b"\xff\xfe"[..], ErrorCode::BadFrame),
        (b"[]", ErrorCode::BadFrame),
        (b"", ErrorCode::BadFrame),
        (b"{\"v\":1}", ErrorCode::InvalidRequest),
        (b"{\"v\":1,\"op\":\"sing\"}", ErrorCode::InvalidRequest),
        (b"{\"v\":1,\"op\":7}", ErrorCode::InvalidRequest),
        (b"{\"v\":1,\"prompt\":7}", ErrorCode::InvalidRequest),
        (b"{\"v\":1,\"id\":{},\"op\":\"ps\"}", ErrorCode::InvalidRequest),
    ] {
        let (_, failure) = Request::parse(frame).unwrap_err();
        assert_eq!(failure.code, code, "{}", String::from_utf8_lossy(frame));
    }
}

/// Golden frames: add to them, but never edit them, because version 1 clients rely on their shape.
#[test]
fn replies_keep_their_shape() {
    let token = reply(json!({"token": "Hi", "eos": false}));
    assert!(matches!(token.body, ReplyBody::Token { .. }));
    let end = reply(json!({
        "id": 1, "token": null, "eos": true, "job": "1736700000123456_1", "model": "dummy",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 0},
        "timings": {"queue_ms": 0.5, "load_ms": 0.0, "prefill_ms": 1.0, "decode_ms": 2.0, "total_ms": 3.5},
    }));
    assert!(matches!(end.body, ReplyBody::End(_)));
    let error = reply(json!({
        "error": "no", "error_type": "ModelLoad", "code": "model_not_found", "retryable": false,
    }));
    assert!(matches!(error.body, ReplyBody::Error(_)));
    let event = reply(json!({"id": 1, "event": "queued", "position": 3}));
    assert_eq!(event.body, ReplyBody::Event(Progress::Queued { position: 3 }));
    let data = reply(json!({"id": "a", "data": {"job": "1"}}));
    assert!(matches!(data.body, ReplyBody::Data { .. }));
}

#[test]
fn null_is_what_was_left_out_and_what_is_wrong_is_named() {
    let request =
        parse(&json!({"v": 1, "op": null, "prompt": "Hi", "messages": null, "raw": null}));
    let Op::Simple(submission) = request.unwrap().op else { panic!("it is a prompt") };
    assert_eq!(*submission, Submission { prompt: "Hi".into(), ..Submission::default() });
    for (value, said) in [
        (json!({"v": 1, "messages": null, "prompt": 5}), "\"prompt\": must be a text, not 5"),
        (
            json!({"v": 1, "op": "run", "prompt": "x", "seed": "7"}),
            "\"seed\": must be a whole number",
        ),
        (json!({"v": 1, "op": "stop", "now": "yes"}), "\"now\": must be true or false, not a text"),
        (json!({"v": 1, "op": "job"}), "\"job\" is missing"),
        (json!({"v": 1, "op": "cancel"}), "\"job\" is missing"),
        (json!({"op": "nosuch", "v": 1, "id": 9}), "\"op\": must be one of \"run\", "),
        (json!({"v": 1, "op": 5}), "\"op\": must be a text"),
    ] {
        let (_, failure) = parse(&value).unwrap_err();
        assert!(failure.message.starts_with(said), "{value}: {failure}, not {said}");
        assert_eq!(failure.code, ErrorCode::InvalidRequest);
    }
}
