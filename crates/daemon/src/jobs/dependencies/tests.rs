//! Which jobs are released by the end of another.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn id(number: usize) -> JobId {
    JobId::parse(&number.to_string()).unwrap()
}

fn after(jobs: &[(usize, Standing)], any: bool) -> After {
    After { jobs: jobs.iter().map(|(job, how)| (id(*job), *how)).collect(), any, turn: None }
}

fn open(jobs: &[usize]) -> After {
    after(&jobs.iter().map(|job| (*job, Standing::Open)).collect::<Vec<_>>(), false)
}

fn because(on: usize, how: Standing) -> Broken {
    Broken::Dependency { on: id(on), how }
}

impl Dependencies {
    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }
}

#[test]
fn a_job_is_free_when_the_last_one_it_waits_for_is_done() {
    let mut all = Dependencies::default();
    let twice = after(&[(1, Standing::Open), (1, Standing::Open), (2, Standing::Open)], false);
    assert_eq!(all.hold(&id(3), twice), Verdict::Held);
    assert_eq!(all.ended(&id(1), Standing::Done).held, [id(3)]);
    assert_eq!(all.ended(&id(1), Standing::Done), Released::default());
    assert_eq!(all.ended(&id(2), Standing::Done).free, [id(3)]);
    assert!(all.is_empty());
}

#[test]
fn what_is_over_when_a_job_comes_is_not_waited_for() {
    let mut all = Dependencies::default();
    assert_eq!(all.hold(&id(2), after(&[(1, Standing::Done)], false)), Verdict::Free);
    for how in [Standing::Failed, Standing::Canceled, Standing::Missing] {
        let verdict = all.hold(&id(2), after(&[(3, Standing::Open), (1, how)], false));
        assert_eq!(verdict, Verdict::Broken(because(1, how)));
    }
    assert_eq!(all.hold(&id(2), after(&[(1, Standing::Failed)], true)), Verdict::Free);
    let verdict = all.hold(&id(2), after(&[(1, Standing::Missing)], true));
    assert_eq!(verdict, Verdict::Broken(because(1, Standing::Missing)));
    assert!(all.is_empty());
}

#[test]
fn a_failure_goes_down_the_chain_and_stops_at_who_goes_on() {
    let mut all = Dependencies::default();
    all.hold(&id(2), open(&[1]));
    all.hold(&id(3), open(&[2]));
    all.hold(&id(4), after(&[(3, Standing::Open)], true));
    all.hold(&id(5), open(&[4]));
    let released = all.ended(&id(1), Standing::Canceled);
    assert_eq!(
        released.broken,
        [(id(2), because(1, Standing::Canceled)), (id(3), because(2, Standing::Failed))]
    );
    assert_eq!((released.free, released.held), (vec![id(4)], vec![]));
    assert_eq!(all.ended(&id(4), Standing::Done).free, [id(5)]);
    assert!(all.is_empty());
}

#[test]
fn a_held_job_that_is_canceled_leaves_nothing_behind() {
    let mut all = Dependencies::default();
    all.hold(&id(3), open(&[1, 2]));
    all.hold(&id(4), open(&[3]));
    all.forget(&id(3));
    assert_eq!(all.ended(&id(1), Standing::Done), Released::default());
    assert_eq!(all.ended(&id(3), Standing::Canceled).broken.len(), 1);
    assert!(all.is_empty());
}

#[test]
fn a_cycle_is_refused_by_whoever_closes_it() {
    let mut all = Dependencies::default();
    assert_eq!(all.hold(&id(1), open(&[1])), Verdict::Broken(Broken::Cycle { by: id(1) }));
    assert_eq!(all.hold(&id(1), open(&[3])), Verdict::Held);
    assert_eq!(all.hold(&id(2), open(&[1])), Verdict::Held);
    let Verdict::Broken(Broken::Cycle { by }) = all.hold(&id(3), open(&[2, 7])) else { panic!() };
    assert!([1, 2].map(id).contains(&by), "{by}");
    // The job that closed the cycle fails, and so do the others.
    assert_eq!(all.ended(&id(3), Standing::Failed).broken.len(), 2);
    assert!(all.is_empty());
}

#[test]
fn chains_and_fans_of_many_jobs_are_gone_through_once() {
    const MANY: usize = 100_000;
    let mut all = Dependencies::default();
    // Out of order, as another program might submit them: the even ones first.
    for job in (1..MANY).filter(|job| job % 2 == 0).chain((1..MANY).filter(|job| job % 2 == 1)) {
        assert_eq!(all.hold(&id(job), open(&[job - 1])), Verdict::Held);
    }
    assert_eq!(all.ended(&id(0), Standing::Failed).broken.len(), MANY - 1);
    assert!(all.is_empty());
    let leaves: Vec<_> = (0..MANY).collect();
    all.hold(&id(MANY), open(&leaves));
    for job in 0..MANY - 1 {
        assert_eq!(all.ended(&id(job), Standing::Done).held.len(), 1);
    }
    assert_eq!(all.ended(&id(MANY - 1), Standing::Done).free, [id(MANY)]);
    assert!(all.is_empty());
}

/// What a job waits for, and whether it begins even after failures.
type Graph = BTreeMap<usize, (Vec<usize>, bool)>;

