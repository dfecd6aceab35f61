//! What files a model is made of: a path may name another file by now.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use threadrunner_core::ModelRef;

/// A model in more parts than this is not loaded either.
const MOST_PARTS: u32 = 512;

/// The files of a model and of its draft model, as they are at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ModelFiles(Vec<Option<FileId>>);

/// By which it is seen that a file is another. Not when its status changed: a link to it changes
/// that too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    length: u64,
    written: (i64, i64),
}

impl ModelFiles {
    /// Those that the model's paths name now.
    pub(crate) fn of(model: &ModelRef) -> Self {
        let paths = [&model.path, &model.draft].into_iter().flatten();
        Self(paths.flat_map(|path| parts(path)).map(|part| FileId::of(&part)).collect())
    }

    /// Whether any of them has been replaced by another since. One that is gone has not: what was
    /// loaded of it is all there is.
    pub(crate) fn were_replaced(&self, now: &Self) -> bool {
        let replaced =
            |(then, now): (&Option<FileId>, &Option<FileId>)| now.is_some() && then != now;
        self.0.iter().zip(&now.0).any(replaced)
    }
}

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// A model's files: its path, and of one that is `NAME-00001-of-00003.gguf` all its parts.
fn parts(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some((prefix, count)) = name.and_then(in_parts) else { return vec![path.to_owned()] };
    (1..=count.min(MOST_PARTS))
        .map(|number| path.with_file_name(format!("{prefix}-{number:05}-of-{count:05}.gguf")))
        .collect()
}

/// What stands before the number of the first part, and how many there are.
fn in_parts(name: &str) -> Option<(&str, u32)> {
    let (front, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let digits = count.len() == 5 && count.bytes().all(|byte| byte.is_ascii_digit());
    Some((front.strip_suffix("-00001")?, count.parse().ok().filter(|_| digits)?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use threadrunner_core::BackendKind;

    use super::*;

    #[test]
    fn a_file_that_took_the_place_of_another_is_seen_whatever_it_looks_like() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let model = ModelRef { backend: BackendKind::Llama, path: Some(path.clone()), draft: None };
        fs::write(&path, "one").unwrap();
        let first = ModelFiles::of(&model);
        // A link to it, and its end, change nothing of what was loaded.
        fs::hard_link(&path, folder.path().join("link")).unwrap();
        assert_eq!(ModelFiles::of(&model), first);
        fs::remove_file(&path).unwrap();
        assert!(!first.were_replaced(&ModelFiles::of(&model)));
        // As long as the first, and as old.
        let new = folder.path().join("new");
        fs::write(&new, "two").unwrap();
        let written = fs::metadata(folder.path().join("link")).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&new).unwrap().set_modified(written).unwrap();
        fs::rename(new, &path).unwrap();
        assert!(first.were_replaced(&ModelFiles::of(&model)));
    }

    #[test]
    fn any_part_and_the_draft_model_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "d.gguf"];
        for name in names {
            fs::write(file(name), "one").unwrap();
        }
        let model = ModelRef {
            backend: BackendKind::Llama,
            path: Some(file(names[0])),
            draft: Some(file(names[2])),
        };
        for name in names {
            let before = ModelFiles::of(&model);
            fs::write(file(name), "longer").unwrap();
            let now = ModelFiles::of(&model);
            assert!(before.were_replaced(&now), "{name}");
            fs::write(file(name), "and longer").unwrap();
        }
        for other in ["m.gguf", "m-00002-of-00002.gguf", "m-00001-of-2.gguf", "m-1-of-00002.gguf"] {
            assert_eq!(in_parts(other), None, "{other}");
        }
    }
}
