//! The content of a job's files: `job.json`, `meta.json`, `type.txt`, and the seals that tell
//! complete files from torn ones.

use serde::{Deserialize, Serialize};
use threadrunner_core::open_enum::parse;
use threadrunner_core::protocol::check_messages;
use threadrunner_core::{ErrorCode, Failure, JobMeta, JobSpec, JobType, SPEC_VERSION, Timestamp};

use crate::files::{JobDir, MAX_FILE_BYTES, ReadError};
use crate::layout::{JOB_FILE, JOB_NEXT, META_FILE, PROMPT_FILE, TYPE_FILE};
use crate::{Result, WorkspaceError};

/// `job.json`: the job's spec, and the seal that tells a complete submission from a torn one.
#[derive(Debug, Default, Serialize, Deserialize)]
struct JobFile {
    #[serde(flatten)]
    spec: JobSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seal: Option<SubmissionSeal>,
}

/// What the other files of a submission must be for it to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubmissionSeal {
    prompt: Digest,
    meta: Digest,
}

/// A length and a checksum, to detect a torn file. No protection against malice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digest {
    bytes: u64,
    crc32: u32,
}

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) }
    }

    pub(crate) fn new(bytes: u64, crc32: u32) -> Self {
        Self { bytes, crc32 }
    }
}

impl SubmissionSeal {
    pub(crate) fn new(prompt: &[u8], meta: &[u8]) -> Self {
        Self { prompt: Digest::of(prompt), meta: Digest::of(meta) }
    }
}

/// The content of `job.json`.
pub(crate) fn job_json(spec: &JobSpec, seal: Option<SubmissionSeal>) -> Result<String> {
    // Always this program's version, whatever version was read.
    let spec = JobSpec { v: SPEC_VERSION, ..spec.clone() };
    pretty(&JobFile { spec, seal }, JOB_FILE)
}

/// The content of `meta.json`.
pub(crate) fn meta_json(meta: &JobMeta) -> Result<String> {
    pretty(meta, META_FILE)
}

pub(crate) fn pretty(value: &impl Serialize, what: &'static str) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|source| WorkspaceError::Json { what, source })?;
    text.push('\n');
    Ok(text)
}

/// Whether a submission that never left `input/writing` has all its files, complete.
pub(crate) fn is_whole_submission(dir: &JobDir<'_>) -> bool {
    let file = |name| dir.read(name).ok().flatten();
    let (Some(job), Some(prompt), Some(meta)) =
        (file(JOB_FILE), file(PROMPT_FILE), file(META_FILE))
    else {
        return false;
    };
    serde_json::from_slice::<JobFile>(&job)
        .is_ok_and(|job| job.seal == Some(SubmissionSeal::new(&prompt, &meta)))
}

/// The key in `meta.json` for the [`OutcomeSeal`].
const SEAL_KEY: &str = "seal";

/// Ties a `meta.json` to the end of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutcomeSeal {
    /// The attempt that ended: a directory put back by hand still holds the files of the last one.
    pub(crate) attempt: u32,
    /// The digest of `result.txt`; `None` for a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Digest>,
    /// The digest of `output.json`, if the answer has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<Digest>,
}

impl OutcomeSeal {
    pub(crate) fn put_into(self, meta: &mut JobMeta) {
        // Cannot fail: it is plain data with string keys.
        let value = serde_json::to_value(self).unwrap_or_default();
        meta.other.insert(SEAL_KEY.to_owned(), value);
    }

    pub(crate) fn of(meta: &JobMeta) -> Option<Self> {
        Self::deserialize(meta.other.get(SEAL_KEY)?).ok()
    }

    pub(crate) fn remove_from(meta: &mut JobMeta) {
        meta.other.remove(SEAL_KEY);
    }
}

/// Clears how an earlier attempt ended.
pub(crate) fn clear_outcome(meta: &mut JobMeta) {
    OutcomeSeal::remove_from(meta);
    *meta = JobMeta {
        submitted_at: meta.submitted_at.take(),
        mode: meta.mode,
        parent: meta.parent.take(),
        tags: std::mem::take(&mut meta.tags),
        other: std::mem::take(&mut meta.other),
        ..JobMeta::default()
    };
}

