//! What the demo prints: plain lines and aligned tables, coloured only for a terminal.

use std::io::{IsTerminal as _, Write as _, stdout};

use isthmus_tests::Failure;

/// The output, a section after the other.
pub(crate) struct Page {
    coloured: bool,
}

#[derive(Clone, Copy)]
enum Tone {
    Bold,
    Good,
    Bad,
    Faint,
}

impl Page {
    pub(crate) fn new() -> Self {
        Self {
            coloured: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// Begins a section.
    pub(crate) fn title(&mut self, text: &str) {
        self.line(&format!("\n{}", self.toned(Tone::Bold, text)));
    }

    /// Something was done or proved.
    pub(crate) fn done(&mut self, text: &str) {
        self.line(&format!("  {} {text}", self.toned(Tone::Good, "✓")));
    }

    /// Something beside the point.
    pub(crate) fn note(&mut self, text: &str) {
        self.line(&format!("  {}", self.toned(Tone::Faint, text)));
    }

    /// The end, when it is not a good one.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.line(&format!("\n  {} {failure:?}", self.toned(Tone::Bad, "✗ FAILED:")));
    }

    /// Rows of equal length under a head, each column as wide as its widest cell.
    pub(crate) fn table(&mut self, rows: &[Vec<String>]) {
        let columns = rows.first().map_or(0, Vec::len);
        let widest = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or_default()).collect();
        for (index, row) in rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let text = cells.collect::<Vec<_>>().join("  ");
            let text = if index == 0 {
                self.toned(Tone::Faint, text.trim_end())
            } else {
                text.trim_end().to_owned()
            };
            self.line(&format!("  {text}"));
        }
    }

    fn toned(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Bold => 1,
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Faint => 2,
        };
        if self.coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    #[expect(clippy::unused_self, reason = "a page is written from one place at a time")]
    fn line(&mut self, text: &str) {
        // A reader that went away does not stop the proofs; their verdict is the exit code.
        let _closed = writeln!(stdout(), "{text}");
    }
}
