//! What is measured.

use std::error::Error;
use std::time::Duration;

const USAGE: &str = "bench-loop MODEL [--engine | --waiting] [--threads N] [--prompt TOKENS] \
                     [--generate TOKENS] [--sequences N,N] [--repeat N] [--batch TOKENS] \
                     [--settle SECONDS] [--text TEXT] [--greedy]";

/// Read when no other text is given, over and over.
const TEXT: &str = "The harbour lay quiet in the early light, and the boats that had come in \
                    during the night rocked against the stones. An old man was mending a net. ";

/// The arguments.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) model: String,
    pub(crate) engine: bool,
    pub(crate) waiting: bool,
    /// `None` is as many as the machine has.
    pub(crate) threads: Option<u32>,
    pub(crate) prompt: usize,
    pub(crate) generate: usize,
    pub(crate) sequences: Vec<usize>,
    pub(crate) repeat: usize,
    pub(crate) batch: u32,
    pub(crate) settle: Duration,
    pub(crate) text: String,
    pub(crate) greedy: bool,
}

impl Options {
    pub(crate) fn from_arguments(
        mut arguments: impl Iterator<Item = String>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            model: arguments.next().ok_or(USAGE)?,
            engine: false,
            waiting: false,
            threads: None,
            prompt: 512,
            generate: 128,
            sequences: vec![1, 8],
            repeat: 3,
            batch: 512,
            settle: Duration::ZERO,
            text: TEXT.to_owned(),
            greedy: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(USAGE);
            match argument.as_str() {
                "--engine" => options.engine = true,
                "--waiting" => options.waiting = true,
                "--greedy" => options.greedy = true,
                "--threads" => options.threads = Some(value()?.parse()?),
                "--prompt" => options.prompt = value()?.parse::<usize>()?.max(1),
                "--generate" => options.generate = value()?.parse()?,
                "--repeat" => options.repeat = value()?.parse()?,
                "--batch" => options.batch = value()?.parse()?,
                "--settle" => options.settle = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--text" => options.text = value()?,
                "--sequences" => {
                    options.sequences =
                        value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                _ => return Err(format!("unknown argument {argument}\n{USAGE}").into()),
            }
        }
        Ok(options)
    }

    /// Cells that the cache needs for all of it.
    pub(crate) fn context(&self) -> u32 {
        let most = self.sequences.iter().copied().max().unwrap_or(1);
        // Settling decodes for a time and not for a number of tokens.
        let settling = (self.settle.as_secs_f64() * 1000.0) as usize;
        let each = 16 + self.generate + settling;
        u32::try_from(self.prompt.max(most * each) + 64).unwrap_or(u32::MAX)
    }

    /// The most sequences at once.
    pub(crate) fn most_sequences(&self) -> usize {
        self.sequences.iter().copied().max().unwrap_or(1)
    }

    /// The threads to compute with.
    pub(crate) fn thread_count(&self) -> u32 {
        let available = || std::thread::available_parallelism().map_or(1, |count| count.get());
        self.threads.unwrap_or_else(|| u32::try_from(available()).unwrap_or(1))
    }
}
