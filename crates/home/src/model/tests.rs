use std::fs;

use threadrunner_core::ErrorCode;

use super::*;
use crate::model_files::*;
use tempfile::TempDir;

/// A home with these files in its `models/`.
pub(crate) fn home_with(models: &[&str]) -> (TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    // Resolved paths are canonical, and the system's temporary directory may be a link.
    let root = dir.path().canonicalize().unwrap();
    let home = Home::resolve(Path::new("/"), |name| {
        (name == "THREADRUNNER_HOME").then(|| root.clone().into())
    })
    .unwrap();
    home.create().unwrap();
    for model in models {
        fs::write(home.models_dir.join(model), "GGUF").unwrap();
    }
    (dir, home)
}

struct Fixture {
    dir: TempDir,
    home: Home,
    config: Config,
}

impl Fixture {
    fn new(models: &[&str]) -> Self {
        let (dir, home) = home_with(models);
        Self { dir, home, config: Config::default() }
    }

    fn resolve(&self, name: Option<&str>) -> Result<PathBuf, Failure> {
        let model = resolve_model(&self.home, &self.config, BackendKind::Llama, name)?;
        Ok(model.path.unwrap())
    }

    fn in_models(&self, file: &str) -> PathBuf {
        self.home.models_dir.join(file)
    }
}

#[test]
fn the_only_model_is_the_default() {
    let f = Fixture::new(&["a.gguf", "notes.txt", "b.gguf.part"]);
    assert_eq!(f.resolve(None).unwrap(), f.in_models("a.gguf"));
}

#[test]
fn a_link_goes_by_its_own_name_and_by_that_of_its_file() {
    let mut f = Fixture::new(&["small.gguf"]);
    let elsewhere = |folder: &str, name: &str| {
        let folder = f.home.root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), "GGUF").unwrap();
        folder.join(name)
    };
    let blob = elsewhere("blobs", "sha256-1234");
    let long = elsewhere("blobs", "Llama-3.Q4_1.gguf");
    let small = elsewhere("blobs", "small.gguf");
    let twin = elsewhere("others", "Llama-3.Q4_1.gguf");
    let link = |to: &Path, name: &str| {
        std::os::unix::fs::symlink(to, f.home.models_dir.join(name)).unwrap();
    };
    link(&blob, "ollama.gguf");
    link(&long, "llama3.gguf");
    link(&long, "again.gguf");
    link(&small, "other.gguf");
    for (name, path) in [
        ("ollama", &blob),
        ("sha256-1234", &blob),
        ("llama3", &long),
        ("Llama-3.Q4_1", &long),
        ("Llama-3.Q4_1.gguf", &long),
        // An entry's own name goes first.
        ("small", &f.in_models("small.gguf")),
    ] {
        assert_eq!(f.resolve(Some(name)).unwrap(), *path, "{name}");
        let model = resolve_model(&f.home, &f.config, BackendKind::Llama, Some(name)).unwrap();
        let shown = f.resolve(Some(&model.name()));
        assert!(shown.is_ok(), "{name}: {shown:?}");
        let text = format!("[models.{name:?}]\npin = true\n");
        let config = Config::parse(&text, Path::new("config.toml")).unwrap();
        assert!(config.model_settings(&f.home, &model).pin, "{name}");
    }
    link(&twin, "llama4.gguf");
    let failure = f.resolve(Some("Llama-3.Q4_1")).unwrap_err();
    assert!(failure.message.contains("is both"), "{failure}");
    // So does an alias.
    f.config.aliases.insert("Llama-3.Q4_1".to_owned(), "llama4".to_owned());
    assert_eq!(f.resolve(Some("Llama-3.Q4_1")).unwrap(), twin);
}

#[test]
fn no_model_says_where_to_put_one() {
    let f = Fixture::new(&[]);
    let failure = f.resolve(None).unwrap_err();
    assert_eq!(failure.code, ErrorCode::NoModel);
    let hint = failure.hint.unwrap();
    assert!(hint.contains(f.home.models_dir.to_str().unwrap()), "{hint}");
    // There may be no checkout.
    assert!(hint.contains("https://") && !hint.contains("scripts/"), "{hint}");
}

#[test]
fn several_models_are_listed() {
    let f = Fixture::new(&["b.gguf", "a.gguf"]);
    let failure = f.resolve(None).unwrap_err();
    assert_eq!(failure.code, ErrorCode::NoModel);
    assert!(failure.message.contains("a, b"), "{failure}");
}

#[test]
fn a_flag_beats_the_variable_beats_the_configuration() {
    let mut f = Fixture::new(&["a.gguf", "b.gguf", "c.gguf"]);
    f.config.model = Some("c".into());
    assert_eq!(f.resolve(None).unwrap(), f.in_models("c.gguf"));
    f.home.model_path = Some(f.in_models("b.gguf"));
    assert_eq!(f.resolve(None).unwrap(), f.in_models("b.gguf"));
    assert_eq!(f.resolve(Some("a")).unwrap(), f.in_models("a.gguf"));
}