const JOBS: usize = 9;

/// Any graph, including cycles and dependencies that are missing.
fn graphs() -> impl Strategy<Value = Vec<(Vec<usize>, bool)>> {
    prop::collection::vec((prop::collection::vec(0..JOBS + 2, 0..4), any::<bool>()), JOBS)
}

/// Holds jobs in this order, and ends what can end, until nothing moves any more. Returns how each
/// job ended.
fn play(graph: &Graph, arrival: &[usize], fails: &[bool]) -> BTreeMap<usize, Standing> {
    let mut all = Dependencies::default();
    let mut ended: BTreeMap<usize, Standing> = BTreeMap::new();
    let mut events: Vec<(JobId, Standing)> = Vec::new();
    let number = |job: &JobId| job.as_str().parse::<usize>().unwrap();
    for &job in arrival {
        let (on, any) = &graph[&job];
        let stands = |on: &usize| match ended.get(on) {
            Some(how) => (*on, *how),
            None if *on < JOBS => (*on, Standing::Open),
            None => (*on, Standing::Missing),
        };
        let jobs: Vec<_> = on.iter().map(stands).collect();
        match all.hold(&id(job), after(&jobs, *any)) {
            Verdict::Held => {}
            Verdict::Free => {
                let how = if fails[job] { Standing::Failed } else { Standing::Done };
                events.push((id(job), how));
            }
            Verdict::Broken(_) => events.push((id(job), Standing::Failed)),
        }
        // Some ends come before the next arrival, others later.
        while job % 2 == 0 || events.len() > 2 {
            let Some((job, how)) = events.pop() else { break };
            tell(&mut all, &mut ended, &mut events, (job, how), fails, &number);
        }
    }
    while let Some(event) = events.pop() {
        tell(&mut all, &mut ended, &mut events, event, fails, &number);
    }
    assert!(all.is_empty(), "{all:?}");
    ended
}

fn tell(
    all: &mut Dependencies,
    ended: &mut BTreeMap<usize, Standing>,
    events: &mut Vec<(JobId, Standing)>,
    (job, how): (JobId, Standing),
    fails: &[bool],
    number: &impl Fn(&JobId) -> usize,
) {
    assert!(ended.insert(number(&job), how).is_none(), "{job} ended twice");
    let released = all.ended(&job, how);
    for job in released.free {
        let how = if fails[number(&job)] { Standing::Failed } else { Standing::Done };
        events.push((job, how));
    }
    events.extend(released.broken.into_iter().map(|(job, _)| (job, Standing::Failed)));
}

proptest! {
    #[test]
    fn every_job_ends_once_whatever_waits_for_what(
        edges in graphs(),
        arrival in Just((0..JOBS).collect::<Vec<_>>()).prop_shuffle(),
        fails in prop::collection::vec(any::<bool>(), JOBS),
    ) {
        let graph: Graph = edges.into_iter().enumerate().collect();
        let ended = play(&graph, &arrival, &fails);
        prop_assert_eq!(ended.len(), JOBS);
        for (job, how) in &ended {
            let (on, any) = &graph[job];
            // All dependencies of a done job were done or, with `any`, had at least ended.
            if *how == Standing::Done {
                for other in on {
                    let other = ended.get(other);
                    prop_assert!(other == Some(&Standing::Done) || (*any && other.is_some()));
                }
            }
        }
    }

    #[test]
    fn without_cycles_a_job_is_done_whenever_it_can_be(
        edges in graphs(),
        arrival in Just((0..JOBS).collect::<Vec<_>>()).prop_shuffle(),
        fails in prop::collection::vec(any::<bool>(), JOBS),
    ) {
        // A job waits only for earlier jobs, as every job submitted to the daemon does.
        let graph: Graph = edges
            .into_iter()
            .enumerate()
            .map(|(job, (on, any))| (job, (on.into_iter().filter(|on| *on < job).collect(), any)))
            .collect();
        let ended = play(&graph, &arrival, &fails);
        for job in 0..JOBS {
            let (on, any) = &graph[&job];
            let can = *any || on.iter().all(|on| ended[on] == Standing::Done);
            prop_assert_eq!(ended[&job] == Standing::Done, can && !fails[job], "{}", job);
        }
    }
}

#[test]
fn a_turn_goes_on_however_the_one_before_it_ended() {
    let turn = |jobs: &[(usize, Standing)]| After { turn: Some(id(1)), ..after(jobs, false) };
    for how in [Standing::Done, Standing::Failed, Standing::Canceled, Standing::Missing] {
        let mut all = Dependencies::default();
        assert_eq!(all.hold(&id(2), turn(&[])), Verdict::Held);
        assert_eq!(all.ended(&id(1), how).free, [id(2)]);
        assert!(all.is_empty());
    }
    // Its other dependencies still count, even one on the same job.
    let mut all = Dependencies::default();
    all.hold(&id(2), turn(&[(3, Standing::Open)]));
    all.hold(&id(4), turn(&[(1, Standing::Open)]));
    let released = all.ended(&id(1), Standing::Failed);
    assert_eq!(released.held, [id(2)]);
    assert_eq!(released.broken.len(), 1);
    assert_eq!(all.ended(&id(3), Standing::Failed).broken.len(), 1);
    assert!(all.is_empty());
}
