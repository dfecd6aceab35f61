//! One connection, many requests, against a daemon played by the test.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod number;

use std::path::Path;

use bytes::BytesMut;
use serde_json::{Value, json};
use tempfile::TempDir;
use threadrunner_client::{Client, Daemon, Replies};
use threadrunner_core::protocol::{Op, Progress, ReplyBody, Submission};
use threadrunner_core::{ErrorCode, Failure, decode_frame, encode_frame};
use threadrunner_home::Home;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use self::number::Number;

/// The daemon's end of a connection.
struct Peer {
    stream: UnixStream,
    unread: BytesMut,
}

impl Peer {
    fn pair() -> (Client, Self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let peer = Self { stream: theirs, unread: BytesMut::new() };
        (Client::new(ours, Path::new("/home/cache")), peer)
    }

    async fn request(&mut self) -> Value {
        loop {
            if let Some(request) = decode_frame(&mut self.unread).unwrap() {
                return request;
            }
            assert_ne!(self.stream.read_buf(&mut self.unread).await.unwrap(), 0, "client is gone");
        }
    }

    async fn say(&mut self, frame: Value) {
        let mut bytes = BytesMut::new();
        encode_frame(&frame, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }
}

fn run(prompt: &str) -> Op {
    Op::Run(Box::new(Submission { prompt: prompt.into(), ..Submission::default() }))
}

fn end(id: &Value) -> Value {
    json!({
        "id": id, "token": null, "eos": true, "job": "17_1", "model": "dummy",
        "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "timings": {"prefill_ms": 1.0, "decode_ms": 2.0},
    })
}

async fn failure(mut replies: Replies) -> Failure {
    loop {
        if let Err(failure) = replies.next().await {
            return failure;
        }
    }
}

#[tokio::test]
async fn answers_side_by_side_reach_those_who_asked() {
    let (client, mut peer) = Peer::pair();
    let mut first = client.request(run("one")).await.unwrap();
    let mut second = client.request(run("two")).await.unwrap();
    let (a, b) = (peer.request().await, peer.request().await);
    assert_eq!((a["v"].as_u64(), a["op"].as_str()), (Some(1), Some("run")));
    assert_ne!(a["id"], b["id"]);
    peer.say(json!({"id": b["id"], "token": "second", "eos": false})).await;
    peer.say(json!({"id": a["id"], "token": "first", "eos": false})).await;
    peer.say(end(&a["id"])).await;
    let token = |text: &str| ReplyBody::Token { token: text.into(), eos: false };
    assert_eq!(first.next().await.unwrap(), token("first"));
    assert!(matches!(first.next().await.unwrap(), ReplyBody::End(_)));
    assert_eq!(second.next().await.unwrap(), token("second"));
}

#[tokio::test]
async fn a_daemon_that_vanishes_is_reported_with_the_job_and_the_log() {
    let (client, mut peer) = Peer::pair();
    let mut replies = client.request(run("hi")).await.unwrap();
    let id = peer.request().await["id"].clone();
    peer.say(json!({"id": id, "event": "accepted", "job": "1736700000123456_7"})).await;
    peer.say(json!({"id": id, "token": "Hel", "eos": false})).await;
    drop(peer);
    let accepted = replies.next().await.unwrap();
    assert!(matches!(accepted, ReplyBody::Event(Progress::Accepted { .. })));
    assert!(matches!(replies.next().await.unwrap(), ReplyBody::Token { .. }));
    let failure = replies.next().await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::ConnectionLost);
    assert!(failure.message.contains("1736700000123456_7"), "{failure}");
    assert!(failure.hint.unwrap().contains("/home/cache"));
    let after = client.request(Op::Ps).await.map(|_| ()).unwrap_err();
    assert_eq!(after.code, ErrorCode::ConnectionLost);
}

#[tokio::test]
async fn half_a_frame_and_then_nothing_is_a_lost_connection() {
    let (client, mut peer) = Peer::pair();
    let replies = client.request(run("hi")).await.unwrap();
    peer.request().await;
    peer.stream.write_all(b"\xff\0\0\0{\"tok").await.unwrap();
    drop(peer);
    assert_eq!(failure(replies).await.code, ErrorCode::ConnectionLost);
}

