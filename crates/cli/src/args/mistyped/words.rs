//! Single words: whether they are a typo, a name, or English.

/// Words of plain English that are a typo away from a command.
const ORDINARY: &[&str] = &[
    "actor", "await", "bach", "awaits", "bait", "batched", "bath", "baths", "botch", "camel",
    "canal", "canoe", "cancer", "candle", "canned", "cat", "catch", "chance", "chances", "channel",
    "chap", "char", "chart", "cheat", "coat", "coffin", "confine", "confirm", "conflict", "deacon",
    "demon", "demons", "docker", "donor", "doctors", "event", "fallow", "fellow", "flow", "hatch",
    "hat", "heal", "heap", "held", "hell", "helm", "hemp", "helps", "hollow", "kelp", "lad",
    "latch", "lead", "lit", "loan", "lord", "loud", "match", "medals", "modal", "mode", "modem",
    "modern", "modes", "modest", "module", "modules", "morals", "moves", "patch", "prone", "prude",
    "resent", "reset", "resist", "resort", "resulted", "resume", "retro", "revolt", "road", "sop",
    "stacks", "stage", "stages", "stairs", "stamps", "stands", "star", "stars", "starts",
    "startup", "state", "states", "static", "statue", "stature", "statute", "stays", "that",
    "toad", "unfold", "unlock", "unread", "upload", "uploads", "waist", "want", "wants", "watch",
    "watt", "what", "wit", "yelp",
];

/// Words that stand behind a verb in a sentence, and name nothing.
const FUNCTION_WORDS: &[&str] = &[
    "a",
    "about",
    "again",
    "an",
    "and",
    "any",
    "anything",
    "are",
    "as",
    "at",
    "away",
    "back",
    "be",
    "being",
    "but",
    "by",
    "down",
    "every",
    "everything",
    "few",
    "for",
    "from",
    "her",
    "here",
    "him",
    "his",
    "how",
    "if",
    "in",
    "into",
    "is",
    "it",
    "its",
    "it's",
    "me",
    "more",
    "my",
    "myself",
    "no",
    "not",
    "nothing",
    "now",
    "of",
    "off",
    "on",
    "one",
    "or",
    "our",
    "out",
    "over",
    "please",
    "some",
    "something",
    "ten",
    "that",
    "the",
    "their",
    "them",
    "then",
    "there",
    "these",
    "they",
    "this",
    "those",
    "three",
    "to",
    "two",
    "up",
    "us",
    "was",
    "we",
    "were",
    "what",
    "when",
    "where",
    "which",
    "who",
    "why",
    "with",
    "you",
    "your",
    "yourself",
];

/// Names that families of models begin with, for `run mistral`.
const FAMILIES: &[&str] = &[
    "codellama",
    "deepseek",
    "falcon",
    "gemma",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "phi",
    "qwen",
    "smollm",
    "tinyllama",
    "vicuna",
];

/// Whether a word is a job's id, or `last`.
pub(super) fn is_job(word: &str) -> bool {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    word == "last" || (digits && word.starts_with(|first: char| first.is_ascii_digit()))
}

/// Whether a word could name a model, a job, a file: one bare word, and not a word that a sentence
/// goes on with.
pub(super) fn is_name(word: &str) -> bool {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@~".contains(&byte);
    let lower = word.to_ascii_lowercase();
    let sentence = FUNCTION_WORDS.contains(&lower.as_str()) || lower.ends_with("ing");
    // A full stop or a colon at the end is a sentence's.
    let ended = word.len() > 1 && word.ends_with(['.', ':']) && !word.ends_with("..");
    !word.is_empty() && word.bytes().all(bare) && !sentence && !ended
}

/// Whether a word is a name, and no word of English: with a digit or a sign in it.
pub(super) fn looks_like_a_name(word: &str) -> bool {
    word == "all" || (is_name(word) && word.bytes().any(|byte| !byte.is_ascii_alphabetic()))
}

/// Whether a word looks like a model as other programs name them: `llama3`, `gemma3:270m`,
/// `org/model-GGUF`, `model.gguf`.
pub(super) fn looks_like_a_model(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    // `phi3` and `phi-2`, but not `philosophy`.
    let is_of = |family: &&str| {
        lower
            .strip_prefix(*family)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphabetic()))
    };
    let tagged = word.contains(':') && word.bytes().any(|byte| byte.is_ascii_digit());
    let located = lower.starts_with("hf.co/") || lower.ends_with(".gguf");
    is_name(word) && (tagged || located || FAMILIES.iter().any(is_of))
}

/// The command that a word probably means: the same in another case, one that begins with it, or
/// one that is one or two typos away.
pub(super) fn nearest<'a>(word: &str, commands: &'a [String]) -> Option<&'a str> {
    if ORDINARY.contains(&word) {
        return None;
    }
    let begins = |command: &&String| word.len() >= 4 && command.starts_with(word);
    let slips = |command: &str| {
        let slips = strsim::osa_distance(word, command);
        // A short word is one typo away from too many others.
        let near = match command.len() {
            0..4 => slips == 0 || is_slip_of_a_finger(word, command),
            4..6 => slips <= 1,
            _ => slips <= 1 || (slips == 2 && word.len() > 4 && word[..1] == command[..1]),
        };
        near.then_some(slips)
    };
    let slipped = commands.iter().filter_map(|command| Some((slips(command)?, command)));
    let begun = commands.iter().find(begins);
    begun.or_else(|| slipped.min().map(|(_, command)| command)).map(String::as_str)
}

/// The verb that a word is one slip away from.
pub(super) fn nearest_verb(
    word: &str,
    mut verbs: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let near = |verb: &&str| verb.len() >= 4 && is_slip_of_a_finger(word, verb);
    verbs.find(near).filter(|_| !ORDINARY.contains(&word))
}

/// Whether a word is another with two letters swapped, one left out or one typed twice.
fn is_slip_of_a_finger(word: &str, meant: &str) -> bool {
    if strsim::osa_distance(word, meant) != 1 {
        return false;
    }
    let same_first = word.as_bytes().first() == meant.as_bytes().first();
    let doubled = || word.as_bytes().windows(2).any(|pair| pair[0] == pair[1]);
    match word.len().cmp(&meant.len()) {
        std::cmp::Ordering::Less => same_first && word.len() > 1,
        std::cmp::Ordering::Equal => strsim::levenshtein(word, meant) == 2,
        std::cmp::Ordering::Greater => same_first && doubled(),
    }
}
