//! Tables for people.

use std::fmt::Write;

use crate::terminal::glyphs;

/// Columns aligned by spaces, under headings; the last one is cut at the terminal's width.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    headings: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(headings: [&'static str; N]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, each line at most `width` characters where there is a width.
    pub(crate) fn to_text(&self, width: Option<usize>) -> String {
        let headings = self.headings.map(str::to_owned);
        let lines: Vec<_> = std::iter::once(&headings).chain(&self.rows).collect();
        let widths: Vec<_> = (0..N)
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for line in lines {
            let mut out = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                // Writing to a text never fails.
                let _ = write!(out, "{cell:<width$}  ");
            }
            let out = out.trim_end();
            match width {
                Some(width) if out.chars().count() > width => {
                    text.extend(out.chars().take(width.saturating_sub(1)));
                    text.push(glyphs().more);
                }
                _ => text.push_str(out),
            }
            text.push('\n');
        }
        text
    }
}

/// `key  value` lines, the keys aligned.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in pairs {
        let _ = writeln!(text, "{key:<width$}  {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["ID", "PROMPT"]);
        table.row(["17_1".into(), "hé".into()]);
        table.row(["1".into(), "x".into()]);
        assert_eq!(table.to_text(None), "ID    PROMPT\n17_1  hé\n1     x\n");
    }

    #[test]
    fn lines_are_cut_at_the_terminals_width() {
        let mut table = Table::new(["A", "B"]);
        table.row(["1".into(), "a long text".into()]);
        assert_eq!(table.to_text(Some(8)), format!("A  B\n1  a lo{}\n", glyphs().more));
    }
}
