//! The prompt, put together from arguments and standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;

use threadrunner_core::{ErrorCode, Failure, MAX_FRAME_BYTES};

use crate::error::CommandError;

/// The prompt: the words joined by spaces, then after an empty line what standard input holds.
///
/// `raw` keeps the newline at the end of standard input, because a text that is to be gone on with
/// is what it is, byte for byte.
pub(crate) fn assemble(
    words: &[String],
    stdin: Option<Vec<u8>>,
    raw: bool,
) -> Result<String, Failure> {
    let mut input = String::from_utf8(stdin.unwrap_or_default()).map_err(|error| {
        Failure::new(
            ErrorCode::InvalidRequest,
            format!(
                "standard input is not UTF-8: byte {} is 0x{:02x}",
                error.utf8_error().valid_up_to(),
                error.as_bytes()[error.utf8_error().valid_up_to()]
            ),
        )
        .hint("convert it first, for instance with `iconv -f latin1 -t utf-8`")
    })?;
    if !raw && input.ends_with('\n') {
        input.pop();
        if input.ends_with('\r') {
            input.pop();
        }
    }
    let said = said(words);
    let prompt = match (said.trim().is_empty(), input.trim().is_empty()) {
        (false, true) => said,
        (true, false) => input,
        (false, false) => format!("{said}\n\n{input}"),
        (true, true) => {
            return Err(Failure::new(ErrorCode::EmptyPrompt, "the prompt is empty")
                .hint("try: threadrunner \"Why is the sky blue?\""));
        }
    };
    if prompt.len() > MAX_FRAME_BYTES {
        return Err(Failure::new(
            ErrorCode::InvalidRequest,
            format!("the prompt is longer than {} MiB", MAX_FRAME_BYTES >> 20),
        )
        .hint("make it shorter; no model reads that much"));
    }
    Ok(prompt)
}

/// What the words say.
fn said(words: &[String]) -> String {
    // A lone dash says what is done anyway, as with other programs.
    if words == ["-"] { String::new() } else { words.join(" ") }
}

/// How many bytes of a prompt that was put together of these words are theirs, and not those of
/// standard input; `None` where all are.
pub(crate) fn said_bytes(words: &[String], prompt: &str) -> Option<u64> {
    let said = said(words);
    let bytes = if said.trim().is_empty() { 0 } else { said.len() };
    (bytes < prompt.len()).then_some(bytes as u64)
}

/// What standard input holds; `None` where it is a terminal.
pub(crate) fn read_stdin() -> Result<Option<Vec<u8>>, CommandError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let cannot = |error: io::Error| {
        Failure::new(ErrorCode::InvalidRequest, format!("cannot read standard input: {error}"))
            .hint("if it is not meant to be read, say `< /dev/null`")
    };
    let file = File::from(stdin.as_fd().try_clone_to_owned().map_err(cannot)?);
    let mut bytes = Vec::new();
    // One byte more than can be sent is enough to say that it is too much.
    file.take(MAX_FRAME_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(words: &[&str], stdin: Option<&str>) -> Result<String, ErrorCode> {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        let stdin = stdin.map(|text| text.as_bytes().to_vec());
        assemble(&words, stdin, false).map_err(|failure| failure.code)
    }

    #[test]
    fn words_are_joined_by_spaces() {
        assert_eq!(prompt(&["why", "is", "it"], None).unwrap(), "why is it");
        assert_eq!(prompt(&["  two  spaces "], None).unwrap(), "  two  spaces ");
    }

    #[test]
    fn standard_input_follows_the_words_after_an_empty_line() {
        assert_eq!(prompt(&["Summarize"], Some("a\nb\n")).unwrap(), "Summarize\n\na\nb");
    }

    #[test]
    fn standard_input_alone_is_the_prompt_without_its_last_newline() {
        assert_eq!(prompt(&[], Some("hi\n")).unwrap(), "hi");
        assert_eq!(prompt(&[], Some("hi\r\n")).unwrap(), "hi");
        assert_eq!(prompt(&[], Some("hi\n\n")).unwrap(), "hi\n");
        assert_eq!(prompt(&["-"], Some("hi")).unwrap(), "hi");
    }

    #[test]
    fn empty_standard_input_adds_nothing() {
        for empty in ["", "\n", " \n\n"] {
            assert_eq!(prompt(&["hi"], Some(empty)).unwrap(), "hi");
        }
    }

    #[test]
    fn what_the_words_say_is_told_from_standard_input() {
        let said = |words: &[&str], stdin| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            let prompt = assemble(&words, stdin, false).unwrap();
            said_bytes(&words, &prompt).map(|bytes| prompt[..bytes as usize].to_owned())
        };
        let input = || Some(b"a\n".to_vec());
        assert_eq!(said(&["why", "é"], None), None);
        assert_eq!(said(&["why", "é"], input()).unwrap(), "why é");
        assert_eq!(said(&["why"], Some(b"\n".to_vec())), None);
        for words in [&[][..], &["-"], &["  "]] {
            assert_eq!(said(words, input()).unwrap(), "");
        }
    }

    #[test]
    fn a_raw_prompt_is_kept_byte_for_byte() {
        assert_eq!(assemble(&[], Some(b"Once \n".to_vec()), true).unwrap(), "Once \n");
    }

    #[test]
    fn nothing_is_an_empty_prompt() {
        for (words, stdin) in
            [(&[][..], None), (&[""], None), (&["  "], Some("\n")), (&["-"], None)]
        {
            assert_eq!(prompt(words, stdin).unwrap_err(), ErrorCode::EmptyPrompt);
        }
    }

    #[test]
    fn what_is_not_utf8_is_refused_with_the_place() {
        let failure = assemble(&[], Some(b"caf\xe9".to_vec()), false).unwrap_err();
        assert_eq!(failure.code, ErrorCode::InvalidRequest);
        assert!(failure.message.contains("byte 3 is 0xe9"), "{failure}");
        assert!(failure.hint.unwrap().contains("iconv"));
    }

    #[test]
    fn a_prompt_longer_than_a_frame_is_refused() {
        let failure = assemble(&[], Some(vec![b'x'; MAX_FRAME_BYTES + 1]), false).unwrap_err();
        assert!(failure.message.contains("64 MiB"), "{failure}");
    }
}
