//! Runs what the documentation shows.

use std::fs;
use std::path::Path;
use std::process::Command;

use threadrunner_tests::{Finished, TestHome, program};

/// A page of `docs/`.
fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(path).expect("the page is there")
}

/// The first code block in this language on a page of `docs/`.
fn block(name: &str, language: &str) -> String {
    let page = page(name);
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("a block");
    rest.split_once("\n```").expect("its end").0.to_owned()
}

#[test]
fn the_python_client_of_the_protocol_page_gets_its_answer() {
    let home = TestHome::new();
    home.start_daemon();
    let script = home.root().join("client.py");
    fs::write(&script, block("protocol.md", "python")).unwrap();
    let output = Command::new("python3")
        .arg(script)
        .args(["Hello,", "how", "are", "you?"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("THREADRUNNER_HOME", home.root())
        .output()
        .unwrap();
    let finished = Finished::from(output).expect(0);
    assert_eq!(finished.stdout, "lorem ipsum dolor sit amet Hello. how. are. you.\n");
}

/// The named scripts of a page.
fn recipes(name: &str) -> Vec<(String, String)> {
    let page = page(name);
    let marked = page.split("<!-- test: ").skip(1);
    let recipe = |text: &str| {
        let (name, rest) = text.split_once(" -->\n```bash\n").expect("a name and a block");
        let (script, _) = rest.split_once("\n```").expect("the block's end");
        (name.to_owned(), script.to_owned())
    };
    let recipes: Vec<_> = marked.map(recipe).collect();
    assert_eq!(recipes.len(), page.matches("```bash").count(), "a block has no name");
    recipes
}

#[test]
fn every_recipe_works() {
    let answer = |words: &str| format!("lorem ipsum dolor sit amet {words}");
    // What each script must print, among other things, with the dummy's answers.
    let expected = [
        ("batch", answer("How. old. is. the. sun.\n")),
        ("batch-in-a-pipe", answer("Describe. hail. in. five. words.\n")),
        ("batch-openai", answer("Why. is. the. sky. blue.\n")),
        ("map-reduce", "is. about. rain. lorem. ipsum. dolor. sit. amet. The. second.".to_owned()),
        ("chain", answer("Shorten. to. three. sentences. lorem. ipsum.")),
        ("watching", answer("Describe. Oslo.\n")),
        ("hook", answer("Describe. snow.")),
        ("refine", "Critique. lorem. ipsum.".to_owned()),
        ("accumulate", "Line. 30. of. a. long. report.\n".to_owned()),
        ("route", answer("Why. is. the. sky. blue.\n")),
        ("agent", "Is. there. room. on. the. disk.\n".to_owned()),
        ("night", "Write report number 3.".to_owned()),
        ("conversation", format!("{}\n2\n", answer("What. could. break."))),
    ];
    let mut recipes = recipes("cookbook.md");
    recipes.extend(self::recipes("conversations.md"));
    assert_eq!(recipes.len(), expected.len());
    for ((name, script), (expected_name, printed)) in recipes.iter().zip(expected) {
        assert_eq!(name, expected_name);
        let home = TestHome::new();
        home.start_daemon();
        let directory = home.root().join("recipe");
        fs::create_dir(&directory).expect("a directory can be made");
        let programs = program("threadrunner");
        let programs = programs.parent().expect("programs are in a directory");
        let path = std::env::var("PATH").unwrap_or_default();
        let output = home
            .command("threadrunner-daemon")
            .get_envs()
            .fold(Command::new("bash"), |mut bash, (key, value)| {
                bash.env(key, value.unwrap_or_default());
                bash
            })
            .env("PATH", format!("{}:{path}", programs.display()))
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(&directory)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("bash runs");
        let finished = Finished::from(output).expect(0);
        assert!(finished.stdout.contains(&printed), "{name}: {}", finished.stdout);
        assert_eq!(home.jobs_in("failed"), [] as [&str; 0], "{name}");
    }
}
