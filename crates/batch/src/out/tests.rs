use super::*;
use crate::seen::Met;

struct Story {
    directory: tempfile::TempDir,
    seen: Seen,
}

impl Story {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("in"), "").unwrap();
        fs::write(directory.path().join("out"), text).unwrap();
        Self { directory, seen: Seen::default() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    fn open(&mut self, retry_failed: bool) -> Result<(OutFile, Before), BatchError> {
        let input = File::open(self.directory.path().join("in")).unwrap();
        OutFile::open(&self.path(), &input, retry_failed, &mut self.seen)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }
}

const TEXT: &str = "{\"id\":\"a\",\"text\":\"x\"}\n\
    {\"id\":\"batch_req_1\",\"custom_id\":\"b\",\"response\":{},\"error\":null}\n\
    {\"id\":\"c\",\"error\":{\"line\":3,\"code\":\"timeout\"}}\n\
    {\"id\":\"a\",\"error\":{\"line\":4,\"duplicate_of\":1}}\n\
    {\"id\":null,\"line\":7,\"error\":{\"line\":7}}\n\
    {\"id\":8,\"line\":8,\"text\":\"y\"}\n";

#[test]
fn what_is_there_is_known_by_its_ids() {
    let mut story = Story::new(TEXT);
    let (_, before) = story.open(false).unwrap();
    assert_eq!(before, Before { done: 3, failed: 3, existed: true });
    for (key, line, met) in [
        ("a", 1, Met::Answered),
        ("b", 2, Met::Answered),
        ("c", 3, Met::Answered),
        ("a", 4, Met::Answered),
        ("a", 5, Met::Repeats { first: 1 }),
        ("d", 6, Met::New),
        (&key_of_number(7), 7, Met::Answered),
        (&key_of_number(8), 8, Met::Answered),
        ("7", 9, Met::New),
        ("8", 10, Met::New),
    ] {
        assert_eq!(story.seen.meet(key, line), met, "{key} {line}");
    }
    assert_eq!(story.text(), TEXT);
}

#[test]
fn a_line_that_was_cut_short_anywhere_is_dropped() {
    let last = "{\"id\":\"d\",\"text\":\"y\"}";
    for cut in 1..last.len() {
        let mut story = Story::new(&format!("{TEXT}{}", &last[..cut]));
        story.open(false).unwrap();
        assert_eq!(story.text(), TEXT);
        assert_eq!(story.seen.meet("d", 9), Met::New);
    }
    let mut story = Story::new(&format!("{TEXT}{last}"));
    let (mut out, _) = story.open(false).unwrap();
    out.append(b"{\"id\":1}\n").unwrap();
    assert_eq!(story.text(), format!("{TEXT}{last}\n{{\"id\":1}}\n"));
    assert_eq!(story.seen.meet("d", 9), Met::Answered);
}

#[test]
fn what_a_power_failure_left_is_dropped() {
    let mut story = Story::new(&format!("{TEXT}\0\0\0\n{{\"id\":\"d\"}}\n"));
    story.open(false).unwrap();
    assert_eq!(story.text(), TEXT);
    assert_eq!(story.seen.meet("d", 9), Met::New);
}

#[test]
fn errors_are_dropped_to_be_tried_again() {
    let mut story = Story::new(TEXT);
    let (mut out, before) = story.open(true).unwrap();
    assert_eq!(before, Before { done: 3, failed: 0, existed: true });
    assert_eq!(story.seen.meet("c", 3), Met::New);
    assert_eq!(story.seen.meet("a", 1), Met::Answered);
    out.append(b"{\"id\":\"c\"}\n").unwrap();
    let kept = TEXT.lines().filter(|line| !line.contains("\"error\":{"));
    let kept: Vec<_> = kept.collect();
    assert_eq!(story.text(), format!("{}\n{{\"id\":\"c\"}}\n", kept.join("\n")));
    assert_eq!(fs::read_dir(story.directory.path()).unwrap().count(), 2);
    // The new file is locked as the old one was.
    assert!(story.open(false).unwrap_err().to_string().contains("another batch"));
}

#[test]
fn other_peoples_files_are_left_alone() {
    for text in [
        "dear diary\n",
        "{\"a\":1}\n",
        "[1]\n{\"id\":1}\n",
        "a note without an end",
        "{\"a\":1}",
        "\u{7f}PNG\0\n\0",
        "GGUF\0\0\0",
    ] {
        let mut story = Story::new(text);
        let failure = story.open(false).unwrap_err();
        assert!(failure.to_string().contains("line 1 is not from a batch"), "{failure}");
        assert_eq!(story.text(), text);
    }
}

#[test]
fn a_file_that_somebody_else_changes_is_written_no_more() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("replaced", |path| {
            fs::write(path.with_extension("new"), TEXT).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("cut short", |path| fs::write(path, "").unwrap()),
        ("another program", |path| fs::write(path, TEXT.repeat(2)).unwrap()),
    ];
    for (what, change) in changes {
        let mut story = Story::new(TEXT);
        let (mut out, _) = story.open(false).unwrap();
        out.append(b"{\"id\":1}\n").unwrap();
        out.check().unwrap();
        change(&story.path());
        let before = fs::read(story.path()).ok();
        let failure = out.append(b"{\"id\":2}\n").unwrap_err();
        assert!(failure.to_string().contains(what), "{failure}");
        assert!(matches!(failure, BatchError::Changed { .. }), "{failure:?}");
        assert!(out.check().is_err());
        assert_eq!(fs::read(story.path()).ok(), before);
    }
}

#[test]
fn the_input_and_a_file_in_use_are_refused() {
    let mut story = Story::new("");
    let input = File::open(story.path()).unwrap();
    let same = OutFile::open(&story.path(), &input, false, &mut story.seen).unwrap_err();
    assert!(same.to_string().contains("the input and the output"), "{same}");
    let (_out, _) = story.open(false).unwrap();
    assert!(story.open(false).unwrap_err().to_string().contains("another batch"));
}
