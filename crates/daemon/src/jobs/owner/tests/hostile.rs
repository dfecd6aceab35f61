//! Engines that send what they may not, or nothing.

use threadrunner_core::{ErrorCode, Failure, Memory};

use super::*;

fn named(name: &str) -> ModelRef {
    ModelRef { backend: BackendKind::Llama, path: Some(name.into()), draft: None }
}

impl Story {
    /// When the first engine has made no progress for too long.
    fn overdue(&self) -> Option<Instant> {
        self.owner.fleet.overdue_at(self.owner.config.engine_timeout)
    }
}

/// A story whose first engine runs a job, beside a second engine, of model `a`.
async fn beside_another() -> (Story, JobId, EngineId) {
    let mut story = Story::new();
    let id = story.running().await;
    let (process, _heard) = EngineProcess::heard(EngineId(7));
    let other = story.add(process, &named("a"), true);
    (story, id, other)
}

#[tokio::test]
async fn an_engine_that_speaks_of_a_request_of_another_is_ended_and_nobody_believes_it() {
    let failure = Failure::new(ErrorCode::Inference, "no");
    for event in [
        Event::Prefill { id: EngineRequestId(1), done: 1, total: 2 },
        Event::Text { id: EngineRequestId(1), text: "not yours".to_owned() },
        finished(1, FinishReason::Stop),
        Event::Failed { id: EngineRequestId(1), failure },
    ] {
        let (mut story, id, other) = beside_another().await;
        let words = format!("{event:?}");
        story
            .owner
            .engine(other, EngineMessage::Events(vec![event, finished(1, FinishReason::Stop)]));
        assert!(!story.owner.fleet.has_engine(&named("a")), "{words}");
        let live = &story.owner.live[&id];
        assert!(
            live.runs(EngineRequestId(1)) && live.view.as_ref().unwrap().borrow().text.is_empty(),
            "{words}"
        );
        story.says(finished(1, FinishReason::Stop));
        story.until(|owner| owner.live.is_empty()).await;
        assert_eq!(story.served[0].reader.locate(&id).unwrap().0, JobState::Done);
    }
}

#[tokio::test]
async fn what_an_engine_may_not_say_ends_it_and_costs_its_jobs_an_attempt() {
    let memory = Memory::default();
    let ready = Event::Ready {
        model: Box::new(ModelInfo { n_seq_max: 4, ..ModelInfo::default() }),
        engine: EngineInfo::default(),
        stream: true,
    };
    for event in [
        Event::Sized { wanted: memory, least: memory },
        Event::Loading { fraction: 0.5 },
        ready,
        Event::Text { id: EngineRequestId(2), text: "too early".to_owned() },
        Event::Text { id: EngineRequestId(1), text: "x".repeat(20 << 20) },
    ] {
        let mut story = Story::new();
        let id = story.running().await;
        story.says(event);
        assert!(story.owner.fleet.model_of(EngineId(1)).is_none());
        assert!(matches!(story.owner.live[&id].stage, Stage::Releasing));
        story.until(|owner| matches!(owner.live[&id].stage, Stage::Claimed(_))).await;
    }
}

#[tokio::test]
async fn an_engine_that_speaks_of_a_request_that_has_ended_is_ended() {
    let mut story = Story::new();
    let id = story.running().await;
    story.says(finished(1, FinishReason::Stop));
    story.until(|owner| owner.live.is_empty()).await;
    assert_eq!(story.served[0].reader.locate(&id).unwrap().0, JobState::Done);
    assert!(story.owner.fleet.model_of(EngineId(1)).is_some());
    story.says(Event::Text { id: EngineRequestId(1), text: "and".to_owned() });
    assert!(story.owner.fleet.model_of(EngineId(1)).is_none());
}

#[tokio::test]
async fn what_is_said_to_a_canceled_request_is_no_part_of_the_jobs_next_attempt() {
    let mut story = Story::new();
    let id = story.running().await;
    story.owner.end_early(&id, Ending::Canceled);
    story.until(|owner| owner.live.is_empty()).await;
    story.served[0].archive.retry(id.clone()).await.unwrap();
    story
        .until(|owner| owner.live.get(&id).is_some_and(|live| live.runs(EngineRequestId(2))))
        .await;
    story.says(Event::Text { id: EngineRequestId(1), text: "late".to_owned() });
    story.says(Event::Text { id: EngineRequestId(2), text: "new".to_owned() });
    assert_eq!(story.owner.live[&id].view.as_ref().unwrap().borrow().text, "new");
}

