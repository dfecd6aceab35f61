use super::verbs::{MODELS, REMOVE};
use super::*;

fn question(arguments: &[&str]) -> Option<Question> {
    let words: Vec<_> = arguments.iter().map(|&word| word.to_owned()).collect();
    let arguments: Vec<_> = words.iter().map(OsString::from).collect();
    Question::about(&words, &arguments)
}

/// The command that is suggested for words, `?` for an explanation; empty for a prompt.
fn suggested(question: Option<Question>) -> String {
    match question.map(|question| question.meant) {
        Some(Ok(command)) => shown(&command),
        Some(Err(_)) => "?".to_owned(),
        None => String::new(),
    }
}

fn meant(words: &[&str]) -> String {
    suggested(question(words))
}

#[test]
fn a_word_that_is_nearly_a_command_is_asked_about() {
    for (typed, command) in [
        ("modles", "models"),
        ("model", "models"),
        ("session", "sessions"),
        ("staus", "status"),
        ("sattus", "status"),
        ("stat", "status"),
        ("job", "jobs"),
        ("jbos", "jobs"),
        ("relsut", "result"),
        ("unlaod", "unload"),
        ("dameon", "daemon"),
        ("docter", "doctor"),
        ("completion", "completions"),
        ("chta", "chat"),
        ("sp", "ps"),
        ("mr", "rm"),
        ("rnu", "run"),
        ("rn", "run"),
        ("runn", "run"),
        ("hlep", "help"),
        ("Modles", "models"),
        ("JOBS", "jobs"),
        ("Jobs", "jobs"),
        ("STOP", "daemon stop"),
        ("modles ", "models"),
        (" models", "models"),
        ("configure", "config edit"),
        ("conf", "config"),
        ("serv", "daemon run"),
        ("lits", "models"),
    ] {
        assert_eq!(meant(&[typed]), command, "{typed}");
    }
}

#[test]
fn a_mistyped_command_with_what_it_takes_is_asked_about() {
    for (typed, command) in [
        ("deamon stop", "daemon stop"),
        ("deamon logs", "daemon logs"),
        ("daemn start", "daemon start"),
        ("rsult last", "result last"),
        ("rsult 123_4 125_6 last", "result 123_4 125_6 last"),
        ("cancle last", "cancel last"),
        ("follw last", "follow last"),
        ("wiat last", "wait last"),
        ("retyr 17_3", "retry 17_3"),
        ("sesions show trip", "sessions show trip"),
        ("sesions rm trip", "sessions rm trip"),
        ("modles default x", "models default x"),
        ("modles list", "models"),
        ("lod mymodel", "load mymodel"),
        ("unlod mymodel", "unload mymodel"),
        ("bacth prompts.jsonl", "batch prompts.jsonl"),
        ("confg show", "config show"),
        ("completion bash", "completions bash"),
        ("hlep jobs", "help jobs"),
        ("DAEMON STOP", "daemon stop"),
        ("Daemon stop", "daemon stop"),
        ("rnu hello", "run hello"),
    ] {
        let words: Vec<_> = typed.split(' ').collect();
        assert_eq!(meant(&words), command, "{typed}");
    }
}

#[test]
fn what_other_programs_call_a_command_is_asked_about() {
    for (typed, command) in [
        ("logs", "daemon logs"),
        ("list", "models"),
        ("stop", "daemon stop"),
        ("stop llama3", "unload llama3"),
        ("stop mistral", "unload mistral"),
        ("stop all", "unload"),
        ("stop 5", "cancel 5"),
        ("show mistral", "models"),
        ("show last", "result last"),
        ("show jobs", "jobs"),
        ("list sessions", "sessions"),
        ("start mistral", "load mistral"),
        ("kill 5", "cancel 5"),
        ("kill", "?"),
        ("quit", "?"),
        ("exit", "?"),
        ("create mistral", "?"),
        ("search llama", "?"),
        ("pul llama3", "?"),
        ("pull mistral", "?"),
        ("pull hf.co/org/model:Q4", "?"),
        ("Pull llama3", "?"),
        ("push me/mine", "?"),
        ("cp llama3 my", "?"),
        ("tag a b", "?"),
        ("rmi x", "?"),
        ("delete mistral", "?"),
        ("delete 5", "rm 5"),
        ("attach last", "follow last"),
        ("logs 17_1", "follow 17_1"),
        ("save llama3", "?"),
        ("compose up", "?"),
        ("image ls", "models"),
        ("image rm x", "models"),
        ("container ls", "ps"),
        ("system prune", "status"),
        ("build .", "?"),
        ("pause", "?"),
        ("diff", "?"),
        ("commit", "?"),
        ("network", "?"),
        ("volume", "?"),
        ("events", "jobs --watch"),
        ("signin", "?"),
        ("signout", "?"),
        ("launch", "chat"),
        ("launch llama3", "chat -m llama3"),
    ] {
        let words: Vec<_> = typed.split(' ').collect();
        assert_eq!(meant(&words), command, "{typed}");
    }
    assert_eq!(question(&["pull", "x"]).unwrap().meant, Err(MODELS));
    assert_eq!(question(&["remove", "llama3"]).unwrap().meant, Err(REMOVE));
}

#[test]
fn every_verb_is_no_command_and_means_one() {
    for verb in verbs::names() {
        assert!(!command_names().iter().any(|command| command == verb), "{verb} is a command");
        let Ok(command) = verbs::meaning(verb, &[]).expect("it means something alone") else {
            continue;
        };
        let words = [PROGRAM].into_iter().chain(command.split(' '));
        let parsed = Cli::try_parse_from(words);
        let refused = parsed.is_err_and(|error| error.use_stderr());
        assert!(!refused, "{verb}: `{command}` is no command");
    }
}

