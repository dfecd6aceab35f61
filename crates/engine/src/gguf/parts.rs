//! The files of a model: one, or several numbered parts.

use std::path::{Path, PathBuf};

/// The maximum number of parts. A number's five digits would allow more, but so many files cannot
/// be open.
const MOST_PARTS: u32 = 512;

/// Returns the files of a model: `model` itself and, if it is named like
/// `NAME-00001-of-00003.gguf`, the other parts that exist, which llama.cpp opens on its own. Looks
/// them up by name, because no directory can be listed behind the fence.
pub(crate) fn parts(model: &Path) -> Vec<PathBuf> {
    let name = model.file_name().and_then(|name| name.to_str());
    let mut parts = vec![model.to_owned()];
    if let Some((prefix, count)) = name.and_then(split) {
        let others = (1..=count.min(MOST_PARTS))
            .map(|number| model.with_file_name(format!("{prefix}-{number:05}-of-{count:05}.gguf")))
            .filter(|part| part != model && part.exists());
        parts.extend(others);
    }
    parts
}

/// Splits a part's name into what precedes its number and the number of parts.
fn split(name: &str) -> Option<(&str, u32)> {
    let (front, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, number) = front.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(number) && digits(count)).then_some((prefix, count.parse().ok()?))
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
        let wanted = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        assert_eq!(found, wanted.map(|name| folder.path().join(name)));
        assert_eq!(parts(&folder.path().join("secret")), [folder.path().join("secret")]);
    }

    #[test]
    fn only_the_numbers_of_parts_are_numbers_of_parts() {
        assert_eq!(split("a-b-00001-of-00002.gguf"), Some(("a-b", 2)));
        for other in ["a.gguf", "a-1-of-2.gguf", "a-0000x-of-00002.gguf", "a-00001-of-00002.bin"] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