/// What a job's files say, checked.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) spec: JobSpec,
    pub(crate) meta: JobMeta,
    pub(crate) prompt_bytes: u64,
    /// The digest that the prompt must have, if this program wrote the submission.
    pub(crate) sealed_prompt: Option<Digest>,
}

/// Why a job cannot be loaded from its files.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The job's own fault, which its submitter is told.
    Unfit(Failure),
    /// The files cannot be read.
    Workspace(WorkspaceError),
}

impl From<Failure> for LoadError {
    fn from(failure: Failure) -> Self {
        Self::Unfit(failure)
    }
}

impl From<WorkspaceError> for LoadError {
    fn from(error: WorkspaceError) -> Self {
        Self::Workspace(error)
    }
}

impl LoadError {
    fn read(dir: &JobDir<'_>, name: &str, error: ReadError) -> Self {
        match error {
            ReadError::Unfit(reason) => malformed(reason).into(),
            ReadError::Io(error) => dir.io("read", name, error).into(),
        }
    }
}

/// Reads and checks everything but the prompt's text.
pub(crate) fn load(dir: &JobDir<'_>) -> Result<Description, LoadError> {
    let prompt_bytes = match dir.open(PROMPT_FILE) {
        Ok(Some((_, bytes))) => bytes,
        Ok(None) => return Err(malformed("it has no prompt.txt".to_owned()).into()),
        Err(error) => return Err(LoadError::read(dir, PROMPT_FILE, error)),
    };
    if prompt_bytes > MAX_FILE_BYTES {
        let reason = format!(
            "prompt.txt has {prompt_bytes} bytes, over the limit of {MAX_FILE_BYTES} bytes"
        );
        return Err(malformed(reason).into());
    }
    let JobFile { spec, seal } = load_job(dir)?;
    match dir.read(TYPE_FILE) {
        Ok(None) => {}
        Ok(Some(bytes)) => match parse_type(&bytes)? {
            JobType::Text => {}
            other => return Err(unsupported(other).into()),
        },
        Err(error) => return Err(LoadError::read(dir, TYPE_FILE, error)),
    }
    let meta = load_whole_meta(dir)?;
    if prompt_bytes == 0 && spec.messages.is_empty() {
        return Err(Failure::new(ErrorCode::EmptyPrompt, "prompt.txt is empty").into());
    }
    let sealed_prompt = seal.map(|seal| seal.prompt);
    Ok(Description { spec, meta, prompt_bytes, sealed_prompt })
}

/// Reads `meta.json`. It is for people: an unreadable one counts as absent.
pub(crate) fn load_meta(dir: &JobDir<'_>) -> Result<JobMeta> {
    Ok(dir.read_fit(META_FILE)?.and_then(|it| JobMeta::read(text(&it))).unwrap_or_default())
}

/// Everything known of a job that another program may have submitted: `meta.json`, and what the
/// other files add to it.
pub(crate) fn load_whole_meta(dir: &JobDir<'_>) -> Result<JobMeta> {
    let mut meta = load_meta(dir)?;
    if meta.submitted_at.is_none()
        && let Ok(Some((prompt, _))) = dir.open(PROMPT_FILE)
    {
        // Without it, the job was submitted when its prompt was written.
        meta.submitted_at = prompt.metadata().and_then(|it| it.modified()).ok().map(Timestamp::at);
    }
    if let Some(bytes) = dir.read_fit(TYPE_FILE)?
        && let Ok(mode) = parse_type(&bytes)
    {
        meta.mode = mode;
    }
    // Whatever it was called, it is run as text.
    if meta.mode == JobType::Unknown {
        meta.mode = JobType::Text;
    }
    Ok(meta)
}

