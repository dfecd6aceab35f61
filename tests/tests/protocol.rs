//! Clients that speak only frames, well or badly.

use serde_json::{Value, json};
use threadrunner_tests::{Frames, TestHome, eventually};

const ANSWER: &str = "lorem ipsum dolor sit amet Hello.";

#[test]
fn the_simplest_client_gets_tokens_and_an_end() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20}));
    let frames = home.connect().ask(&json!({"v": 1, "prompt": "Hello", "stream": true}));
    assert_eq!(Frames::text(&frames), ANSWER);
    let (last, tokens) = frames.split_last().unwrap();
    assert!(tokens.iter().all(|frame| frame["eos"] == false && frame["token"].is_string()));
    assert_eq!((&last["token"], &last["eos"]), (&Value::Null, &json!(true)));
    assert_eq!(last["finish_reason"], "stop");
    assert!(tokens.len() > 1, "{frames:?}");
}

#[test]
fn without_streaming_the_text_comes_in_one_frame() {
    let home = TestHome::new();
    let frames = home.connect().ask(&json!({"v": 1, "prompt": "Hello", "stream": false}));
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(frames[0], json!({"token": ANSWER, "eos": false}));
}

#[test]
fn requests_without_an_id_are_answered_one_after_the_other() {
    let home = TestHome::new();
    let mut client = home.connect();
    for prompt in ["one", "two", "three"] {
        client.send(&json!({"v": 1, "prompt": prompt}));
    }
    for prompt in ["one", "two", "three"] {
        let text = Frames::text(&client.answer());
        assert!(text.ends_with(&format!(" {prompt}.")), "{text}");
    }
}

#[test]
fn requests_with_an_id_run_side_by_side_on_one_connection() {
    let home = TestHome::new().dummy(&json!({"step_ms": 5}));
    let mut client = home.connect();
    for id in 0..4 {
        client.send(&json!({"v": 1, "id": id, "op": "run", "prompt": format!("p{id}")}));
    }
    let mut texts = vec![String::new(); 4];
    let mut order = Vec::new();
    let mut open = 4;
    while open > 0 {
        let frame = client.receive().unwrap();
        let id = usize::try_from(frame["id"].as_u64().unwrap()).unwrap();
        if let Some(token) = frame["token"].as_str() {
            texts[id].push_str(token);
            order.push(id);
        }
        open -= usize::from(frame["eos"] == true);
    }
    for (id, text) in texts.iter().enumerate() {
        assert!(text.ends_with(&format!(" p{id}.")), "{text}");
    }
    order.dedup();
    assert!(order.len() > 4, "one after the other: {order:?}");
}

#[test]
fn a_client_that_closes_its_sending_half_still_gets_its_answer() {
    let home = TestHome::new();
    let mut client = home.connect();
    client.send(&json!({"v": 1, "prompt": "Hello"}));
    client.close_sending();
    assert_eq!(Frames::text(&client.answer()), ANSWER);
    assert_eq!(client.receive(), None);
}

#[test]
fn what_is_no_request_is_answered_and_the_connection_lives_on() {
    let home = TestHome::new();
    let mut client = home.connect();
    for (bytes, code) in [
        (&b"\x00\x00\x00\x00"[..], "bad_frame"),
        (b"\x04\x00\x00\x00\xff\xfe\xfd\xfc", "bad_frame"),
        (b"\x02\x00\x00\x00[]", "bad_frame"),
        (b"\x07\x00\x00\x00{\"v\":1}", "invalid_request"),
    ] {
        client.send_bytes(bytes);
        let answer = client.answer();
        assert_eq!(answer[0]["code"], code, "{answer:?}");
        assert_eq!(answer[0]["error_type"], "Protocol");
    }
    let answer = client.ask(&json!({"v": 99, "id": "x", "op": "ps"}));
    assert_eq!(answer[0]["code"], "unsupported_version");
    assert_eq!(answer[0]["id"], "x");
    assert!(answer[0]["error"].as_str().unwrap().contains("[1]"), "{answer:?}");
    let answer = client.ask(&json!({"v": 1, "id": 1, "op": "sing"}));
    assert_eq!(answer[0]["code"], "invalid_request");
    assert_eq!(Frames::text(&client.ask(&json!({"v": 1, "prompt": "Hello"}))), ANSWER);
}

