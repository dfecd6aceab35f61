//! The dummy's answers.

const OPENING: [&str; 5] = ["lorem", "ipsum", "dolor", "sit", "amet"];

/// Returns the opening, then each word of the prompt, stripped of punctuation and ending in a
/// period. Skips words that are only punctuation.
pub(super) fn to(prompt: &str) -> Vec<String> {
    let words = prompt
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| c.is_ascii_punctuation()))
        .filter(|word| !word.is_empty())
        .map(|word| format!("{word}."));
    OPENING.map(String::from).into_iter().chain(words).collect()
}

/// Returns this many words: the opening, then numbers, which reveal a word that is lost or
/// repeated.
pub(super) fn of_length(words: u32) -> Vec<String> {
    let numbers = (OPENING.len() + 1..).map(|n| format!("{n}."));
    OPENING.map(String::from).into_iter().chain(numbers).take(words as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_prompt_follow_the_opening() {
        let opening = "lorem ipsum dolor sit amet";
        for (prompt, said) in [
            ("Hello, how are you?", " Hello. how. are. you."),
            ("...", ""),
            ("- \"quoted\" don't -", " quoted. don't."),
            ("Größe 🙂\n\n日本", " Größe. 🙂. 日本."),
        ] {
            assert_eq!(to(prompt).join(" "), format!("{opening}{said}"));
        }
    }

    #[test]
    fn an_answer_of_a_length_has_it() {
        assert_eq!(of_length(0), Vec::<String>::new());
        assert_eq!(of_length(7).join(" "), "lorem ipsum dolor sit amet 6. 7.");
    }
}
