//! The sides measured in turn: the daemon, or llama-server with some arguments. Only one runs at a
//! time.

use std::path::Path;
use std::sync::{Mutex, OnceLock};

use threadrunner_bench::llama_server::LlamaServer;
use threadrunner_bench::process::peak_resident;
use threadrunner_bench::server::Server;
use threadrunner_bench::text::Text;
use threadrunner_bench::work::{Answered, Ask, Runtime};

use crate::guard::Guard;

/// A configuration of llama-server.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its arguments besides model, address and threads; empty for its defaults.
    pub(crate) arguments: String,
    /// How many requests to keep under way, for work whose clients limit that.
    pub(crate) at_a_time: usize,
}

impl Peer {
    /// The name in the tables.
    pub(crate) fn name(&self) -> &str {
        if self.arguments.is_empty() { "defaults" } else { &self.arguments }
    }
}

/// A running side with the model loaded; ends on drop.
pub(crate) struct Side {
    running: Running,
    /// The largest memory of our other processes, in bytes.
    beside: Mutex<f64>,
    /// The peak memory, in MB, once it has been read.
    peak: OnceLock<f64>,
    /// Dropped after `running`, whose processes end first.
    _guard: Guard,
}

enum Running {
    Ours(Server),
    Theirs(LlamaServer, Peer),
}

impl Running {
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Ours(server) => server.pids().to_vec(),
            Self::Theirs(server, _) => vec![server.pid()],
        }
    }
}

impl Side {
    /// Starts the daemon with this `config.toml`.
    pub(crate) fn ours(model: &Path, config: &str) -> Self {
        Self::of(Running::Ours(Server::start(model, config)))
    }

    /// Starts llama-server.
    pub(crate) fn theirs(program: &Path, model: &Path, peer: &Peer) -> Self {
        let arguments: Vec<_> = peer.arguments.split_whitespace().map(str::to_owned).collect();
        let server = LlamaServer::start(program, model, &arguments);
        Self::of(Running::Theirs(server, peer.clone()))
    }

    fn of(running: Running) -> Self {
        let guard = Guard::of(&running.pids());
        let beside = Mutex::new(0.0);
        let side = Self { running, beside, peak: OnceLock::new(), _guard: guard };
        // A first request does what only the first forward pass has to.
        let warm = side.ask(&Ask::new(Text::new(0).prose(20), 16));
        assert!(warm.is_some(), "no answer to the first request");
        side
    }

    /// The daemon, or else llama-server's configuration.
    pub(crate) fn as_ours(&self) -> Result<&Server, &Peer> {
        match &self.running {
            Running::Ours(server) => Ok(server),
            Running::Theirs(_, peer) => Err(peer),
        }
    }

    /// Counts the memory of another process of ours, such as a command.
    pub(crate) fn also_counts(&self, pid: u32) {
        let mut most = self.beside.lock().expect("no thread panicked");
        *most = most.max(peak_resident(pid).unwrap_or_default());
    }

    /// The sum of its processes' peak memory, in MB; they need not peak at the same time.
    pub(crate) fn peak(&self) -> f64 {
        *self.peak.get_or_init(|| {
            let processes: f64 = self.running.pids().into_iter().filter_map(peak_resident).sum();
            (processes + *self.beside.lock().expect("no thread panicked")) / 1e6
        })
    }

    /// Ends it while requests are under way; those get no answer.
    pub(crate) fn abandon(&self) {
        self.peak();
        match &self.running {
            Running::Ours(server) => server.abandon(),
            Running::Theirs(server, _) => server.abandon(),
        }
    }
}

impl Runtime for Side {
    fn ask(&self, ask: &Ask) -> Option<Answered> {
        match &self.running {
            Running::Ours(server) => server.ask(ask),
            Running::Theirs(server, _) => server.ask(ask),
        }
    }
}
