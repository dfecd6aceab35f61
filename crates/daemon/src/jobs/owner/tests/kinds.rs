//! Kinds of input and output: what a model does not take is never sent to it, and what it did not say
//! that it gives is not believed.

use threadrunner_core::{ErrorCode, Failure, InputKind, Output, OutputKind};

use super::*;

fn vector() -> Output {
    Output::Embedding { embedding: vec![0.5] }
}

impl Story {
    /// Orders a job with an image.
    fn order_image(&mut self) -> oneshot::Receiver<Result<JobId, Failure>> {
        self.owner.fleet.know_size(&model(), SIZE, ModelFiles::of(&model()));
        let image = r#"[{"role":"user","content":[
            {"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]}]"#;
        let mut job = self.job(model());
        job.spec.messages = serde_json::from_str(image).unwrap();
        let (reply, told) = oneshot::channel();
        self.owner.order(Order::SubmitDetached { job: Box::new(job), reply });
        told
    }
}

#[tokio::test]
async fn a_job_that_a_loaded_model_does_not_take_is_refused_at_once() {
    let mut story = Story::new();
    let _running = story.running().await;
    let failure = story.order_image().try_recv().unwrap().unwrap_err();
    assert_eq!(failure.code, ErrorCode::Unsupported);
    assert!(failure.message.contains("takes no images: it takes text"), "{failure}");
    assert_eq!(story.owner.live.len(), 1);
}

#[tokio::test]
async fn a_job_fails_before_it_is_sent_when_its_model_turns_out_not_to_take_it() {
    for inputs in [vec![], vec![InputKind::Tools], vec![InputKind::Images]] {
        let takes = inputs.contains(&InputKind::Images);
        let mut story = Story::new();
        let told = story.order_image();
        story
            .until(|owner| owner.live.values().all(|it| matches!(it.stage, Stage::Claimed(_))))
            .await;
        story.says(ready(ModelInfo { n_seq_max: 4, inputs, ..ModelInfo::default() }));
        if takes {
            assert!(story.owner.live.values().all(|live| live.runs(EngineRequestId(1))));
            continue;
        }
        assert!(story.jobs_in_engine().is_empty());
        story.until(|owner| owner.live.is_empty()).await;
        let id = told.await.unwrap().unwrap();
        let record = story.served[0].reader.record(&id).unwrap();
        assert_eq!(record.meta.error.unwrap().code, ErrorCode::Unsupported);
    }
}

#[tokio::test]
async fn what_an_answer_holds_beside_its_text_is_kept_and_that_of_a_lost_attempt_is_not() {
    let mut story = Story::new();
    let outputs = vec![OutputKind::Embedding, OutputKind::Reasoning];
    let id = story.running_in(ModelInfo { n_seq_max: 4, outputs, ..ModelInfo::default() }).await;
    let future = serde_json::from_str(r#"{"type":"smell"}"#).unwrap();
    let thought = |text: &str| Output::Reasoning { text: text.to_owned() };
    for output in [thought("H"), future, thought("m."), vector()] {
        story.says(Event::Output { id: EngineRequestId(1), output });
    }
    let said = [thought("Hm."), vector()];
    assert_eq!(story.owner.live[&id].view.as_ref().unwrap().borrow().output, said);
    story.says(finished(1, FinishReason::Stop));
    story.until(|owner| owner.live.is_empty()).await;
    assert_eq!(story.served[0].reader.answer(&id).unwrap(), (vec![], said.to_vec()));

    let id = story.submit();
    story.until(|owner| owner.live[&id].runs(EngineRequestId(2))).await;
    story.says(Event::Output { id: EngineRequestId(2), output: vector() });
    story.owner.engine(EngineId(1), exited("died", false));
    assert!(story.owner.live[&id].view.as_ref().unwrap().borrow().output.is_empty());
}

#[tokio::test]
async fn calls_that_say_nothing_count_too() {
    let mut story = Story::new();
    let outputs = vec![OutputKind::ToolCalls];
    story.running_in(ModelInfo { n_seq_max: 4, outputs, ..ModelInfo::default() }).await;
    let call = r#"{"type":"function","id":"","function":{"name":"","arguments":""}},"#;
    let calls = format!(
        r#"{{"type":"tool_calls","tool_calls":[{}]}}"#,
        call.repeat(1000).trim_end_matches(',')
    );
    let output: Output = serde_json::from_str(&calls).unwrap();
    let sent = (0..1000).take_while(|_| {
        story.says(Event::Output { id: EngineRequestId(1), output: output.clone() });
        story.owner.fleet.model_of(EngineId(1)).is_some()
    });
    assert!((100..500).contains(&sent.count()));
}

#[tokio::test]
async fn an_engine_that_gives_what_it_did_not_mention_is_ended() {
    let mut story = Story::new();
    let id = story.running().await;
    story.says(Event::Output { id: EngineRequestId(1), output: vector() });
    assert!(story.owner.fleet.model_of(EngineId(1)).is_none());
    assert!(matches!(story.owner.live[&id].stage, Stage::Releasing));
}