#[tokio::test]
async fn garbage_is_reported_as_such_to_everybody() {
    for garbage in [&b"\x05\0\0\0hello"[..], b"HTTP/1.1 400", b"\x02\0\0\0[]"] {
        let (client, mut peer) = Peer::pair();
        let first = client.request(run("one")).await.unwrap();
        let second = client.request(run("two")).await.unwrap();
        peer.request().await;
        peer.request().await;
        peer.stream.write_all(garbage).await.unwrap();
        assert_eq!(failure(first).await.code, ErrorCode::BadFrame);
        assert_eq!(failure(second).await.code, ErrorCode::BadFrame);
    }
}

#[tokio::test]
async fn an_error_about_the_connection_reaches_all_its_requests() {
    let (client, mut peer) = Peer::pair();
    let first = client.request(run("one")).await.unwrap();
    let second = client.request(run("two")).await.unwrap();
    peer.request().await;
    peer.request().await;
    let refusal = json!({
        "error": "too many connections", "error_type": "Unknown", "code": "overloaded",
        "retryable": true,
    });
    peer.say(refusal).await;
    assert_eq!(failure(first).await.code, ErrorCode::Overloaded);
    assert_eq!(failure(second).await.code, ErrorCode::Overloaded);
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_a_long_request_is_still_heard() {
    let (client, mut peer) = Peer::pair();
    // More than the socket's buffers hold, so it is not fully written when it is refused.
    let replies = client.request(run(&"long ".repeat(1 << 20))).await.unwrap();
    let refusal = json!({
        "error": "no", "error_type": "Unknown", "code": "overloaded", "retryable": true,
    });
    peer.say(refusal).await;
    drop(peer);
    assert_eq!(failure(replies).await.code, ErrorCode::Overloaded);
}

#[tokio::test]
async fn an_answer_that_was_dropped_holds_up_nobody() {
    let (client, mut peer) = Peer::pair();
    let unwanted = client.request(run("unwanted")).await.unwrap();
    let status = client.request(Op::Ps).await.unwrap();
    let (a, b) = (peer.request().await, peer.request().await);
    let talk = tokio::spawn(async move {
        for _ in 0..10_000 {
            peer.say(json!({"id": a["id"], "token": "x", "eos": false})).await;
        }
        peer.say(json!({"id": b["id"], "data": 7})).await;
        peer
    });
    drop(unwanted);
    assert_eq!(status.into_answer::<Number>().await.unwrap(), 7);
    talk.await.unwrap();
}

#[tokio::test]
async fn the_connection_closes_when_nobody_wants_it_any_more() {
    let (client, mut peer) = Peer::pair();
    let replies = client.request(run("hi")).await.unwrap();
    peer.request().await;
    drop(client);
    drop(replies);
    assert_eq!(peer.stream.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_prompt_too_long_for_a_frame_is_refused_before_it_is_sent() {
    let (client, _peer) = Peer::pair();
    let failure = client.request(run(&"x".repeat(65 << 20))).await.map(|_| ()).unwrap_err();
    assert_eq!(failure.code, ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn a_value_of_another_kind_is_refused() {
    let (client, mut peer) = Peer::pair();
    let job = tokio::spawn(async move { client.call(Number).await });
    let id = peer.request().await["id"].clone();
    peer.say(json!({"id": id, "data": "seven"})).await;
    assert_eq!(job.await.unwrap().unwrap_err().code, ErrorCode::BadFrame);
}

#[tokio::test]
async fn where_the_socket_is_missing_or_dead_no_daemon_runs() {
    let dir = TempDir::new().unwrap();
    let home = Home::resolve(Path::new("/"), |name| {
        (name == "THREADRUNNER_HOME").then(|| dir.path().as_os_str().to_owned())
    })
    .unwrap();
    let daemon = Daemon::new(home.clone());
    assert!(daemon.connect().await.unwrap().is_none());
    home.create().unwrap();
    drop(UnixListener::bind(&home.socket).unwrap());
    assert!(home.socket.exists());
    assert!(daemon.connect().await.unwrap().is_none());
}