#[test]
fn a_name_is_a_stem_a_file_an_alias_or_a_path() {
    let mut f = Fixture::new(&["SmolLM2.Q4.gguf", "other.GGUF"]);
    let elsewhere = f.home.root.join("elsewhere.bin");
    fs::write(&elsewhere, "GGUF").unwrap();
    f.config.aliases.insert("small".into(), "SmolLM2.Q4".into());
    f.config.aliases.insert("else".into(), "./elsewhere.bin".into());
    let smol = f.in_models("SmolLM2.Q4.gguf");
    assert_eq!(f.resolve(Some("SmolLM2.Q4")).unwrap(), smol);
    assert_eq!(f.resolve(Some("SmolLM2.Q4.gguf")).unwrap(), smol);
    assert_eq!(f.resolve(Some("small")).unwrap(), smol);
    assert_eq!(f.resolve(Some("else")).unwrap(), elsewhere);
    assert_eq!(f.resolve(elsewhere.to_str()).unwrap(), elsewhere);
    assert_eq!(f.resolve(Some("other")).unwrap(), f.in_models("other.GGUF"));
}

#[test]
fn an_unknown_name_suggests_near_ones() {
    let mut f = Fixture::new(&["SmolLM2-135M-Instruct.gguf", "gemma-3.gguf"]);
    f.config.aliases.insert("tiny".into(), "gemma-3".into());
    for (name, near) in [("smollm", "SmolLM2-135M"), ("gema-3", "gemma-3"), ("tinny", "tiny")] {
        let failure = f.resolve(Some(name)).unwrap_err();
        assert_eq!(failure.code, ErrorCode::ModelNotFound);
        assert!(failure.hint.as_ref().unwrap().contains(near), "{name}: {failure:?}");
    }
    let hint = f.resolve(Some("zzz")).unwrap_err().hint.unwrap();
    assert!(hint.contains("threadrunner models"), "{hint}");
}

#[test]
fn a_path_that_is_no_file_says_what_it_is() {
    let mut f = Fixture::new(&[]);
    let missing = f.resolve(Some("/nowhere/m.gguf")).unwrap_err();
    assert_eq!(missing.code, ErrorCode::ModelNotFound);
    assert!(missing.message.contains("/nowhere/m.gguf"), "{missing}");
    let directory = f.resolve(f.dir.path().to_str()).unwrap_err();
    assert!(directory.message.contains("is a directory"), "{directory}");
    f.home.model_path = Some("/nowhere/m.gguf".into());
    let variable = f.resolve(None).unwrap_err();
    assert!(variable.message.contains("THREADRUNNER_MODEL_PATH"), "{variable}");
}

#[test]
fn an_alias_to_nothing_is_named() {
    let mut f = Fixture::new(&[]);
    f.config.aliases.insert("small".into(), "gone".into());
    f.config.aliases.insert("gone".into(), "small".into());
    let failure = f.resolve(Some("small")).unwrap_err();
    assert!(failure.message.contains("alias 'small'"), "{failure}");
}