#[test]
fn an_oversized_or_half_frame_ends_its_connection_and_no_other() {
    let home = TestHome::new();
    let mut other = home.connect();
    let mut oversized = home.connect();
    oversized.send_bytes(&u32::MAX.to_le_bytes());
    assert_eq!(oversized.answer()[0]["code"], "bad_frame");
    assert_eq!(oversized.receive(), None);
    let mut half = home.connect();
    half.send_bytes(b"\x10\x00\x00\x00{\"v\"");
    half.close_sending();
    assert_eq!(half.answer()[0]["code"], "bad_frame");
    assert_eq!(half.receive(), None);
    assert_eq!(Frames::text(&other.ask(&json!({"v": 1, "prompt": "Hello"}))), ANSWER);
}

#[test]
fn values_out_of_range_are_named() {
    let home = TestHome::new();
    let mut client = home.connect();
    for (request, word) in [
        (json!({"v": 1, "prompt": "a", "temperature": -1}), "temperature"),
        (json!({"v": 1, "prompt": "a", "top_p": 2}), "top_p"),
        (json!({"v": 1, "prompt": "a", "max_tokens": 0}), "max_tokens"),
        (json!({"v": 1, "prompt": "a", "stop": [""]}), "stop"),
        (json!({"v": 1, "prompt": "a", "timeout_s": 0}), "timeout_s"),
        (json!({"v": 1, "prompt": "a", "tags": [""]}), "tag"),
        (json!({"v": 1, "prompt": "a", "raw": true, "system": "b"}), "raw"),
        (json!({"v": 1, "prompt": "a", "workspace": "nowhere"}), "nowhere"),
    ] {
        let answer = client.ask(&request);
        let error = answer[0]["error"].as_str().unwrap_or_default();
        assert!(error.contains(word), "{request}: {answer:?}");
        assert_eq!(answer[0]["code"], "invalid_request");
    }
    let answer = client.ask(&json!({"v": 1, "prompt": " \n"}));
    assert_eq!(answer[0]["code"], "empty_prompt");
}

#[test]
fn a_client_that_vanishes_cancels_what_it_waited_for() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 100_000}));
    let mut client = home.connect();
    client.send(&json!({"v": 1, "id": 1, "op": "run", "prompt": "Hello"}));
    let job = loop {
        let frame = client.receive().unwrap();
        if frame["event"] == "accepted" {
            break frame["job"].as_str().unwrap().to_owned();
        }
    };
    eventually("it runs", || (home.jobs_in("processing") == [job.as_str()]).then_some(()));
    drop(client);
    eventually("the job is canceled", || (home.jobs_in("failed") == [job.as_str()]).then_some(()));
    let record = home.connect().ask(&json!({"v": 1, "id": 1, "op": "job", "job": job}));
    assert_eq!(record[0]["data"]["status"], "canceled");
    let list = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    assert_eq!(list[0]["data"]["running"], json!([]));
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody() {
    let home = TestHome::new().dummy(&json!({"words": 200_000}));
    let mut idle = home.connect();
    idle.send(&json!({"v": 1, "id": 1, "op": "run", "prompt": "long"}));
    let frames = home.connect().ask(&json!({"v": 1, "prompt": "Hello", "max_tokens": 3}));
    assert_eq!(Frames::text(&frames), "lorem ipsum dolor");
}

#[test]
fn a_simple_client_is_told_what_kind_of_thing_went_wrong() {
    let error_type = |home: &TestHome, prompt: &str| {
        let frames = home.connect().ask(&json!({"v": 1, "prompt": prompt, "stream": true}));
        let last = frames.last().unwrap();
        (last["code"].clone(), last["error_type"].clone())
    };
    let home = TestHome::new().config("[engine]\ncontext = 64\n");
    let long = error_type(&home, &"word ".repeat(50));
    assert_eq!(long, (json!("context_exceeded"), json!("ModelLoad")));
    let home = TestHome::new().dummy(&json!({"abort_after": 2}));
    assert_eq!(error_type(&home, "Hello"), (json!("engine_died"), json!("ModelLoad")));
    let home = TestHome::new().dummy(&json!({"step_ms": 20, "words": 100_000}));
    let mut client = home.connect();
    client.send(&json!({"v": 1, "prompt": "Hello", "stream": true}));
    assert!(client.receive().unwrap()["token"].is_string());
    home.run(["daemon", "stop", "--now"]).expect(0);
    let last = client.answer().pop().unwrap();
    assert_eq!((&last["code"], &last["error_type"]), (&json!("shutting_down"), &json!("Io")));
}
