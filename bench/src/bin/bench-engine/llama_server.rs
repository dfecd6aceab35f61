//! llama.cpp's own server, as a peer: started for the comparison, asked over HTTP.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::work::{Answered, Ask, Runtime};

/// A running server; it ends with this value.
pub(crate) struct LlamaServer {
    child: Child,
    address: String,
    agent: ureq::Agent,
}

impl LlamaServer {
    /// Starts `program` with as many slots as this, and waits until the model is loaded.
    pub(crate) fn start(program: &Path, model: &Path, slots: u32, context: u32) -> Self {
        // Free now, and nobody else's in the moment until the server takes it.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = format!("http://{}", port.expect("a free port"));
        let port = address.rsplit(':').next().expect("a port");
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut child = Command::new(program)
            .arg("--model")
            .arg(model)
            .args(["--host", "127.0.0.1", "--port", port])
            .args(["--parallel", &slots.to_string(), "--ctx-size", &context.to_string()])
            // One cache for all slots, as ours: each may be as long as there is room.
            .arg("--kv-unified")
            .args(["--threads", &threads.to_string(), "--log-disable"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("llama-server starts");
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).build().into();
        loop {
            if let Ok(answer) = agent.get(format!("{address}/health")).call()
                && answer.status() == 200
            {
                return Self { child, address, agent };
            }
            assert!(child.try_wait().expect("its state").is_none(), "llama-server has ended");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        // Nothing of it is kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Runtime for LlamaServer {
    fn ask(&self, ask: &Ask<'_>) -> Answered {
        let sent = Instant::now();
        let body = json!({
            "prompt": ask.prompt, "n_predict": ask.answer, "temperature": 0.0, "stream": true,
        });
        let mut answer = self
            .agent
            .post(format!("{}/completion", self.address))
            .content_type("application/json")
            .send(body.to_string())
            .expect("llama-server answers");
        assert_eq!(answer.status(), 200, "llama-server refused");
        let mut first = None;
        for line in BufReader::new(answer.body_mut().as_reader()).lines() {
            let line = line.expect("a line of the answer");
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let event: Value = serde_json::from_str(data).expect("an event is JSON");
            assert!(event.get("error").is_none(), "{event}");
            if event["content"].as_str().is_some_and(|text| !text.is_empty()) {
                first.get_or_insert_with(Instant::now);
            }
            if event["stop"] == true {
                let end = Instant::now();
                let tokens = event["tokens_predicted"].as_u64().expect("a count of tokens");
                return Answered { sent, first: first.unwrap_or(end), end, tokens };
            }
        }
        panic!("llama-server's answer has no end");
    }
}
