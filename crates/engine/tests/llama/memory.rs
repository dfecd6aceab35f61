//! Compares the memory estimated before a model is loaded with what llama.cpp allocates.

use threadrunner_core::Memory;
use threadrunner_core::engine_protocol::{EngineOptions, Event, Load};
use threadrunner_core::{BackendKind, ModelRef};
use threadrunner_engine::llama::{size, with_model};

use super::{ONE_AT_A_TIME, PoisonError, gemma, smollm, try_with};

fn load(path: std::path::PathBuf, options: EngineOptions) -> Load {
    let options = EngineOptions { threads: Some(1), ..options };
    Load::new(ModelRef { backend: BackendKind::Llama, path: Some(path), draft: None }, options)
}

fn sized(load: &Load) -> (Memory, Memory) {
    let Ok(Event::Sized { wanted, least }) = size(load) else { panic!("it has a size") };
    (wanted, least)
}

#[test]
fn the_estimate_is_near_what_is_allocated_and_not_below_it() {
    for path in [smollm(), gemma()] {
        for (context, batch, sequences) in
            [(1024, 512, 8), (4096, 512, 8), (4096, 128, 2), (16_384, 256, 4)]
        {
            let options = EngineOptions {
                context: Some(context),
                batch: Some(batch),
                sequences: Some(sequences),
                ..EngineOptions::default()
            };
            let (said, _) = sized(&load(path.clone(), options.clone()));
            let mut allocated = Memory::default();
            try_with(path.clone(), options, |backend, _| allocated = backend.info().memory)
                .unwrap();
            let what = format!("{}: {said:?} for {allocated:?}", path.display());
            let near = |said: u64, is: u64, over: f64| {
                // Repacked weights take up to a tenth more than the file.
                said as f64 >= is as f64 * 0.9 && said as f64 <= is as f64 * over
            };
            assert!(near(said.weights, allocated.weights, 1.1), "{what}");
            assert_eq!(said.cache, allocated.cache, "{what}");
            assert_eq!((said.parked, said.parked), (allocated.parked, said.cache / 2), "{what}");
            // llama.cpp does not report the vocabulary and the process itself.
            let unreported = 12 << 20;
            let vocabulary = if path == gemma() { 262_144 } else { 49_152 } * 200;
            let buffers = said.buffers - unreported - vocabulary;
            assert!(near(buffers, allocated.buffers, 1.8), "{what}, buffers {buffers}");
            assert!(said.total() as f64 >= allocated.total() as f64 * 0.97, "{what}");
        }
    }
}

#[test]
fn with_a_draft_model_both_are_counted() {
    let (context, sequences) = (Some(2048), Some(4));
    let options = EngineOptions { context, sequences, ..EngineOptions::default() };
    let mut load = load(smollm(), options);
    let (alone, _) = sized(&load);
    load.model.draft = Some(smollm());
    let (both, _) = sized(&load);
    assert_eq!((both.weights, both.cache), (2 * alone.weights, 2 * alone.cache));
    assert_eq!(both.parked, alone.parked);
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut allocated = Memory::default();
    with_model(&load, &mut |_| (), &mut |backend, _| allocated = backend.info().memory).unwrap();
    assert_eq!((both.cache, both.parked), (allocated.cache, allocated.parked));
    assert!(both.weights as f64 >= allocated.weights as f64 * 0.9, "{both:?} {allocated:?}");
    assert!(both.total() as f64 >= allocated.total() as f64 * 0.97, "{both:?} {allocated:?}");
}

#[test]
fn the_context_is_as_large_as_the_memory_that_is_given_allows() {
    let usual = load(smollm(), EngineOptions::default());
    let (wanted, least) = sized(&usual);
    assert!(least.total() < wanted.total(), "{least:?} {wanted:?}");
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let between = least.total().midpoint(wanted.total());
    for (memory, range) in [
        (wanted.total(), 8192..=8192),
        (between, 4096..=6144),
        (least.total(), 2048..=2048),
        (0, 2048..=2048),
    ] {
        let load = Load { memory: Some(memory), ..usual.clone() };
        let mut info = Default::default();
        with_model(&load, &mut |_| (), &mut |backend, _| info = backend.info().clone()).unwrap();
        assert!(range.contains(&info.n_ctx), "{memory}: {info:?}");
        if memory > 0 {
            assert!(info.memory.total() <= memory, "{memory}: {info:?}");
        }
    }
}
