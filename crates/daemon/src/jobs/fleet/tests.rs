use threadrunner_core::engine_protocol::Event;
use threadrunner_core::{BackendKind, ErrorCode, Failure, KeepAlive, Memory, ModelDigest};

use super::*;
use crate::jobs::rooms::{Limits, Wanted};
use crate::jobs::sizes::{Size, Sized};

const SECOND: Duration = Duration::from_secs(1);
/// Room for two engines of 10 bytes.
const TWO: Limits = Limits { bytes: 20, engines: 16 };
const PATIENCE: Duration = Duration::from_secs(60);

fn model(name: &str) -> ModelRef {
    ModelRef { backend: BackendKind::Llama, path: Some(name.into()), draft: None }
}

fn job(id: &str) -> JobId {
    JobId::parse(id).unwrap()
}

fn sized(bytes: u64) -> Event {
    let memory = Memory { weights: bytes, ..Memory::default() };
    Event::Sized { wanted: memory, least: memory }
}

/// What tests of the owner begin with.
impl Fleet {
    /// Sets a model's size as if a process had told it, unless it is known.
    pub(in crate::jobs) fn know_size(&mut self, model: &ModelRef, bytes: u64, files: ModelFiles) {
        if self.sizes.get(model, &files).is_none() {
            let memory = Memory { weights: bytes, ..Default::default() };
            let sized = Sized { wanted: memory, least: memory, measured: None };
            self.sizes.remember(model.clone(), files, Size::Known(sized));
        }
    }

    /// Whether a process is being asked about this model.
    pub(in crate::jobs) fn is_asked(&self, model: &ModelRef) -> bool {
        matches!(self.slots.get(model), Some(ModelSlot::Sizing(_)))
    }

    /// Lets a model have waited since then.
    pub(in crate::jobs) fn wait_since(&mut self, model: &ModelRef, bytes: u64, since: Instant) {
        self.rooms = Rooms::default();
        let wanted = Wanted { model: model.clone(), interactive: false, bytes };
        self.rooms.decide(since, &[wanted], &[], Limits { bytes: 0, engines: 0 });
    }
}

/// A fleet whose processes the test plays.
struct Story {
    fleet: Fleet,
    now: Instant,
    last: u64,
}

impl Story {
    fn new() -> Self {
        Self { fleet: Fleet::default(), now: Instant::now(), last: 0 }
    }

    fn process(&mut self) -> EngineId {
        self.last += 1;
        EngineId(self.last)
    }

    fn step(&mut self, name: &str) -> Step {
        self.fleet.step(self.now, &model(name), &ModelFiles::default(), TWO).unwrap()
    }

    /// Lets these models wait.
    fn wait(&mut self, names: &[&str]) {
        let queued = names.iter().map(|name| (model(name), false));
        let files = |_: &ModelRef| ModelFiles::default();
        self.fleet.assign(self.now, queued, |_| true, files, |_| TWO);
    }

    /// Answers how much a model takes.
    fn size(&mut self, name: &str, bytes: u64) {
        assert_eq!(self.step(name), Step::Size);
        let process = self.process();
        self.fleet.sizing(&model(name), process, ModelFiles::default(), self.now);
        assert_eq!(self.step(name), Step::Wait);
        assert_eq!(self.fleet.estimated(process, &[sized(bytes)]), Some(Estimate::Given));
    }

    /// Starts an engine, which is loading then.
    fn start(&mut self, name: &str) -> EngineId {
        let Step::Start(share) = self.step(name) else { panic!("{name} has no room") };
        let id = self.process();
        let started = Started {
            id,
            pid: 0,
            files: ModelFiles::default(),
            usual: KeepAlive::For(60 * SECOND),
            pinned: false,
            reserved: share.bytes,
            shrunk: share.limit.is_some(),
            granted: share.bytes,
            state: None,
        };
        self.fleet.started(&model(name), started, self.now);
        id
    }

    fn loaded(&mut self, name: &str) -> bool {
        let info = ModelInfo { n_seq_max: 2, ..ModelInfo::default() };
        self.fleet.loaded(&model(name), info, EngineInfo::default(), true, self.now)
    }

    /// Sizes and loads a model of 10 bytes.
    fn load(&mut self, name: &str) -> EngineId {
        self.size(name, 10);
        let id = self.start(name);
        assert!(self.loaded(name));
        id
    }

