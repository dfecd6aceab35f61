use std::io::Write;

use proptest::prelude::*;

use super::*;
use threadrunner_core::{ErrorCode, Failure};

fn check_bytes(bytes: &[u8]) -> Result<Summary, CheckError> {
    check(bytes, bytes.len() as u64)
}

fn message(bytes: &[u8]) -> String {
    check_bytes(bytes).unwrap_err().to_string()
}

/// A file with one tensor, small enough to be cut at every byte.
fn small() -> GgufFile {
    let mut file = GgufFile::default();
    file.set("general.architecture", MetaValue::String("llama".into()));
    file.set("general.name", MetaValue::String("small".into()));
    file.set("tokens", MetaValue::Strings(vec!["a".into(), "bc".into()]));
    file.set("kinds", MetaValue::I32s(vec![1, -1]));
    file.set("flag", MetaValue::Bool(true));
    let data = vec![7; 2 * 18];
    file.tensors.push(Tensor { name: "w".into(), kind: GgmlType::Q4_0, shape: vec![32, 2], data });
    file
}

#[test]
fn a_whole_file_passes_and_says_what_it_is() {
    let bytes = tiny_model(1).to_bytes();
    let summary = check_bytes(&bytes).unwrap();
    assert_eq!((summary.version, summary.architecture.as_str()), (3, "llama"));
    assert_eq!(summary.name.as_deref(), Some("tiny random"));
    assert!(summary.tensors > 30 && summary.bytes <= bytes.len() as u64);
    assert!(bytes.len() < 4 << 20);
    check_bytes(&aborting_model().to_bytes()).unwrap();
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let bytes = small().to_bytes();
    let whole = usize::try_from(check_bytes(&bytes).unwrap().bytes).unwrap();
    assert!(check_bytes(&bytes[..whole]).is_ok());
    for length in 0..whole {
        check_bytes(&bytes[..length]).unwrap_err();
    }
    assert!(message(&bytes[..whole - 1]).contains("cut short: its tensor data needs"));
}

#[test]
fn what_is_no_gguf_file_is_named() {
    assert!(message(b"").contains("it is empty"));
    assert!(message(b"version https://git-lfs").contains("Git LFS"));
    assert!(message(b"<!DOCTYPE html>").contains("web page"));
    assert!(message(b"PK\x03\x04rest").contains("ZIP"));
    assert!(message(b"\x1f\x8b\x08\x00").contains("gzip"));
    assert!(message(&[0, 1, 2, 3, 4]).contains(r"\x00\x01\x02\x03"));
}

#[test]
fn flipped_headers_are_refused() {
    let bytes = small().to_bytes();
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        message(&bytes)
    };
    assert!(with(0, b"FUGG").contains("not a GGUF file"));
    assert!(with(4, &9_u32.to_le_bytes()).contains("version 9"));
    assert!(with(4, &1_u32.to_le_bytes()).contains("version 1"));
    assert!(with(4, &3_u32.to_be_bytes()).contains("byte order"));
    assert!(with(8, &u64::MAX.to_le_bytes()).contains("number of tensors"));
    assert!(with(16, &u64::MAX.to_le_bytes()).contains("number of keys"));
    assert!(with(24, &u64::MAX.to_le_bytes()).contains("a key is 18446744073709551615"));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let refused = |change: fn(&mut GgufFile)| {
        let mut file = small();
        change(&mut file);
        message(&file.to_bytes())
    };
    assert!(refused(|file| file.metadata.clear()).contains("no architecture"));
    assert!(refused(|file| file.set("", MetaValue::Bool(true))).contains("a key is empty"));
    assert!(refused(|file| file.tensors[0].shape = vec![31, 2]).contains("impossible shape"));
    assert!(refused(|file| file.tensors[0].shape = vec![32, u64::MAX]).contains("impossible"));
    assert!(refused(|file| file.tensors[0].shape = vec![1; 5]).contains("5 dimensions"));
    assert!(refused(|file| file.tensors[0].name = "n".repeat(64)).contains("tensor's name is 64"));
    assert!(refused(|file| file.tensors[0].shape[1] = 1 << 40).contains("cut short"));
    assert!(
        refused(|file| file.set("general.alignment", MetaValue::U32(48))).contains("power of two")
    );
}

#[test]
fn counts_that_llama_cpp_cannot_return_are_refused() {
    for key in ["llama.context_length", "llama.block_count", "llama.embedding_length"] {
        let with = |number| {
            let mut file = small();
            file.set(key, MetaValue::U32(number));
            file.to_bytes()
        };
        check_bytes(&with(i32::MAX as u32)).unwrap();
        let message = message(&with(u32::MAX));
        let name = key.trim_start_matches("llama.");
        assert_eq!(
            message,
            format!(
                "its header is damaged: {name} is 4294967295, but at most 2147483647 is possible"
            )
        );
    }
    let mut file = small();
    file.set("llama.attention.head_count", MetaValue::I32s(vec![4, -1]));
    assert!(message(&file.to_bytes()).contains("attention.head_count is 4294967295"));
    // That of another architecture is of no use.
    let mut file = small();
    file.set("other.context_length", MetaValue::U32(u32::MAX));
    check_bytes(&file.to_bytes()).unwrap();
}

#[test]
fn a_file_on_disk_is_refused_with_its_path_and_a_stable_code() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broken.gguf");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&small().to_bytes()[..100]).unwrap();
    let failure = |path: &std::path::Path| Failure::from(check_file(path).unwrap_err());

    let broken = failure(&path);
    assert_eq!(broken.code, ErrorCode::ModelLoad);
    assert!(broken.message.contains("broken.gguf"), "{broken}");
    assert!(broken.hint.is_some());
    let missing = failure(&directory.path().join("missing.gguf"));
    assert_eq!(missing.code, ErrorCode::ModelNotFound);
    let not_a_file = failure(directory.path());
    assert!(not_a_file.message.contains("not a regular file"), "{not_a_file}");
    assert_eq!(failure(std::path::Path::new("/dev/zero")).code, ErrorCode::ModelLoad);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the bytes, the check returns without a panic and allocates nothing on their word.
    #[test]
    fn random_bytes_never_pass(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(check_bytes(&bytes).is_err());
    }

    #[test]
    fn random_bytes_after_a_good_start_are_walked(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut file = b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        file.extend(bytes);
        let _ = check_bytes(&file);
    }

    #[test]
    fn a_flipped_bit_is_found_or_harmless(at in 0_usize..400, bit in 0_u8..8) {
        let mut bytes = small().to_bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(summary) = check_bytes(&bytes) {
            prop_assert!(summary.bytes <= bytes.len() as u64);
        }
    }
}

/// The error for a sparse file of 800 GiB: a header with one list of this type and length, then
/// holes.
fn full_of_holes(kind: u32, elements: u64) -> String {
    let mut start = b"GGUF".to_vec();
    start.extend(3_u32.to_le_bytes());
    for count in [0_u64, 1, 3] {
        start.extend(count.to_le_bytes());
    }
    start.extend(b"key");
    start.extend(9_u32.to_le_bytes());
    start.extend(kind.to_le_bytes());
    start.extend(elements.to_le_bytes());
    let file = std::io::Read::chain(&start[..], std::io::repeat(0));
    check(file, 800 << 30).unwrap_err().to_string()
}

#[test]
fn a_header_that_goes_on_and_on_is_refused_before_it_is_walked_over() {
    assert!(full_of_holes(8, 100_000_000_000).contains("the number of strings"));
    assert!(full_of_holes(0, 800_000_000_000).contains("the length of its header"));
    assert!(full_of_holes(12, u64::MAX).contains("cut short"));
}