/// The bytes without a leading UTF-8 byte order mark, which some programs write.
pub(crate) fn text(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Reads the prompt's text.
pub(crate) fn load_prompt(dir: &JobDir<'_>, sealed: Option<Digest>) -> Result<String, LoadError> {
    match dir.read(PROMPT_FILE) {
        // Without syncs (`relaxed`), a power failure can leave zeros in place of the prompt.
        Ok(Some(bytes)) if sealed.is_some_and(|sealed| sealed != Digest::of(&bytes)) => {
            Err(malformed(
                "prompt.txt is not what was submitted: it was changed since, or torn by a power \
                 failure"
                    .to_owned(),
            )
            .hint("check it first: `threadrunner retry` runs it as it is")
            .into())
        }
        Ok(Some(mut bytes)) => {
            bytes.drain(..bytes.len() - text(&bytes).len());
            String::from_utf8(bytes).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                malformed(format!("prompt.txt is not UTF-8: byte {at} is not part of a character"))
                    .into()
            })
        }
        Ok(None) => Err(malformed("it has no prompt.txt".to_owned()).into()),
        Err(error) => Err(LoadError::read(dir, PROMPT_FILE, error)),
    }
}

/// Reads what `job.json` asks for; the defaults if there is none.
pub(crate) fn load_spec(dir: &JobDir<'_>) -> Result<JobSpec, LoadError> {
    load_job(dir).map(|job| job.spec)
}

fn load_job(dir: &JobDir<'_>) -> Result<JobFile, LoadError> {
    match dir.read(JOB_FILE) {
        Ok(None) => Ok(JobFile::default()),
        Ok(Some(bytes)) => Ok(parse_job(&bytes)?),
        Err(error) => Err(LoadError::read(dir, JOB_FILE, error)),
    }
}

/// The prepared replacement of `job.json`, if it is complete.
pub(crate) fn load_prepared_spec(dir: &JobDir<'_>) -> Option<JobSpec> {
    parse_job(&dir.read(JOB_NEXT).ok()??).ok().map(|job| job.spec)
}

fn parse_job(bytes: &[u8]) -> Result<JobFile, Failure> {
    // Check the version first: a newer file may differ in anything else.
    #[derive(Deserialize)]
    struct Version {
        #[serde(default = "current")]
        v: u32,
    }
    fn current() -> u32 {
        SPEC_VERSION
    }
    let bytes = text(bytes);
    let bad = |error: serde_json::Error| malformed(format!("job.json cannot be read: {error}"));
    let Version { v } = serde_json::from_slice(bytes).map_err(bad)?;
    if v > SPEC_VERSION {
        return Err(malformed(format!(
            "job.json has version {v}, but this program knows versions up to {SPEC_VERSION}"
        ))
        .hint("upgrade ThreadRunner, then `threadrunner retry` the job"));
    }
    let job: JobFile = serde_json::from_slice(bytes).map_err(bad)?;
    let spec = &job.spec;
    spec.params.validate().map_err(|error| malformed(format!("job.json: {error}")))?;
    check_messages(&spec.messages, &spec.tools)
        .map_err(|failure| malformed(format!("job.json: {failure}")))?;
    if spec.model.as_ref().and_then(|model| model.path.as_ref()).is_some_and(|p| p.is_relative()) {
        return Err(malformed("job.json: the model's path is not absolute".to_owned()));
    }
    Ok(job)
}

fn parse_type(bytes: &[u8]) -> Result<JobType, Failure> {
    let said = String::from_utf8_lossy(text(bytes));
    let said = said.trim();
    if said.is_empty() {
        return Err(malformed("type.txt is empty".to_owned()));
    }
    parse(said).ok_or_else(|| {
        let shown: String = said.chars().take(40).collect();
        malformed(format!("type.txt says '{shown}', which is not a kind of job"))
            .hint("write 'text' into it, or remove it")
    })
}

/// Why a job of this kind cannot be run.
pub(crate) fn unsupported(mode: JobType) -> Failure {
    let kind = mode.as_str();
    malformed(format!("type.txt asks for '{kind}', which this version cannot do"))
        .hint("only 'text' jobs are run")
}

fn malformed(reason: String) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, reason)
}
