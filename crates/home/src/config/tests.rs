use super::*;

fn parse(text: &str) -> Result<Config, Failure> {
    Config::parse(text, Path::new("/h/config.toml"))
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        model = "small"
        backend = "llama"
        idle_timeout = 0
        engine_timeout = 60
        memory_budget = "8 GB"
        grace = 2.5
        durability = "relaxed"
        max_attempts = 5
        max_queue = 10
        hook_timeout = "5s"
        max_hooks = 2

        [aliases]
        small = "SmolLM2.gguf"

        [engine]
        context = 4096
        sequences = 4
        batch = 512
        threads = 2
        prefix_cache = false
        speculation = true
        speculation_greedy = true
        deterministic = false
        gpu_layers = 99
        dummy = { step_ms = 5 }

        [models.small]
        keep_alive = "forever"
        pin = true
        context = 2048
        sequences = 2
        draft = "tiny"

        [defaults]
        temperature = 0.2
        stop = ["END"]

        [retention]
        max_age = "7d"
        max_jobs = 10000
        max_bytes = "10 GB"
        keep_failed = true

        [sessions]
        state_bytes = "500 MB"

        [workspaces.code]
        path = "code"
        model = "coder"
        defaults = { top_k = 1 }
        "#,
    )
    .unwrap();
    assert_eq!(config.model.as_deref(), Some("small"));
    assert_eq!(config.idle_timeout, KeepAlive::For(Duration::ZERO));
    assert_eq!(config.engine_timeout, Duration::from_secs(60));
    assert_eq!(config.grace, Duration::from_millis(2500));
    assert_eq!(config.durability, Durability::Relaxed);
    assert_eq!((config.hook_timeout.as_secs(), config.max_hooks), (5, 2));
    assert_eq!(config.aliases["small"], "SmolLM2.gguf");
    assert_eq!(config.engine.context, Some(4096));
    assert_eq!(config.engine.prefix_cache, Some(false));
    assert_eq!(config.engine.speculation_greedy, Some(true));
    assert_eq!(config.engine.deterministic, Some(false));
    assert_eq!(config.engine.dummy.unwrap().step_ms, 5);
    assert_eq!(config.memory_budget, MemoryBudget::Bytes(8_000_000_000));
    let small = &config.models["small"];
    assert!(small.pin && small.keep_alive == Some(threadrunner_core::KeepAlive::Forever));
    assert_eq!((small.context, small.sequences), (Some(2048), Some(2)));
    assert_eq!(small.draft.as_deref(), Some("tiny"));
    assert_eq!(config.defaults.temperature, Some(0.2));
    assert_eq!(config.retention.max_jobs, Some(10_000));
    assert_eq!(config.sessions.state_bytes, 500_000_000);
    assert_eq!(config.workspaces["code"].defaults.top_k, Some(1));
}

#[test]
fn what_is_wrong_is_named_with_its_file_and_line() {
    for (text, line, words) in [
        ("modle = \"x\"", "line 1", "modle"),
        ("model = \"x\"\n\ntypo = 1\n", "line 3", "typo"),
        ("[engine]\ncontxt = 1\n", "line 2", "contxt"),
        ("[defaults]\n\ntemprature = 1\n", "line 3", "temprature"),
        ("[workspaces.a]\npath = \"p\"\nmodl = \"m\"\n", "line 3", "modl"),
        ("model = \"x\"\nmax_queue = \"many\"\n", "line 2", "must be a whole number"),
        ("idle_timeout = -1\n", "line 1", "-1"),
        ("model =\n", "line 1", ""),
    ] {
        let failure = parse(text).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Config);
        let message = &failure.message;
        assert!(message.starts_with(&format!("/h/config.toml, {line}: ")), "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_duration_is_written_alike_everywhere() {
    let config = parse(
        "idle_timeout = \"5m\"\ngrace = \"5m\"\nhook_timeout = \"5m\"\n\
         [models.x]\nkeep_alive = \"5m\"\n[retention]\nmax_age = \"5m\"\n",
    )
    .unwrap();
    let five = Duration::from_secs(300);
    assert_eq!((config.grace, config.hook_timeout), (five, five));
    assert_eq!(config.idle_timeout, KeepAlive::For(five));
    assert_eq!(config.models["x"].keep_alive, Some(KeepAlive::For(five)));
    assert_eq!(config.retention.max_age, Some(five));
    assert_eq!(parse("idle_timeout = \"forever\"").unwrap().idle_timeout, KeepAlive::Forever);
}

#[test]
fn what_differs_is_named_by_its_key() {
    let (old, new) = (parse("").unwrap(), parse("# a comment\ngrace = 10\n").unwrap());
    assert_eq!(old.changes(&new), [] as [&str; 0]);
    let new = parse("grace = 1\nmodel = \"m\"\n[engine]\nthreads = 1\n").unwrap();
    assert_eq!(old.changes(&new), ["model", "grace", "engine"]);
}

#[test]
fn values_out_of_range_are_refused() {
    for (text, words) in [
        ("engine_timeout = 0", "engine_timeout"),
        ("max_attempts = 0", "max_attempts"),
        ("max_queue = 0", "max_queue"),
        ("max_hooks = 0", "max_hooks"),
        ("[engine]\nthreads = 0", "[engine]: threads is 0"),
        ("[models.x]\ncontext = 0", "[models.x]: context is 0"),
        ("[defaults]\ntop_p = 3.0", "top_p"),
        ("[workspaces.a]\npath = \"\"", "[workspaces.a]"),
        ("[workspaces.a]\npath = \"p\"\ndefaults = { max_tokens = 0 }", "max_tokens"),
    ] {
        let failure = parse(text).unwrap_err();
        assert!(failure.message.contains(words), "{failure}");
    }
}

#[test]
fn paths_are_relative_to_the_home() {
    assert_eq!(expand(Path::new("code"), Path::new("/h")), Path::new("/h/code"));
    assert_eq!(expand(Path::new("/code"), Path::new("/h")), Path::new("/code"));
    let user = std::env::home_dir().unwrap();
    assert_eq!(expand(Path::new("~/code"), Path::new("/h")), user.join("code"));
}