    fn slot(&self, name: &str) -> &'static str {
        match self.fleet.slots.get(&model(name)) {
            None => "none",
            Some(ModelSlot::Sizing(_)) => "sizing",
            Some(ModelSlot::Waiting) => "waiting",
            Some(ModelSlot::Loading(_)) => "loading",
            Some(ModelSlot::Ready(_)) => "ready",
        }
    }
}

#[test]
fn a_model_is_sized_then_loaded_then_ready_and_leaves_no_slot() {
    let mut story = Story::new();
    story.wait(&["a"]);
    assert_eq!(story.slot("a"), "waiting");
    let process = story.process();
    story.fleet.sizing(&model("a"), process, ModelFiles::default(), story.now);
    assert_eq!((story.slot("a"), story.fleet.model_of(process)), ("sizing", None));
    assert_eq!(story.fleet.estimated(process, &[]), Some(Estimate::Awaited));
    assert_eq!(story.fleet.estimated(process, &[sized(10)]), Some(Estimate::Given));
    assert_eq!(story.fleet.estimated(process, &[sized(10)]), None);
    assert_eq!(story.slot("a"), "waiting");
    let engine = story.start("a");
    assert_eq!((story.slot("a"), story.step("a")), ("loading", Step::There));
    assert_eq!(story.fleet.model_of(engine), Some(&model("a")));
    assert!(story.loaded("a") && !story.loaded("a"), "it is loaded once");
    assert_eq!(story.slot("a"), "ready");
    assert!(story.fleet.leave(&model("a")).is_some() && story.fleet.leave(&model("a")).is_none());
    assert_eq!((story.slot("a"), story.fleet.model_of(engine)), ("none", None));
    assert_eq!(story.fleet.bytes(), 10, "its process is still there");
    story.fleet.exited(engine);
    assert_eq!(story.fleet.bytes(), 0);
}

#[test]
fn only_these_changes_of_a_slot_are_legal() {
    let (mut story, id) = (Story::new(), job("1"));
    story.load("ready");
    story.fleet.begin(&model("ready"), id);
    story.size("loading", 10);
    story.start("loading");
    let process = story.process();
    story.fleet.sizing(&model("sizing"), process, ModelFiles::default(), story.now);
    story.fleet.slots.insert(model("waiting"), ModelSlot::Waiting);
    let all = ["none", "sizing", "waiting", "loading", "ready"];
    let legal = |from: &str| {
        let slot = |name: &str| story.fleet.slots.get(&model(name));
        let to = all.into_iter().filter(|to| ModelSlot::may_become(slot(from), slot(to)));
        to.collect::<Vec<_>>()
    };
    assert_eq!(legal("none"), ["none", "sizing", "waiting", "loading"]);
    assert_eq!(legal("sizing"), ["none", "waiting"]);
    assert_eq!(legal("waiting"), ["none", "sizing", "waiting", "loading"]);
    assert_eq!(legal("loading"), ["none", "ready"]);
    assert_eq!(legal("ready"), ["none"]);
}

#[test]
fn a_model_that_nobody_wants_any_more_waits_no_longer() {
    let mut story = Story::new();
    story.wait(&["a", "b"]);
    assert_eq!(story.fleet.waiting(), [model("a"), model("b")]);
    story.wait(&["b"]);
    assert_eq!((story.slot("a"), story.fleet.waiting()), ("none", vec![model("b")]));
    // A client's wish keeps a model waiting while the client is there, and a pin for good.
    story.fleet.wish(&model("c"), false, None);
    story.fleet.wish(&model("d"), true, None);
    story.wait(&[]);
    assert_eq!((story.slot("c"), story.slot("d")), ("waiting", "waiting"));
    let files = |_: &ModelRef| ModelFiles::default();
    story.fleet.assign(story.now, [].into_iter(), |_| false, files, |_| TWO);
    assert_eq!((story.slot("c"), story.slot("d")), ("none", "waiting"));
    assert!(story.fleet.is_wanted(&model("d")) && !story.fleet.is_wanted(&model("c")));
}

#[test]
fn what_clients_wish_counts_for_the_next_engine() {
    let mut story = Story::new();
    story.fleet.wish(&model("a"), false, Some(KeepAlive::For(SECOND)));
    story.fleet.wish(&model("b"), true, None);
    story.load("a");
    story.load("b");
    assert_eq!(story.fleet.idle(story.now + SECOND), [model("a")]);
    assert!(story.fleet.engine(&model("b")).unwrap().is_pinned());
    assert_eq!(story.fleet.idle(story.now + 1000 * SECOND), [model("a")]);
    assert!(!story.fleet.is_wanted(&model("a")) && !story.fleet.is_wanted(&model("b")));
}