#[test]
fn everything_else_is_a_prompt() {
    for typed in [
        "hello",
        "hi",
        "test",
        "joke",
        "explain",
        "translate",
        "summarize",
        "review",
        "sun",
        "rum",
        "yellow",
        "what",
        "state",
        "watch",
        "road",
        "docker",
        "logs?",
        "1",
        "what is love",
        "what is",
        "show me",
        "Show me",
        "show me the way",
        "stop it",
        "stop worrying",
        "stop worrying about it",
        "Stop pollution",
        "build a house",
        "build muscle",
        "list three rivers",
        "list files",
        "log in",
        "pull the lever",
        "pull yourself!",
        "push me",
        "search for llamas",
        "create a poem",
        "tag a photo",
        "tag these words",
        "compose music",
        "compose a song",
        "commit message",
        "system design",
        "network effects",
        "volume of a sphere",
        "image of a cat",
        "kill two birds with one stone",
        "modles explained to me",
        "Model railways",
        "staus of things",
        "state machines",
        "cat food",
        "road trip",
        "demon slayer",
        "cancer treatment",
        "patch notes",
        "rsult of the match",
        "deamon stop the car now",
        "wiat for me",
        "hlep me",
        "pause the music",
        "diff these files",
        "job interview",
        "job ideas",
        "model trains",
        "session musicians",
        "helm charts",
        "help wanted",
        "HELP WANTED",
        "PS vita",
        "walt disney",
        "gait analysis",
        "completion rates",
        "Bach",
        "coat",
        "install python",
        "create haiku",
        "save money",
        "search engines",
        "remove duplicates",
        "show tunes",
        "kill weeds",
        "stop war",
        "exec summary",
        "tag lines",
    ] {
        let words: Vec<_> = typed.split(' ').collect();
        assert_eq!(meant(&words), "", "{typed}");
    }
    for words in [&[""][..], &[" "], &["jobs are hard"], &["list files"], &["deamon stop"]] {
        assert_eq!(meant(words), "", "{words:?}");
    }
    assert_eq!(meant(&["rsult", "last week"]), "");
}

#[test]
fn an_option_that_a_prompt_does_not_take_hides_no_command() {
    let refused = |typed: &str| {
        let arguments: Vec<_> = typed.split(' ').map(OsString::from).collect();
        suggested(Question::about_refused(&arguments))
    };
    assert_eq!(refused("logs -f"), "daemon logs -f");
    assert_eq!(refused("serve --port 80"), "daemon run");
    assert_eq!(refused("jbos --watch"), "jobs --watch");
    assert_eq!(refused("rsult last --nonsense"), "result last");
    assert_eq!(refused("logs of the engine --follow"), "");
    assert_eq!(refused("--port 80"), "");
    let arguments = ["logs", "-f"].map(OsString::from);
    let question = Question::about_refused(&arguments).unwrap();
    assert!(question.to_a_script().contains("threadrunner run -- logs -f"));
    assert_eq!(question.answered("p").unwrap(), ["run", "--", "logs", "-f"]);
}

#[test]
fn a_model_is_no_prompt_for_run() {
    let ask = |typed: &str| {
        let arguments: Vec<_> = typed.split(' ').map(OsString::from).collect();
        let words = typed.split(' ').filter(|it| *it != "run" && *it != "--json");
        let words: Vec<_> = words.map(str::to_owned).collect();
        Question::about_run(&words, &arguments, |name| name == "Tiny")
    };
    for model in ["llama3", "llama3.2:1b", "mistral", "Tiny", "qwen2.5", "x.gguf", "hf.co/a/b7"] {
        let command = format!("chat -m {model}");
        assert_eq!(suggested(ask(&format!("run {model}"))), command, "{model}");
    }
    for prompt in [
        "hello",
        "staus",
        "3",
        "2+2",
        "tiny",
        "H2O",
        "llama3 now",
        "jobs",
        "python3",
        "base64",
        "covid19",
        "philosophy",
    ] {
        assert_eq!(suggested(ask(&format!("run {prompt}"))), "", "{prompt}");
    }
    let question = ask("run --json llama3").unwrap();
    assert!(question.to_a_script().contains("`threadrunner run -- llama3`"));
    assert!(question.to_a_person().contains("looks like a model"));
    assert_eq!(question.clone().answered("y").unwrap(), ["chat", "-m", "llama3"]);
    assert_eq!(question.answered("p").unwrap(), ["run", "--json", "--", "llama3"]);
}

#[test]
fn the_answer_keeps_the_options_that_the_command_takes() {
    let ask = |word: &str| {
        let arguments = ["--json", word].map(OsString::from);
        Question::about(&[word.to_owned()], &arguments).unwrap()
    };
    let asked = |answer: &str| ask("list").answered(answer);
    assert_eq!(asked("y\n").unwrap(), ["models", "--json"]);
    assert_eq!(asked("p\n").unwrap(), ["run", "--json", "--", "list"]);
    assert_eq!((asked("\n"), asked("no")), (None, None));
    assert_eq!(ask("logs").answered("y").unwrap(), ["daemon", "logs"]);
    let question = ask("pull");
    assert_eq!(question.clone().answered("y"), None);
    assert!(question.to_a_person().contains("GGUF"));
    assert!(question.to_a_script().contains("threadrunner run pull"));
}
