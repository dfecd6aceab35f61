use std::sync::Condvar;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use super::*;

/// A disk that counts how often `models/` is listed, and that hangs for names with `hung` in them
/// until it is let go, as a network mount does whose server is gone.
#[derive(Debug)]
pub(crate) struct Disk {
    disk: HomeModels,
    lists: AtomicUsize,
    /// How many threads hang, and whether they are let go.
    hangs: Mutex<(usize, bool)>,
    changed: Condvar,
}

/// After that time a hanging thread goes on, so that a test that waits for it fails.
const HANGS: Duration = Duration::from_secs(30);

impl Disk {
    pub(crate) fn new(home: &Home, config: &Config) -> Arc<Self> {
        let disk = HomeModels { home: home.clone(), config: config.clone() };
        let (lists, hangs) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { disk, lists, hangs, changed: Condvar::new() })
    }

    fn may_hang(&self, name: &str) {
        if name.contains("hung") {
            let mut hangs = self.hangs.lock().unwrap();
            hangs.0 += 1;
            self.changed.notify_all();
            drop(self.changed.wait_timeout_while(hangs, HANGS, |(_, go)| !*go).unwrap());
        }
    }

    /// How many threads hang.
    pub(crate) fn hangs(&self) -> usize {
        self.hangs.lock().unwrap().0
    }

    /// Lets all threads go, now and later.
    pub(crate) fn let_go(&self) {
        self.hangs.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl ModelDisk for Disk {
    fn list(&self) -> Result<Listing, Failure> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.disk.list()
    }

    fn usual(&self) -> BackendKind {
        self.disk.usual()
    }

    fn resolve(&self, asked: &Asked, listed: Arc<Listing>) -> Result<ModelRef, Failure> {
        self.may_hang(&name_of(asked));
        self.disk.resolve(asked, listed)
    }

    fn look(&self, model: ModelRef, listed: Arc<Listing>) -> FoundModel {
        self.may_hang(&model.name());
        self.disk.look(model, listed)
    }
}

/// Waits until something holds.
pub(crate) async fn eventually(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never holds");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn asked(name: Option<&str>) -> Asked {
    let model = name.map(str::to_owned);
    let query = ModelQuery { backend: Some(BackendKind::Llama), model, draft: None };
    Asked { query, workspace: None, drafted: true }
}

fn home(models: &[&str]) -> (TempDir, Home) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let home = Home::resolve(&root, |name| {
        (name == "THREADRUNNER_HOME").then(|| root.clone().into_os_string())
    });
    let home = home.unwrap();
    home.create().unwrap();
    for model in models {
        put(&home, model);
    }
    (dir, home)
}

fn put(home: &Home, model: &str) {
    std::fs::write(home.models_dir.join(model), "GGUF").unwrap();
}

#[tokio::test]
async fn the_directory_is_listed_once_and_again_for_a_name_that_is_not_in_it() {
    let (_dir, home) = home(&["a.gguf"]);
    let disk = Disk::new(&home, &Config::default());
    let catalog = ModelCatalog::on(disk.clone(), Some(BackendKind::Llama));
    for name in [Some("a"), None, Some("a")] {
        let found = catalog.resolve_soon(asked(name)).await.unwrap();
        assert_eq!(found.model.path, Some(home.models_dir.join("a.gguf")));
    }
    assert_eq!(disk.lists.load(Ordering::Relaxed), 1);
    put(&home, "b.gguf");
    assert!(catalog.resolve_soon(asked(Some("b"))).await.is_ok());
    assert_eq!(disk.lists.load(Ordering::Relaxed), 2);
    // A file that is gone is not believed to be there.
    std::fs::remove_file(home.models_dir.join("a.gguf")).unwrap();
    let failure = catalog.resolve_soon(asked(Some("a"))).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::ModelNotFound);
}

#[tokio::test]
async fn each_look_sees_the_file_that_is_there_now() {
    let (_dir, home) = home(&["a.gguf"]);
    let disk = Disk::new(&home, &Config::default());
    let catalog = ModelCatalog::on(disk, Some(BackendKind::Llama));
    let first = catalog.resolve_soon(asked(Some("a"))).await.unwrap();
    put(&home, "new");
    std::fs::rename(home.models_dir.join("new"), home.models_dir.join("a.gguf")).unwrap();
    let second = catalog.look(first.model).await.unwrap();
    assert!(first.files.were_replaced(&second.files));
}

#[tokio::test]
async fn the_dummy_needs_no_disk() {
    let (_dir, home) = home(&[]);
    let config = Config { backend: Some(BackendKind::Dummy), ..Config::default() };
    let disk = Disk::new(&home, &config);
    let catalog = ModelCatalog::on(disk.clone(), Some(BackendKind::Dummy));
    let mut anything = asked(Some("anything"));
    anything.query.backend = None;
    let model = catalog.resolve_soon(anything).await.unwrap().model;
    assert_eq!(model, ModelRef { backend: BackendKind::Dummy, path: None, draft: None });
    assert_eq!(disk.lists.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_model_whose_disk_hangs_is_given_up_and_takes_few_threads_and_no_other_model_with_it() {
    let (_dir, home) = home(&["a.gguf", "hung.gguf"]);
    let disk = Disk::new(&home, &Config::default());
    let catalog = ModelCatalog::on(disk.clone(), Some(BackendKind::Llama));
    let clients: Vec<_> = (0..2 * AT_ONCE)
        .map(|_| {
            let catalog = catalog.clone();
            tokio::spawn(async move { catalog.resolve_soon(asked(Some("hung"))).await })
        })
        .collect();
    eventually(|| disk.hangs() > 0).await;
    let start = Instant::now();
    catalog.resolve_soon(asked(Some("a"))).await.unwrap();
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    for client in clients {
        let failure = client.await.unwrap().unwrap_err();
        assert_eq!(failure.code, ErrorCode::ModelLoad);
        assert!(failure.message.contains("did not answer"), "{failure}");
    }
    assert!((1..=4).contains(&disk.hangs()), "{}", disk.hangs());
    disk.let_go();
    catalog.resolve_soon(asked(Some("hung"))).await.unwrap();
}

#[tokio::test]
async fn the_listing_follows_the_directory() {
    let (_dir, home) = home(&["a.gguf"]);
    let catalog = ModelCatalog::of(&home, &Config::default());
    let listed = || catalog.0.listed.lock().unwrap().clone();
    eventually(|| listed().is_some()).await;
    let before = listed();
    put(&home, "b.gguf");
    eventually(|| listed() != before).await;
    // Two models, and none was chosen.
    let failure = catalog.resolve_soon(asked(None)).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::NoModel);
}