#[test]
fn an_estimate_that_never_comes_counts_as_nothing_and_a_refusal_is_told_once() {
    let mut story = Story::new();
    let start = |story: &mut Story, name: &str| {
        let process = story.process();
        story.fleet.sizing(&model(name), process, ModelFiles::default(), story.now);
        process
    };
    let late = start(&mut story, "a");
    let next = story.fleet.next(PATIENCE).unwrap();
    assert_eq!(story.fleet.late_estimates(next - SECOND), []);
    assert_eq!(story.fleet.late_estimates(next), [late]);
    assert!(matches!(story.step("a"), Step::Start(share) if share.bytes == 0));
    let wrong = start(&mut story, "b");
    let said = story.fleet.estimated(wrong, &[Event::Loading { fraction: 0.1 }, sized(1)]);
    assert_eq!(said, Some(Estimate::Failed));
    assert!(matches!(story.step("b"), Step::Start(_)));
    let refuses = start(&mut story, "c");
    let failure = Failure::new(ErrorCode::ModelLoad, "no");
    story.fleet.estimated(refuses, &[Event::LoadFailed { failure }]);
    assert!(story.fleet.step(story.now, &model("c"), &ModelFiles::default(), TWO).is_err());
    assert_eq!(story.step("c"), Step::Size, "it may be another file by now");
}

#[test]
fn an_idle_engine_makes_way_and_there_is_room_once_it_has_exited() {
    let mut story = Story::new();
    let first = story.load("a");
    story.now += SECOND;
    story.load("b");
    story.size("c", 10);
    assert_eq!(story.step("c"), Step::MakeWay(vec![model("a")]));
    story.fleet.leave(&model("a"));
    assert_eq!(story.step("c"), Step::MakeWay(vec![]), "it waits for the exit alone");
    // The model of the engine that leaves may be wanted again.
    story.wait(&["a", "c"]);
    assert_eq!(story.slot("a"), "waiting");
    story.fleet.exited(first);
    assert!(matches!(story.step("c"), Step::Start(_)));
    story.fleet.begin(&model("b"), job("1"));
    story.start("c");
    assert_eq!(story.step("a"), Step::Wait, "both are at work");
}

#[test]
fn an_engine_is_idle_when_its_last_job_has_ended_and_stays_as_long_as_it_is_told() {
    let mut story = Story::new();
    story.load("a");
    let (a, start) = (model("a"), story.now);
    story.fleet.begin(&a, job("1"));
    story.fleet.begin(&a, job("2"));
    assert_eq!((story.fleet.free_slots(&a, false), story.fleet.free_slots(&a, true)), (0, 10));
    assert_eq!(
        (story.fleet.idle(start + 500 * SECOND), story.fleet.next(PATIENCE)),
        (vec![], None)
    );
    story.fleet.end(&a, &job("1"), start + SECOND);
    assert_eq!(story.fleet.next(PATIENCE), None);
    story.fleet.end(&a, &job("2"), start + 2 * SECOND);
    assert_eq!(story.fleet.next(PATIENCE), Some(start + 62 * SECOND));
    assert_eq!(story.fleet.idle(start + 61 * SECOND), []);
    assert_eq!(story.fleet.idle(start + 62 * SECOND), std::slice::from_ref(&a));
    story.fleet.engine_mut(&a).unwrap().keep(Some(KeepAlive::Forever));
    assert_eq!(story.fleet.idle(start + 500 * SECOND), []);
}

#[test]
fn an_engine_that_owes_an_answer_is_overdue_and_one_whose_daemon_slept_is_not() {
    let mut story = Story::new();
    story.load("a");
    let (a, start) = (model("a"), story.now);
    assert_eq!(story.fleet.overdue_at(PATIENCE), None);
    story.fleet.engine_mut(&a).unwrap().asked(start);
    story.fleet.heard(&a, true, start + SECOND);
    assert_eq!(story.fleet.overdue_at(PATIENCE), Some(start + 61 * SECOND));
    assert_eq!(story.fleet.silent(start + 60 * SECOND, PATIENCE), []);
    assert_eq!(story.fleet.silent(start + 61 * SECOND, PATIENCE), std::slice::from_ref(&a));
    assert_eq!(story.fleet.silent(start + 100 * SECOND, PATIENCE), []);
    assert_eq!(story.fleet.overdue_at(PATIENCE), Some(start + 160 * SECOND));
    story.fleet.heard(&a, false, start + 101 * SECOND);
    assert_eq!(story.fleet.overdue_at(PATIENCE), None);
}

