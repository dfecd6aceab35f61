//! What is measured in turn: the daemon, or llama-server with some arguments. One lives at a time.

use std::path::Path;
use std::sync::{Mutex, OnceLock};

use threadrunner_bench::llama_server::LlamaServer;
use threadrunner_bench::process::peak_resident;
use threadrunner_bench::server::Server;
use threadrunner_bench::text::Text;
use threadrunner_bench::work::{Answered, Ask, Runtime};

use crate::guard::Guard;

/// How llama-server is started.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its arguments beside model, address and threads; none of them: its defaults.
    pub(crate) arguments: String,
    /// Requests at a time, where its clients have to see to that.
    pub(crate) at_a_time: usize,
}

impl Peer {
    /// For the tables.
    pub(crate) fn name(&self) -> &str {
        if self.arguments.is_empty() { "defaults" } else { &self.arguments }
    }
}

/// A side that runs, with the model loaded. It ends with this value.
pub(crate) struct Side {
    running: Running,
    /// Memory of further processes of ours, of which the most counts.
    beside: Mutex<f64>,
    /// The most memory of one that has been abandoned.
    peak: OnceLock<f64>,
    /// After the processes: they end before it does.
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
    /// The daemon with this `config.toml`.
    pub(crate) fn ours(model: &Path, config: &str) -> Self {
        Self::of(Running::Ours(Server::start(model, config)))
    }

    /// llama-server.
    pub(crate) fn theirs(program: &Path, model: &Path, peer: &Peer) -> Self {
        let arguments: Vec<_> = peer.arguments.split_whitespace().map(str::to_owned).collect();
        let server = LlamaServer::start(program, model, &arguments);
        Self::of(Running::Theirs(server, peer.clone()))
    }

    fn of(running: Running) -> Self {
        let guard = Guard::of(&running.pids());
        let beside = Mutex::new(0.0);
        let side = Self { running, beside, peak: OnceLock::new(), _guard: guard };
        // What a first pass makes and nobody waits for again.
        let warm = side.ask(&Ask::new(Text::new(0).prose(20), 16));
        assert!(warm.is_some(), "no answer to the first request");
        side
    }

    /// The daemon, where it is that; llama-server's configuration otherwise.
    pub(crate) fn as_ours(&self) -> Result<&Server, &Peer> {
        match &self.running {
            Running::Ours(server) => Ok(server),
            Running::Theirs(_, peer) => Err(peer),
        }
    }

    /// Counts a process of ours that ends by itself too.
    pub(crate) fn also_counts(&self, pid: u32) {
        let mut most = self.beside.lock().expect("no thread panicked");
        *most = most.max(peak_resident(pid).unwrap_or_default());
    }

    /// The most memory that all its processes have had, each at its own time, in MB.
    pub(crate) fn peak(&self) -> f64 {
        *self.peak.get_or_init(|| {
            let processes: f64 = self.running.pids().into_iter().filter_map(peak_resident).sum();
            (processes + *self.beside.lock().expect("no thread panicked")) / 1e6
        })
    }

    /// Ends it while requests are under way, which then have no answer.
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
