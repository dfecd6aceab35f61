//! Clients that submit, each in its own way, and one that cancels.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use serde_json::{Value, json};
use threadrunner_core::{decode_frame, encode_frame};

use super::Soak;
use super::random::Random;
use crate::Finished;
use crate::wait::PATIENCE;

/// What the dummy backend answers to such a prompt.
pub(super) fn answer(prompt: &str) -> String {
    let words: String = prompt.split(' ').map(|word| format!(" {word}.")).collect();
    format!("lorem ipsum dolor sit amet{words}")
}

/// A prompt unlike any other.
fn prompt(soak: &Soak, random: &mut Random, client: u64) -> String {
    static SENT: AtomicU64 = AtomicU64::new(0);
    let number = SENT.fetch_add(1, Ordering::Relaxed);
    let more: String = (0..random.below(30)).map(|word| format!(" w{word}")).collect();
    let prompt = format!("client{client} prompt{number}{more}");
    soak.note(|ledger| ledger.prompts.extend([prompt.clone()]));
    prompt
}

fn accepted(soak: &Soak, id: &str, prompt: String) {
    soak.note(|ledger| {
        if ledger.accepted.insert(id.to_owned(), prompt).is_some() {
            ledger.wrong.push(format!("the id {id} was given twice"));
        }
    });
}

/// Exit codes expected while daemons and engines are killed: no connection, engine died, job
/// canceled.
const EXPECTED: [i32; 3] = [2, 3, 6];

fn check(soak: &Soak, finished: &Finished) {
    if !EXPECTED.contains(&finished.code) {
        let wrong = format!("a client ended with {}: {}", finished.code, finished.stderr.trim());
        soak.note(|ledger| ledger.wrong.push(wrong));
    }
}

/// `threadrunner --detach`, one process for each prompt.
pub(super) fn detached(soak: &Soak, random: &mut Random, client: u64) {
    let prompt = prompt(soak, random, client);
    let finished = soak.home.run(["--detach", &prompt]);
    match finished.code {
        0 => accepted(soak, finished.stdout.trim(), prompt),
        _ => check(soak, &finished),
    }
}

/// `threadrunner`, waiting for the answer, one process for each prompt.
pub(super) fn attached(soak: &Soak, random: &mut Random, client: u64) {
    let prompt = prompt(soak, random, client);
    let finished = soak.home.run(["--json", &prompt]);
    if finished.code != 0 {
        return check(soak, &finished);
    }
    let said = finished.json();
    if said["text"] != answer(&prompt) {
        let wrong = format!("to {prompt:?} the client was told {:?}", said["text"]);
        soak.note(|ledger| ledger.wrong.push(wrong));
    }
    accepted(soak, said["job"].as_str().unwrap_or_default(), prompt);
}

/// Jobs as another program submits them: a directory with a prompt, renamed.
pub(super) fn renames(soak: &Soak, random: &mut Random, client: u64) {
    for number in 0..=random.below(8) {
        let prompt = prompt(soak, random, client);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let id = format!("{now:020}_{client}_{number}");
        let writing = soak.home.workspace("input/writing").join(&id);
        fs::create_dir(&writing).expect("a directory can be made");
        fs::write(writing.join("prompt.txt"), &prompt).expect("a prompt can be written");
        fs::rename(writing, soak.home.workspace("input/ready").join(&id))
            .expect("a job can be moved");
        accepted(soak, &id, prompt);
    }
}

/// Many submissions at once on one connection; any of them may be lost on the way.
pub(super) fn frames(soak: &Soak, random: &mut Random, client: u64) {
    let prompts: Vec<_> = (0..=random.below(20)).map(|_| prompt(soak, random, client)).collect();
    let requests = prompts
        .iter()
        .enumerate()
        .map(|(id, prompt)| json!({"v": 1, "id": id, "op": "submit", "prompt": prompt}));
    // The connection may end at any time; what was answered until then counts.
    let _ = talk(soak, requests, &mut |reply| {
        let prompt = reply["id"].as_u64().and_then(|id| prompts.get(usize::try_from(id).ok()?));
        let code = reply["code"].as_str();
        match (prompt, reply["data"]["job"].as_str(), code) {
            (Some(prompt), Some(id), _) => accepted(soak, id, prompt.clone()),
            (_, _, Some("shutting_down")) => {}
            _ => soak.note(|ledger| ledger.wrong.push(format!("a submission got {reply}"))),
        }
    });
}

/// Cancels one of the newest accepted jobs, whatever its state.
pub(super) fn cancels(soak: &Soak, random: &mut Random, _client: u64) {
    let mut chosen = None;
    soak.note(|ledger| {
        let place = usize::try_from(random.below(50)).unwrap_or(0);
        chosen = ledger.accepted.keys().rev().nth(place).cloned();
        ledger.canceled.extend(chosen.clone());
    });
    let Some(id) = chosen else { return };
    let request = json!({"v": 1, "id": 1, "op": "cancel", "job": id});
    let _ = talk(soak, [request], &mut |reply| {
        let refused = ["wrong_state", "shutting_down"];
        let expected = reply["data"]["job"] == id.as_str()
            || reply["code"].as_str().is_some_and(|code| refused.contains(&code));
        if !expected {
            soak.note(|ledger| ledger.wrong.push(format!("canceling {id} got {reply}")));
        }
    });
}

/// Sends requests with ids and passes on the last frame of each answer, until the connection ends.
fn talk(
    soak: &Soak,
    requests: impl IntoIterator<Item = Value>,
    hear: &mut dyn FnMut(&Value),
) -> io::Result<()> {
    let mut stream = UnixStream::connect(soak.home.socket())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bytes = BytesMut::new();
    let mut open = 0;
    for request in requests {
        encode_frame(&request, &mut bytes).expect("a request is a frame");
        open += 1;
    }
    stream.write_all(&bytes)?;
    bytes.clear();
    let mut chunk = [0; 4096];
    while open > 0 {
        while let Some(reply) = decode_frame::<Value>(&mut bytes).expect("the daemon sends frames")
        {
            if reply.get("data").is_some() || reply.get("error").is_some() {
                hear(&reply);
                open -= 1;
            }
        }
        if open == 0 {
            break;
        }
        match stream.read(&mut chunk)? {
            0 => break,
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(())
}