#[test]
fn of_a_split_model_only_the_first_part_is_listed() {
    let f = Fixture::new(&["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]);
    assert_eq!(f.resolve(None).unwrap(), f.in_models("big-00001-of-00002.gguf"));
}

#[test]
fn the_dummy_needs_no_model() {
    let f = Fixture::new(&[]);
    let model = resolve_model(&f.home, &f.config, BackendKind::Dummy, Some("any")).unwrap();
    assert_eq!(model, ModelRef { backend: BackendKind::Dummy, path: None, draft: None });
}

#[test]
fn the_backend_is_the_flag_the_variable_the_configuration_the_engine() {
    let mut f = Fixture::new(&[]);
    f.home.engine_backend = BackendKind::Dummy.into();
    assert_eq!(resolve_backend(None, &f.home, &f.config), BackendKind::Dummy);
    f.config.backend = Some(BackendKind::Llama);
    assert_eq!(resolve_backend(None, &f.home, &f.config), BackendKind::Llama);
    f.home.backend = Some(BackendKind::Dummy);
    assert_eq!(resolve_backend(None, &f.home, &f.config), BackendKind::Dummy);
    let flag = Some(BackendKind::Llama);
    assert_eq!(resolve_backend(flag, &f.home, &f.config), BackendKind::Llama);
}

#[test]
fn a_workspace_has_its_own_model_unless_the_request_names_one() {
    let mut f = Fixture::new(&["a.gguf", "b.gguf"]);
    let text = "model = \"a\"\n[workspaces.code]\nmodel = \"b\"\n[workspaces.plain]\n\
                [workspaces.bad]\nmodel = \"c\"\n";
    f.config = Config::parse(text, Path::new("config.toml")).unwrap();
    // The variable takes the place of the general default, not of a workspace's own model.
    f.home.model_path = Some(f.in_models("a.gguf"));
    let resolve = |workspace: &str, name: Option<&str>| {
        let workspace = f.config.workspace(&f.home, Some(&workspace.into())).unwrap();
        let llama = BackendKind::Llama;
        resolve_workspace_model(&f.home, &f.config, &workspace, llama, name)
            .map(|model| model.path.unwrap())
            .map_err(|failure| failure.message)
    };
    assert_eq!(resolve("code", None).unwrap(), f.in_models("b.gguf"));
    assert_eq!(resolve("code", Some("a")).unwrap(), f.in_models("a.gguf"));
    assert_eq!(resolve("plain", None).unwrap(), f.in_models("a.gguf"));
    let message = resolve("bad", None).unwrap_err();
    assert!(message.starts_with("the model of the workspace 'bad': "), "{message}");
}

#[test]
fn a_draft_model_is_named_as_a_model_is_or_configured_for_it_or_none() {
    let mut f = Fixture::new(&["big.gguf", "small.gguf", "tiny.gguf"]);
    f.config.aliases.insert("s".into(), "small".into());
    let big = resolve_model(&f.home, &f.config, BackendKind::Llama, Some("big")).unwrap();
    let draft = |f: &Fixture, name: Option<&str>| {
        resolve_draft(&f.home, &f.config, big.clone(), name).map(|model| model.draft)
    };
    assert_eq!(draft(&f, None), Ok(None));
    assert_eq!(draft(&f, Some("s")), Ok(Some(f.in_models("small.gguf"))));
    let settings =
        crate::ModelConfig { draft: Some("models/tiny.gguf".into()), ..Default::default() };
    f.config.models.insert("big".into(), settings);
    assert_eq!(draft(&f, None), Ok(Some(f.in_models("tiny.gguf"))));
    assert_eq!(draft(&f, Some("small")), Ok(Some(f.in_models("small.gguf"))));
    assert_eq!(draft(&f, Some("none")), Ok(None));
    let failure = draft(&f, Some("smal")).unwrap_err();
    assert_eq!(failure.code, ErrorCode::ModelNotFound);
    assert!(failure.message.starts_with("the draft model: "), "{failure}");
    assert!(failure.hint.unwrap().contains("small"));
}

#[test]
fn the_dummy_needs_no_draft_model_but_its_name() {
    let f = Fixture::new(&[]);
    let dummy = ModelRef { backend: BackendKind::Dummy, path: None, draft: None };
    let drafted = resolve_draft(&f.home, &f.config, dummy, Some("any")).unwrap();
    assert_eq!(drafted.draft_name().as_deref(), Some("any"));
}

#[test]
fn a_link_that_leads_nowhere_is_named_with_where_it_leads() {
    let f = Fixture::new(&[]);
    let target = f.dir.path().join("gone/big.gguf");
    std::os::unix::fs::symlink(&target, f.in_models("big.gguf")).unwrap();
    std::os::unix::fs::symlink("loop.gguf", f.in_models("loop.gguf")).unwrap();
    let said = format!("a link to {}, which does not exist", target.display());
    for name in [None, Some("big"), Some("big.gguf"), f.in_models("big.gguf").to_str()] {
        let failure = f.resolve(name).unwrap_err();
        assert_eq!(failure.code, ErrorCode::ModelNotFound);
        assert!(failure.message.contains(&said), "{name:?}: {failure}");
    }
    let looped = f.resolve(Some("loop")).unwrap_err();
    assert!(looped.message.contains("a link to loop.gguf, which cannot be used"), "{looped}");
    // If there is another model, it is the only one.
    fs::write(f.in_models("a.gguf"), "GGUF").unwrap();
    assert_eq!(f.resolve(None).unwrap(), f.in_models("a.gguf"));
    let links: Vec<_> = dangling_links(&f.home).into_iter().map(|link| link.name).collect();
    assert_eq!(links, ["big", "loop"]);
}

#[test]
fn what_was_listed_before_is_not_listed_again() {
    let mut f = Fixture::new(&["a.gguf"]);
    f.home.listed = Some(std::sync::Arc::new(Listing::read(&f.home).unwrap()));
    fs::write(f.in_models("b.gguf"), "GGUF").unwrap();
    assert_eq!(f.resolve(None).unwrap(), f.in_models("a.gguf"));
    assert_eq!(f.resolve(Some("b")).unwrap_err().code, ErrorCode::ModelNotFound);
    f.home.listed = Some(std::sync::Arc::new(Listing::read(&f.home).unwrap()));
    assert_eq!(f.resolve(Some("b")).unwrap(), f.in_models("b.gguf"));
    // The file itself is looked at each time.
    fs::remove_file(f.in_models("a.gguf")).unwrap();
    assert_eq!(f.resolve(Some("a")).unwrap_err().code, ErrorCode::ModelNotFound);
}