#[test]
fn an_engine_whose_files_were_replaced_finishes_its_jobs_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.gguf");
    let a = ModelRef { path: Some(path.clone()), ..model("a") };
    let put = |text: &str| {
        std::fs::write(&path, text).unwrap();
        ModelFiles::of(&a)
    };
    let (old, new) = (put("one"), put("three"));
    let mut story = Story::new();
    let started = Started {
        id: EngineId(1),
        pid: 0,
        files: old.clone(),
        usual: KeepAlive::Forever,
        pinned: false,
        reserved: 10,
        shrunk: false,
        granted: 10,
        state: None,
    };
    story.fleet.started(&a, started, story.now);
    assert_eq!(story.fleet.check_files(&a, &old), Files::Loaded);
    assert_eq!(story.fleet.check_files(&a, &new), Files::Finishing, "it is loading");
    story.fleet.loaded(&a, ModelInfo::default(), EngineInfo::default(), true, story.now);
    story.fleet.begin(&a, job("1"));
    assert_eq!(story.fleet.check_files(&a, &old), Files::Finishing, "what is gone is gone");
    story.fleet.end(&a, &job("1"), story.now);
    assert_eq!(story.fleet.check_files(&a, &new), Files::Outdated);
    story.fleet.leave(&a);
    assert_eq!(story.fleet.check_files(&a, &new), Files::Loaded);
}

#[test]
fn a_model_has_the_digest_that_its_engine_tells_once_it_is_loaded() {
    let mut story = Story::new();
    let a = model("a");
    let unread = a.id(None);
    assert_eq!(story.fleet.id_of(&a), unread);
    story.size("a", 10);
    story.start("a");
    assert_eq!(story.fleet.id_of(&a), unread);
    let digest = Some(ModelDigest::sampled(7));
    let info = ModelInfo { digest: digest.clone(), ..ModelInfo::default() };
    story.fleet.loaded(&a, info, EngineInfo::default(), true, story.now);
    assert_eq!(story.fleet.id_of(&a), a.id(digest));
    story.fleet.leave(&a).unwrap();
    assert_eq!(story.fleet.id_of(&a), unread);
}

#[test]
fn an_engine_is_not_believed_to_take_more_than_it_can() {
    let mut story = Story::new();
    story.size("a", 10);
    story.start("a");
    let memory = Memory { weights: 4, cache: 1 << 48, buffers: 1 << 48, parked: 0 };
    let info = ModelInfo { n_seq_max: 2, memory, ..ModelInfo::default() };
    assert!(story.fleet.loaded(&model("a"), info, EngineInfo::default(), true, story.now));
    let described = &story.fleet.describe(story.now)[0];
    let most = (1 << 30) + 15;
    assert_eq!(described.size_bytes, most);
    let believed = Memory { weights: 4, cache: most - 4, buffers: 0, parked: 0 };
    assert_eq!(described.info.as_ref().unwrap().memory, believed);
}

#[test]
fn all_idle_models_are_unloaded_together_and_one_by_its_name() {
    let mut story = Story::new();
    story.load("a");
    story.load("b");
    story.fleet.begin(&model("b"), job("1"));
    assert_eq!(story.fleet.to_unload(&ToUnload::Idle(None)), [model("a")]);
    assert_eq!(story.fleet.to_unload(&ToUnload::Model(model("b"))), [model("b")]);
    let of = |backend| story.fleet.to_unload(&ToUnload::Idle(Some(backend)));
    assert_eq!((of(model("a").backend), of(BackendKind::Unknown)), (vec![model("a")], vec![]));
    assert_eq!(story.fleet.kept(Some(BackendKind::Unknown)), []);
    story.fleet.leave(&model("a"));
    let kept = story.fleet.kept(None);
    assert_eq!((kept.len(), kept[0].name.as_str(), kept[0].running), (1, "b", 1));
    // With less memory only what is idle goes.
    story.fleet.end(&model("b"), &job("1"), story.now);
    assert_eq!(story.fleet.beyond(Limits { bytes: 8, ..TWO }), []);
    assert_eq!(story.fleet.beyond(Limits { bytes: 7, ..TWO }), [model("b")]);
}
