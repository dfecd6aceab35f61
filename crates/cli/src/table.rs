//! Tables and lists of pairs, for people. comfy-table cuts or wraps columns, but does not fold
//! rows if the terminal is too narrow for columns.

use std::fmt::Write;

use crate::cells;
use crate::style::{self, Style};

/// The fewest cells that the last column is cut to, before rows are folded instead.
const LEAST: usize = 12;

/// Picks a cell's style by its text.
type Paint = fn(&str) -> Option<Style>;

/// Columns aligned with spaces, under headings. The last column is cut at the terminal's width; if
/// that leaves it too little room, each row is folded into several lines.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    headings: [&'static str; N],
    rows: Vec<[String; N]>,
    /// A column, and the style of its cells.
    paint: Option<(usize, Paint)>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(headings: [&'static str; N]) -> Self {
        Self { headings, rows: Vec::new(), paint: None }
    }

    /// The same, with the cells of one column styled by their text.
    pub(crate) fn painted(self, column: usize, paint: Paint) -> Self {
        Self { paint: Some((column, paint)), ..self }
    }

    pub(crate) fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, with lines of at most `width` cells if there is a width.
    pub(crate) fn to_text(&self, width: Option<usize>) -> String {
        self.draw(width, width.is_some() && style::on_stdout())
    }

    fn draw(&self, width: Option<usize>, coloured: bool) -> String {
        let headings = self.headings.map(str::to_owned);
        let lines: Vec<_> = std::iter::once(&headings).chain(&self.rows).collect();
        let mut widths: Vec<_> = (0..N)
            .map(|column| lines.iter().map(|line| cells::width(&line[column])).max().unwrap_or(0))
            .collect();
        if let (Some(width), Some((last, others))) = (width, widths.split_last_mut()) {
            let others: usize = others.iter().map(|width| width + 2).sum();
            let room = width.saturating_sub(others);
            if room < (*last).min(LEAST) {
                return self.rows.iter().map(|row| self.folded(row, width, coloured)).collect();
            }
            *last = (*last).min(room);
        }
        let mut text = String::new();
        for (at, line) in lines.into_iter().enumerate() {
            let mut out = String::new();
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                let cell = cells::shortened(cell, width);
                let space = if column + 1 < N { width + 2 - cells::width(&cell) } else { 0 };
                let style = match (at, self.paint) {
                    (0, _) => Some(Style::Bold),
                    (_, Some((painted, paint))) if painted == column => paint(&cell),
                    _ => None,
                };
                out.push_str(&style.map_or_else(|| cell.clone(), |it| it.paint(&cell, coloured)));
                out.push_str(&" ".repeat(space));
            }
            text.push_str(out.trim_end());
            text.push('\n');
        }
        text
    }

    /// A row on lines of its own: its first cell, and below it the others with their headings.
    fn folded(&self, row: &[String; N], width: usize, coloured: bool) -> String {
        let first = row.first().map_or("", String::as_str);
        let mut text = format!("{}\n", Style::Bold.paint(first, coloured));
        let mut line = String::new();
        let told = self.headings.iter().zip(row).skip(1);
        for (heading, cell) in told.filter(|(_, cell)| !matches!(cell.as_str(), "" | "-")) {
            let cell = format!("{} {cell}", heading.to_lowercase());
            let cell = cell.trim_start();
            if !line.is_empty() && cells::width(&line) + 2 + cells::width(cell) + 2 > width {
                push_lines(&mut text, &line, width);
                line.clear();
            }
            line.push_str(if line.is_empty() { "" } else { ", " });
            line.push_str(cell);
        }
        push_lines(&mut text, &line, width);
        text
    }
}

fn push_lines(text: &mut String, line: &str, width: usize) {
    for line in cells::lines(line, width.saturating_sub(2)) {
        // Writing to a string never fails.
        let _ = writeln!(text, "  {line}");
    }
}

/// `key  value` lines, the keys aligned.
pub(crate) fn pairs(pairs: &[(&str, String)], columns: Option<usize>) -> String {
    let width = pairs.iter().map(|(key, _)| cells::width(key)).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in pairs {
        let value = cells::hanging(value, width + 2, width + 2, columns);
        let _ = writeln!(text, "{key:<width$}  {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::glyphs;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["ID", "PROMPT"]);
        table.row(["17_1".into(), "hé".into()]);
        table.row(["1".into(), "x".into()]);
        assert_eq!(table.to_text(None), "ID    PROMPT\n17_1  hé\n1     x\n");
    }

    #[test]
    fn the_last_column_is_cut_at_the_terminals_width() {
        let mut table = Table::new(["A", "B"]);
        table.row(["1".into(), "a text that is too long".into()]);
        assert_eq!(
            table.to_text(Some(20)),
            format!("A  B\n1  a text that is t{}\n", glyphs().more)
        );
    }

    #[test]
    fn columns_are_aligned_by_cells() {
        let mut table = Table::new(["A", "B"]);
        table.row(["日本".into(), "日本語の長い文章です".into()]);
        table.row(["ab".into(), "x".into()]);
        assert_eq!(table.to_text(None), "A     B\n日本  日本語の長い文章です\nab    x\n");
        let narrow = table.to_text(Some(23));
        assert_eq!(narrow, format!("A     B\n日本  日本語の長い文章{}\nab    x\n", glyphs().more));
        assert!(narrow.lines().all(|line| cells::width(line) <= 23));
    }

    #[test]
    fn where_there_is_no_room_a_row_is_folded() {
        let mut table = Table::new(["ID", "STATE", "AGE", "MODEL", "PROMPT"]);
        table.row([
            "1736700000123456_1234567".into(),
            "queued at 12".into(),
            "10s".into(),
            "-".into(),
            "Why is the sky blue, and the sea?".into(),
        ]);
        let text = table.to_text(Some(40));
        assert_eq!(
            text,
            "1736700000123456_1234567\n  state queued at 12, age 10s\n  \
             prompt Why is the sky blue, and the\n  sea?\n"
        );
        for width in 3..40 {
            let text = table.to_text(Some(width));
            let lines = text.lines().skip(1);
            assert!(lines.clone().count() > 0);
            assert!(lines.into_iter().all(|line| cells::width(line) <= width), "{width}: {text}");
        }
    }

    #[test]
    fn colour_takes_no_room() {
        let red = |cell: &str| (cell == "failed").then_some(Style::Red);
        let mut table = Table::new(["ID", "STATE", "X"]).painted(1, red);
        table.row(["1".into(), "failed".into(), "y".into()]);
        let plain = table.draw(None, false);
        let painted = table.draw(None, true);
        assert!(painted.contains("\x1b[31mfailed\x1b[0m  y"), "{painted:?}");
        let bare = ["\x1b[31m", "\x1b[1m", "\x1b[0m"].iter().fold(painted, |s, c| s.replace(c, ""));
        assert_eq!(bare, plain);
    }
}