#[tokio::test]
async fn an_engine_that_says_nothing_is_ended_and_one_that_has_nothing_to_say_is_not() {
    let mut story = Story::new();
    let id = story.running().await;
    let second = Duration::from_secs(1);
    let overdue = story.overdue().unwrap();
    story.owner.time(overdue - second);
    assert!(story.owner.live[&id].runs(EngineRequestId(1)));
    // The daemon itself was stopped meanwhile, and the engine may have sent events.
    story.owner.time(overdue + 100 * second);
    assert!(story.owner.live[&id].runs(EngineRequestId(1)));
    assert!(story.overdue().unwrap() > overdue + 100 * second);
    story.says(finished(1, FinishReason::Stop));
    story.until(|owner| owner.live.is_empty()).await;
    assert_eq!(story.overdue(), None);

    let id = story.submit();
    story.until(|owner| owner.live[&id].runs(EngineRequestId(2))).await;
    let overdue = story.overdue().unwrap();
    story.owner.time(overdue);
    assert!(story.owner.fleet.model_of(EngineId(1)).is_none());
    assert!(matches!(story.owner.live[&id].stage, Stage::Releasing));
}

#[tokio::test]
async fn a_load_that_does_not_get_on_fails_and_so_does_one_that_never_ends() {
    for steps in [0_u8, 90] {
        let mut story = Story::new();
        let id = story.submit();
        story.until(|owner| matches!(owner.live[&id].stage, Stage::Claimed(_))).await;
        let view = story.owner.load(found(&model()), false, None);
        let start = Instant::now();
        for step in 1..=steps {
            let fraction = f32::from(step) / 100.0;
            let now = start + u32::from(step) * Duration::from_secs(200);
            assert!(story.owner.fleet.loading(&model()).unwrap().get_on(fraction, now));
            if story.overdue().unwrap() <= now {
                break;
            }
            story.owner.time(now);
        }
        let overdue = story.overdue().unwrap();
        assert!(overdue <= start + Duration::from_secs(25 * 300));
        // Too small a step is no progress.
        story.says(Event::Loading { fraction: 0.001 });
        assert_eq!(story.overdue(), Some(overdue));
        story.owner.time(overdue);
        assert!(matches!(story.owner.live[&id].stage, Stage::Ending(_)));
        let LoadState::Failed(failure) = &view.borrow().state else { panic!("it goes on") };
        assert_eq!(failure.code, ErrorCode::ModelLoad);
        assert!(failure.message.contains("made no progress"), "{failure}");
    }
}

#[tokio::test]
async fn a_process_that_is_asked_for_a_size_and_says_anything_else_is_not_believed() {
    let mut story = Story::new();
    let _view = story.owner.load(found(&named("a")), true, None);
    story.owner.dispatch();
    assert!(story.owner.fleet.is_asked(&named("a")));
    let memory = Memory { weights: 7, ..Default::default() };
    let sized = Event::Sized { wanted: memory, least: memory };
    let events = vec![Event::Loading { fraction: 0.1 }, sized];
    story.owner.engine(EngineId(1), EngineMessage::Events(events));
    assert!(!story.owner.fleet.is_asked(&named("a")));
    story.owner.dispatch();
    assert!(story.owner.fleet.has_engine(&named("a")), "loading it shows what it takes");
}

#[tokio::test]
async fn to_say_the_same_again_is_no_progress() {
    let mut story = Story::new();
    story.running().await;
    let prefill = |done| Event::Prefill { id: EngineRequestId(1), done, total: 9 };
    let text = |text: &str| Event::Text { id: EngineRequestId(1), text: text.to_owned() };
    story.says(prefill(1));
    let mut overdue = story.overdue().unwrap();
    for (event, is_progress) in [
        (prefill(1), false),
        (prefill(2), true),
        (prefill(2), false),
        (text(""), false),
        (text("a"), true),
    ] {
        let words = format!("{event:?}");
        story.says(event);
        let now = story.overdue().unwrap();
        assert_eq!(now > overdue, is_progress, "{words}");
        overdue = now;
    }
}

#[tokio::test]
async fn an_engine_that_goes_on_with_a_canceled_request_is_ended() {
    let mut story = Story::new();
    let id = story.running().await;
    story.owner.end_early(&id, Ending::Canceled);
    story.until(|owner| owner.live.is_empty()).await;
    let due = story.owner.requests.cancel_due(story.owner.cancel_grace()).unwrap();
    let overdue = story.overdue();
    story.says(Event::Text { id: EngineRequestId(1), text: "on and on".to_owned() });
    assert_eq!(story.overdue(), overdue, "nobody wants that text");
    story.owner.time(due - Duration::from_secs(1));
    assert!(story.owner.fleet.model_of(EngineId(1)).is_some());
    story.owner.time(due);
    assert!(story.owner.fleet.model_of(EngineId(1)).is_none());
}
