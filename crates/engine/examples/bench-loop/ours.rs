//! The same loop through this engine's backend.

use std::error::Error;
use std::path::PathBuf;

use threadrunner_core::engine_protocol::{EngineOptions, Load, VERSION};
use threadrunner_core::{
    BackendKind, Feed, ModelBackend, ModelRef, Parameters, Plan, Sampled, SeqId, TokenId,
};
use threadrunner_engine::llama::with_model;

use crate::options::Options;
use crate::{Loop, Measure};

struct Ours<'a> {
    backend: &'a mut dyn ModelBackend,
    tokens: Vec<TokenId>,
    params: Parameters,
    next: Vec<Sampled>,
    position: u32,
}

pub(crate) fn with_loop(
    options: &Options,
    measure: &mut Measure<'_>,
) -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(&options.model).canonicalize()?;
    let load = Load {
        v: VERSION,
        model: ModelRef { backend: BackendKind::Llama, path: Some(path) },
        options: EngineOptions {
            context: Some(options.context()),
            sequences: Some(u32::try_from(options.most_sequences())?),
            batch: Some(options.batch),
            threads: options.threads,
            ..EngineOptions::default()
        },
    };
    let mut result = Ok(());
    with_model(&load, &mut |_| (), &mut |backend, _| {
        result = backend
            .tokenize(&options.text.repeat(1 + options.prompt * 8 / options.text.len()))
            .map_err(Into::into)
            .and_then(|tokens| {
                let temperature = options.greedy.then_some(0.0);
                let params = Parameters { temperature, seed: Some(1), ..Parameters::default() };
                let params = params.or(&Parameters::DEFAULT);
                measure(&mut Ours { backend, tokens, params, next: Vec::new(), position: 0 })
            });
    })?;
    result
}

impl Loop for Ours<'_> {
    fn read(&mut self, sequences: usize, tokens: usize) -> Result<(), Box<dyn Error>> {
        for old in self.next.drain(..) {
            self.backend.close(old.seq);
        }
        let prompt = self.tokens.get(..tokens).ok_or("the text is too short")?.to_vec();
        let n_batch = self.backend.info().n_batch as usize;
        self.position = u32::try_from(tokens)?;
        for seq in (0..u32::try_from(sequences)?).map(SeqId) {
            self.backend.open(seq, &self.params, &prompt)?;
            let mut start = 0;
            for chunk in prompt.chunks(n_batch) {
                let end = start + u32::try_from(chunk.len())?;
                let sample = end == self.position;
                let feed = Feed { seq, start, tokens: chunk.to_vec(), sample };
                self.backend.forward(&Plan { feeds: vec![feed] }, &mut self.next)?;
                start = end;
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Box<dyn Error>> {
        let start = self.position;
        let feed = |sampled: &Sampled| Feed {
            seq: sampled.seq,
            start,
            tokens: vec![sampled.token],
            sample: true,
        };
        let plan = Plan { feeds: self.next.iter().map(feed).collect() };
        self.position += 1;
        self.next.clear();
        self.backend.forward(&plan, &mut self.next)?;
        Ok(())
    }
}
