//! Engines in Python, which say what no engine of ours does.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::{TestHome, program};

/// How such a program begins: it executes the real engine unless its first frame has `OWN`.
const BEGINNING: &str = r#"#!/usr/bin/env python3
import json, os, socket, struct, sys, time

daemon = socket.socket(fileno=os.dup(0))
if OWN not in daemon.recv(65536, socket.MSG_PEEK):
    os.execv(REAL, [REAL])
stream = daemon.makefile("rb")

def hear():
    head = stream.read(4)
    if len(head) < 4:
        os._exit(0)
    return json.loads(stream.read(struct.unpack("<I", head)[0]))

def say(event, **keys):
    data = json.dumps({"event": event, **keys}).encode()
    daemon.sendall(struct.pack("<I", len(data)) + data)

"#;

impl TestHome {
    /// Sets an engine in Python, whose `hear()` returns the next command and whose `say(event, ...)`
    /// sends an event. Loads whose frame does not contain `own` go to the real engine; all contain
    /// the empty text.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn engine_in_python(self, own: &str, program_text: &str) -> Self {
        let real = program("threadrunner-engine").display().to_string();
        let beginning =
            BEGINNING.replace("OWN", &format!("b{own:?}")).replace("REAL", &format!("{real:?}"));
        let engine = self.root().join("engine");
        fs::write(&engine, beginning + program_text).expect("a home can be written to");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&engine, executable).expect("a file of ours can be made executable");
        self.with("THREADRUNNER_ENGINE", &engine)
    }
}
