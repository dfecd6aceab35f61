//! Assembling the prompt from arguments and standard input.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use threadrunner_core::{ErrorCode, Failure, MAX_FRAME_BYTES};

use crate::error::CommandError;
use crate::output;
use crate::session::Limit;

/// The byte order mark that some programs put before a text. It is not part of the text.
pub(crate) const BOM: char = '\u{feff}';
/// How many bytes to read at once.
const CHUNK: usize = 64 << 10;
/// How long standard input may be silent before a message says so.
const SILENCE: Duration = Duration::from_secs(1);
/// How long `--detach` waits for the first byte: a command that detaches should not wait long.
const DETACHED: Duration = Duration::from_secs(10);
const NOT_MEANT: &str = "add `< /dev/null` if it is not meant to be read";

/// The prompt: the words joined by spaces, then an empty line and the contents of standard input.
///
/// `raw` keeps the newline at the end of standard input, because a text to be continued counts byte
/// for byte.
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
        .hint(match error.as_bytes() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                "it looks like UTF-16: convert it first with `iconv -f utf-16 -t utf-8`"
            }
            _ => "convert it first, for example with `iconv -f latin1 -t utf-8`",
        })
    })?;
    if input.starts_with(BOM) {
        input.remove(0);
    }
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
                .hint("try `threadrunner \"Why is the sky blue?\"`"));
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

/// How long standard input may keep a command waiting.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Patience {
    /// When its end is due.
    end: Option<Instant>,
    /// When its first byte is due.
    beginning: Option<Instant>,
    /// The limit to report when patience runs out.
    limit: Option<Duration>,
}

impl Patience {
    /// Waits as long as the command's own limit.
    pub(crate) fn of(limit: Option<&Limit>) -> Self {
        let Some(limit) = limit else { return Self::default() };
        Self { end: Some(limit.deadline().into_std()), limit: Some(limit.after()), beginning: None }
    }

    /// For a command that does not wait for the answer, and so should not wait long for the prompt.
    pub(crate) fn detached() -> Self {
        let beginning = Some(Instant::now() + DETACHED);
        Self { beginning, limit: Some(DETACHED), end: None }
    }

    fn is_over(self, silent: bool) -> Option<Instant> {
        self.end.into_iter().chain(self.beginning.filter(|_| silent)).min()
    }
}

/// The part of the prompt that comes from the words.
fn said(words: &[String]) -> String {
    // A lone dash means standard input, which is read anyway.
    without_bom(if words == ["-"] { String::new() } else { words.join(" ") })
}

/// The text without the byte order marks that some editors put before it.
pub(crate) fn without_bom(text: String) -> String {
    match text.starts_with(BOM) {
        true => text.trim_start_matches(BOM).to_owned(),
        false => text,
    }
}

/// How many bytes of `prompt` come from the words and not from standard input; `None` if all do.
pub(crate) fn said_bytes(words: &[String], prompt: &str) -> Option<u64> {
    let said = said(words);
    let bytes = if said.trim().is_empty() { 0 } else { said.len() };
    (bytes < prompt.len()).then_some(bytes as u64)
}

/// The contents of standard input; `None` if it is a terminal.
pub(crate) fn read_stdin(patience: Patience) -> Result<Option<Vec<u8>>, CommandError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let cannot = |error: io::Error| {
        Failure::new(ErrorCode::InvalidRequest, format!("cannot read standard input: {error}"))
            .hint(NOT_MEANT)
    };
    let mut file = File::from(stdin.as_fd().try_clone_to_owned().map_err(cannot)?);
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    let mut silence = Some(Instant::now() + SILENCE);
    // One byte more than fits in a frame is enough to refuse the prompt.
    while bytes.len() <= MAX_FRAME_BYTES {
        let over = patience.is_over(bytes.is_empty());
        if !is_readable(&file, over.into_iter().chain(silence).min()) {
            if over.is_some_and(|over| Instant::now() >= over) {
                return Err(not_ended(patience).into());
            }
            tell_of_silence();
            silence = None;
            continue;
        }
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            // Another process made it non-blocking, or a signal came; keep waiting.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                continue;
            }
            Err(error) => return Err(cannot(error).into()),
        }
        silence = silence.map(|_| Instant::now() + SILENCE);
    }
    Ok(Some(bytes))
}

/// Waits a moment for standard input, and says so if nothing comes. Does nothing if it is a
/// terminal.
pub(crate) fn tell_if_stdin_is_silent() {
    let stdin = io::stdin();
    if !stdin.is_terminal() && !is_readable(&stdin, Some(Instant::now() + SILENCE)) {
        tell_of_silence();
    }
}

fn tell_of_silence() {
    output::remark(&format!("threadrunner: waiting for standard input ({NOT_MEANT})"));
}

fn not_ended(patience: Patience) -> Failure {
    let message = match patience.limit {
        Some(limit) => format!("standard input is still open after {limit:?}"),
        None => "standard input is still open".to_owned(),
    };
    Failure::new(ErrorCode::Timeout, message).hint(format!("{NOT_MEANT}; --timeout sets the limit"))
}

/// Whether there is data to read, or the end, before `until`.
fn is_readable(file: &impl AsFd, until: Option<Instant>) -> bool {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let limit = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(file, PollFlags::IN)], limit.as_ref()) {
            Ok(0) => return false,
            Err(rustix::io::Errno::INTR) => {}
            // Any other trouble is reported by the read.
            Ok(_) | Err(_) => return true,
        }
    }
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
    fn a_byte_order_mark_is_no_part_of_a_prompt() {
        assert_eq!(prompt(&["Summarize"], Some("\u{feff}a\n")).unwrap(), "Summarize\n\na");
        assert_eq!(prompt(&["\u{feff}hi"], None).unwrap(), "hi");
        assert_eq!(prompt(&[], Some("\u{feff}\n")).unwrap_err(), ErrorCode::EmptyPrompt);
        let raw = assemble(&[], Some("\u{feff}Once ".into()), true).unwrap();
        assert_eq!(raw, "Once ");
        let failure = assemble(&[], Some(b"\xff\xfeh\0i\0".to_vec()), false).unwrap_err();
        assert!(failure.hint.unwrap().contains("utf-16"));
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
