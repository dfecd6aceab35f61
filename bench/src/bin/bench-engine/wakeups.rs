//! What a token costs besides the forward pass: how often the threads of each process wait and are
//! preempted for it, and how much processor time each process uses.

use std::path::Path;
use std::process::Stdio;
use std::sync::Barrier;
use std::thread;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::json;
use threadrunner_bench::process::Usage;
use threadrunner_bench::server::{Server, exchange};
use threadrunner_bench::text::Text;
use threadrunner_bench::{Series, Table, settle};

/// The title of the table.
pub(crate) const TITLE: &str = "Switches and processor time a token";

/// Tokens in each prompt and answer.
const PROMPT: usize = 15;
const ANSWER: u32 = 128;
/// Room for the largest number of clients and their requests.
const CONFIG: &str = "[engine]\nsequences = 32\ncontext = 8192\nprefix_cache = false\n";

/// How the clients ask.
#[derive(Clone, Copy)]
enum Way {
    /// This many clients on the socket, which get each token.
    Streaming(usize),
    /// One client that wants the whole answer at once.
    Whole,
    /// One client that submits a job and waits for its end.
    Detached,
    /// The `threadrunner` command.
    CommandLine,
}

/// Prints the table.
pub(crate) fn count(model: &Path, rounds: usize) {
    let server = Server::start(model, CONFIG);
    let columns = ["who asks", "process", "waits", "interruptions", "processor time, ms"];
    let table = Table::new(TITLE, &columns);
    for (title, way) in [
        ("one client, streaming", Way::Streaming(1)),
        ("one, `\"stream\": false`", Way::Whole),
        ("one job, submitted and waited for", Way::Detached),
        ("`threadrunner PROMPT`", Way::CommandLine),
        ("8 clients, streaming", Way::Streaming(8)),
        ("32 clients, streaming", Way::Streaming(32)),
    ] {
        // For the daemon, the engine and the client, each figure divided by the tokens.
        let mut figures: [[Series; 3]; 3] = Default::default();
        for round in 0..rounds {
            settle();
            let before = server.pids().map(Usage::of_process);
            let (tokens, client) = way.ask(&server, round);
            let after = server.pids().map(Usage::of_process);
            let [daemon, engine] = [after[0] - before[0], after[1] - before[1]];
            for (series, used) in figures.iter_mut().zip([daemon, engine, client]) {
                series[0].push(used.voluntary as f64 / tokens as f64);
                series[1].push(used.involuntary as f64 / tokens as f64);
                series[2].push(used.cpu_ms / tokens as f64);
            }
        }
        for (process, series) in ["daemon", "engine", "client"].into_iter().zip(&figures) {
            let [waits, interruptions, time] = series.each_ref().map(Series::to_string);
            table.row(&[title.into(), process.into(), waits, interruptions, time]);
        }
    }
    table.end();
}

impl Way {
    /// Asks. Returns the tokens in the answers and what the clients used.
    fn ask(self, server: &Server, round: usize) -> (u64, Usage) {
        let prompt = |client: usize| Text::new((round * 100 + client) as u64).prose(PROMPT);
        match self {
            Self::Streaming(clients) => {
                let prompts: Vec<_> = (0..clients).map(prompt).collect();
                streaming(server, &prompts)
            }
            Self::Whole => {
                let mut request = server.request(&prompt(40), ANSWER);
                request["stream"] = json!(false);
                let mut frames = server.connect();
                let before = Usage::of_this_thread();
                let tokens = exchange(&mut frames, &request).tokens();
                (tokens, Usage::of_this_thread() - before)
            }
            Self::Detached => {
                let mut request = server.request(&prompt(50), ANSWER);
                request["op"] = json!("submit");
                request["id"] = json!(1);
                let mut frames = server.connect();
                let before = Usage::of_this_thread();
                let job = frames.ask(&request)[0]["data"]["job"].clone();
                let ended = frames.ask(&json!({"v": 1, "id": 1, "op": "wait", "job": job}));
                let used = Usage::of_this_thread() - before;
                (completion_tokens(&ended[0]["data"]), used)
            }
            Self::CommandLine => command_line(server, &prompt(60)),
        }
    }
}

fn streaming(server: &Server, prompts: &[String]) -> (u64, Usage) {
    let together = Barrier::new(prompts.len());
    let client = |prompt: &String| {
        let (mut frames, request) = (server.connect(), server.request(prompt, ANSWER));
        together.wait();
        let before = Usage::of_this_thread();
        let tokens = exchange(&mut frames, &request).tokens();
        (tokens, Usage::of_this_thread() - before)
    };
    thread::scope(|scope| {
        let clients: Vec<_> =
            prompts.iter().map(|prompt| scope.spawn(move || client(prompt))).collect();
        clients.into_iter().fold((0, Usage::default()), |(tokens, mut used), client| {
            let (own, of_client) = client.join().expect("an answer");
            used += of_client;
            (tokens + own, used)
        })
    })
}

/// The whole command, including its start.
fn command_line(server: &Server, prompt: &str) -> (u64, Usage) {
    let answer = ANSWER.to_string();
    let mut child = server
        .home()
        .threadrunner(["run", "--raw", "--temperature", "0", "--max-tokens", &answer, prompt])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("threadrunner can be started");
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    // After it has ended and before it is reaped, everything it used is counted.
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("it ends");
    let used = Usage::of_process(child.id());
    assert!(child.wait().expect("it has ended").success(), "threadrunner failed");
    let last = server.connect().ask(&json!({"v": 1, "id": 1, "op": "job", "job": "last"}));
    (completion_tokens(&last[0]["data"]), used)
}

/// Reads the count from a job's record.
fn completion_tokens(record: &serde_json::Value) -> u64 {
    record["usage"]["completion_tokens"].as_u64().unwrap_or_else(|| panic!("{record}"))
}
