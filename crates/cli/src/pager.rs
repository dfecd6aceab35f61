//! Long text on a terminal, shown through the user's pager.

use std::env;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use crate::cells;
use crate::output;

/// Shows a text: in the user's pager if it is taller than the terminal, else as it is.
pub(crate) async fn show(text: &str) -> io::Result<()> {
    if let Some((columns, rows)) = output::size()
        && is_taller(text, columns, rows)
        && let Some(command) = chosen(|name| env::var(name).ok())
        && page(&command, text).is_ok()
    {
        return Ok(());
    }
    output::print_patiently(text).await
}

/// Whether the text needs more lines than fit on one screen of this terminal.
fn is_taller(text: &str, columns: usize, rows: usize) -> bool {
    let lines = text.lines().map(|line| cells::width(line).div_ceil(columns.max(1)).max(1));
    lines.take(rows).sum::<usize>() >= rows
}

/// The pager's command: `$PAGER`, else `less`; `None` if that is empty or `cat`.
fn chosen(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let command = variable("PAGER").unwrap_or_else(|| "less".to_owned());
    (!matches!(command.trim(), "" | "cat")).then_some(command)
}

fn page(command: &str, text: &str) -> io::Result<()> {
    let mut pager = Command::new("sh");
    pager.args(["-c", command]).stdin(Stdio::piped());
    if env::var_os("LESS").is_none() {
        // The options that git sets: quit if it fits (F), keep colours (R), do not clear (X).
        pager.env("LESS", "FRX");
    }
    let mut pager = pager.spawn()?;
    if let Some(mut input) = pager.stdin.take() {
        // A pager that has shown enough closes the pipe.
        let _ = input.write_all(text.as_bytes());
    }
    match pager.wait()?.code() {
        // The shell found no such program, or cannot run it.
        Some(126 | 127) => Err(io::ErrorKind::NotFound.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_not_paged() {
        assert!(!is_taller("one\ntwo\n", 80, 24));
        assert!(is_taller(&"line\n".repeat(24), 80, 24));
        assert!(!is_taller(&"line\n".repeat(23), 80, 24));
        // A long line wraps to several.
        assert!(is_taller(&"x".repeat(80 * 24), 80, 24));
    }

    #[test]
    fn the_pager_is_chosen_as_elsewhere() {
        let with = |value: Option<&str>| {
            let value = value.map(str::to_owned);
            chosen(move |_| value.clone())
        };
        assert_eq!(with(None).as_deref(), Some("less"));
        assert_eq!(with(Some("more -s")).as_deref(), Some("more -s"));
        assert_eq!((with(Some("")), with(Some("cat"))), (None, None));
    }
}
