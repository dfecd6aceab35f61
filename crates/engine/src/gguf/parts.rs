//! A model in several files.

use std::path::{Path, PathBuf};

/// The files of a model: itself, and where it is `NAME-00001-of-00003.gguf` those beside it that
/// are named alike, which llama.cpp opens by itself.
pub(crate) fn parts(model: &Path) -> Vec<PathBuf> {
    let mut parts = vec![model.to_owned()];
    let name = model.file_name().and_then(|name| name.to_str());
    if let (Some((prefix, suffix)), Some(folder)) = (name.and_then(split), model.parent()) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        parts.extend(names.filter_map(|entry| {
            let name = entry.file_name();
            (split(name.to_str()?)? == (prefix, suffix)).then(|| entry.path())
        }));
    }
    parts
}

/// What stands before and after the number of a part.
fn split(name: &str) -> Option<(&str, &str)> {
    let (front, count) = name.rsplit_once("-of-")?;
    let (prefix, number) = front.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(number) && digits(count.strip_suffix(".gguf")?)).then_some((prefix, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_in_parts_is_all_of_its_parts_and_nothing_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "m-00001-of-00002.gguf",
            "m-00002-of-00002.gguf",
            "m-00001-of-00003.gguf",
            "n-00001-of-00002.gguf",
            "secret",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let mut found = parts(&folder.path().join("m-00001-of-00002.gguf"));
        found.sort();
        found.dedup();
        let wanted = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        assert_eq!(found, wanted.map(|name| folder.path().join(name)));
        assert_eq!(parts(&folder.path().join("secret")), [folder.path().join("secret")]);
    }

    #[test]
    fn only_the_numbers_of_parts_are_numbers_of_parts() {
        assert_eq!(split("a-b-00001-of-00002.gguf"), Some(("a-b", "00002.gguf")));
        for other in ["a.gguf", "a-1-of-2.gguf", "a-0000x-of-00002.gguf", "a-00001-of-00002.bin"] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
