//! llama.cpp's own server as the peer: starts it and asks it over HTTP.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::work::{Answered, Ask, Runtime};

/// A running llama-server; killed on drop.
#[derive(Debug)]
pub struct LlamaServer {
    child: Child,
    port: u16,
}

impl LlamaServer {
    /// Starts `program` with these additional arguments and waits until the model is loaded.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(program: &Path, model: &Path, arguments: &[String]) -> Self {
        // Free now; nothing else is expected to take it before the server does.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let port = port.expect("a free port").port();
        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut child = Command::new(program)
            .arg("--model")
            .arg(model)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--threads", &threads.to_string(), "--log-disable"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("llama-server starts");
        while !is_ready(port).unwrap_or(false) {
            assert!(child.try_wait().expect("its state").is_none(), "llama-server has ended");
            thread::sleep(Duration::from_millis(20));
        }
        Self { child, port }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it while requests are under way; those get no answer.
    pub fn abandon(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        // `drop` kills and reaps it again.
        let _ = rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::KILL);
    }

    fn completion(&self, ask: &Ask) -> io::Result<Answered> {
        let body = json!({
            "prompt": ask.prompt, "n_predict": ask.answer, "temperature": 0.0, "stream": true,
        });
        let sent = Instant::now();
        let mut answer = request(self.port, "POST /completion", &body.to_string())?;
        let mut pieces = Vec::with_capacity(ask.answer as usize);
        loop {
            let event = answer.event()?;
            if event["content"].as_str().is_some_and(|text| !text.is_empty()) {
                pieces.push(Instant::now());
            }
            if event["stop"] == true {
                let count = |key: &str| event[key].as_u64().unwrap_or_default();
                let (prompt_tokens, tokens) =
                    (count("tokens_evaluated"), count("tokens_predicted"));
                return Ok(Answered { sent, pieces, end: Instant::now(), prompt_tokens, tokens });
            }
        }
    }
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        // It keeps no data, and may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Runtime for LlamaServer {
    fn ask(&self, ask: &Ask) -> Option<Answered> {
        self.completion(ask).ok()
    }
}

fn is_ready(port: u16) -> io::Result<bool> {
    Ok(request(port, "GET /health", "").is_ok())
}

/// An answer that arrives in pieces.
///
/// The benchmark's client shares the processors being measured, so this reads only what this one
/// server sends, not HTTP in general, and does as little work a token as our own side's client.
struct Answer {
    stream: BufReader<TcpStream>,
    line: String,
}

/// Sends a request. A status other than 200 is an error.
fn request(port: u16, what: &str, body: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    let length = body.len();
    let request = format!(
        "{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Answer { stream: BufReader::new(stream), line: String::new() };
    let status = answer.line()?;
    if status.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(status.to_owned()));
    }
    while !answer.line()?.is_empty() {}
    Ok(answer)
}

impl Answer {
    /// The next line, without its line ending.
    fn line(&mut self) -> io::Result<&str> {
        self.line.clear();
        if self.stream.read_line(&mut self.line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.line.trim_end())
    }

    /// The next event. The server sends each event whole: a line with the chunk's length, then a
    /// line with `data: ` and JSON.
    fn event(&mut self) -> io::Result<Value> {
        loop {
            let line = self.line()?;
            if let Some(error) = line.strip_prefix("error: ") {
                return Err(io::Error::other(error.to_owned()));
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let event: Value = serde_json::from_str(data)?;
            return match event.get("error") {
                Some(error) => Err(io::Error::other(error.to_string())),
                None => Ok(event),
            };
        }
    }
}
