//! What is changed in a template's source before minijinja compiles it.

use std::ops::Range;

use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::limits::KEPT;

type Tokens<'a> = [(Token<'a>, Span)];

/// Replaces Hugging Face's `{% generation %}` blocks, which mark the assistant's text for training
/// and render their content, by `{% if true %}` blocks, and passes all that a template assigns to a
/// namespace through [`KEPT`].
pub(super) fn adapted(source: &str, syntax: &SyntaxConfig) -> String {
    let tokens = tokenize(source, false, syntax.clone()).collect::<Result<Vec<_>, _>>();
    let mut text = String::with_capacity(source.len());
    let mut done = 0;
    // Compiling reports what cannot be read as tokens.
    for (place, instead) in edits(&tokens.unwrap_or_default()) {
        text.push_str(&source[done..place.start]);
        text.push_str(&instead);
        done = place.end;
    }
    text.push_str(&source[done..]);
    text
}

fn edits(tokens: &Tokens<'_>) -> Vec<(Range<usize>, String)> {
    let mut edits = Vec::new();
    for tag in tokens.split(|(token, _)| matches!(token, Token::BlockStart)) {
        let Some(end) = tag.iter().position(|(token, _)| matches!(token, Token::BlockEnd)) else {
            continue;
        };
        let (tag, end) = (&tag[..end], place(&tag[end].1).start);
        match tag {
            [(Token::Ident("generation"), word)] => edits.push((place(word), "if true".into())),
            [(Token::Ident("endgeneration"), word)] => edits.push((place(word), "endif".into())),
            [(Token::Ident("set"), _), rest @ ..] => {
                let is_over = |token: &Token<'_>| matches!(token, Token::Assign | Token::Pipe);
                let target = rest.iter().take_while(|(token, _)| !is_over(token));
                if !target.clone().any(|(token, _)| matches!(token, Token::Dot)) {
                    continue;
                }
                match rest.get(target.count()) {
                    Some((Token::Assign, sign)) => {
                        let after = place(sign).end;
                        edits.push((after..after, "(".into()));
                        edits.push((end..end, format!(")|{KEPT}")));
                    }
                    _ => edits.push((end..end, format!("|{KEPT}"))),
                }
            }
            _ => {}
        }
    }
    edits
}

fn place(span: &Span) -> Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_are_changed() {
        let syntax = SyntaxConfig::builder().build().unwrap();
        for (source, expected) in [
            ("{%- generation -%}a{%endgeneration%}", "{%- if true -%}a{%endif%}"),
            ("{% set a = b %}{% set a %}b{% endset %}", "{% set a = b %}{% set a %}b{% endset %}"),
            ("{%- set n.a=b-%}", "{%- set n.a=(b)|kept_in_a_namespace-%}"),
            ("{% set n.a, b = 1, '%}' %}", "{% set n.a, b =( 1, '%}' )|kept_in_a_namespace%}"),
            ("{% set n.a %}b{% endset %}", "{% set n.a |kept_in_a_namespace%}b{% endset %}"),
            ("{% set n.a | f(b=1) %}", "{% set n.a | f(b=1) |kept_in_a_namespace%}"),
        ] {
            assert_eq!(adapted(source, &syntax), expected);
        }
        for same in [
            "{% raw %}{% generation %}{% set n.a = b %}{% endraw %}",
            "{# {% generation %} #}{{ '{% set n.a = b %}' }}",
            "{% if a == '{% generation %}' %}generation{% endif %}",
            "{% set n.a = '",
            "",
        ] {
            assert_eq!(adapted(same, &syntax), same);
        }
    }
}
