//! The identity of a model's files, to notice that a path names another file by now.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use threadrunner_core::ModelRef;

/// The maximum number of parts of a model: more than any loadable model has.
const MOST_PARTS: u32 = 512;

/// The files of a model and its draft model at one moment, in path order; `None` for a missing one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ModelFiles(Vec<Option<FileId>>);

/// Identifies a file's content. Leaves the change time out: making a link to the file alters it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    length: u64,
    written: (i64, i64),
}

impl ModelFiles {
    /// Looks up the files that the model's paths name now.
    pub(crate) fn of(model: &ModelRef) -> Self {
        let paths = [&model.path, &model.draft].into_iter().flatten();
        Self(paths.flat_map(|path| parts(path)).map(|part| FileId::of(&part)).collect())
    }

    /// Whether any of the files has been replaced. A missing file does not count: what was loaded
    /// is all there is.
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

/// A model's files: the path itself, or all parts if it is named `NAME-00001-of-00003.gguf`.
fn parts(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some((prefix, count)) = name.and_then(in_parts) else { return vec![path.to_owned()] };
    (1..=count.min(MOST_PARTS))
        .map(|number| path.with_file_name(format!("{prefix}-{number:05}-of-{count:05}.gguf")))
        .collect()
}

/// Splits the name of a first part into what precedes its number, and the number of parts.
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
        // Neither a link to it nor its removal changes what was loaded.
        fs::hard_link(&path, folder.path().join("link")).unwrap();
        assert_eq!(ModelFiles::of(&model), first);
        fs::remove_file(&path).unwrap();
        assert!(!first.were_replaced(&ModelFiles::of(&model)));
        // As long and as old as the first.
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
