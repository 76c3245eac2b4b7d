//! Columns as wide as what stands in them.

use std::fmt;

/// Rows under a header. Nothing is cut off; the last column is not padded.
pub(super) struct Table {
    header: Vec<&'static str>,
    /// Columns of numbers, aligned to the right.
    numbers: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows. A header that begins with `#` makes a column of numbers.
    pub(super) fn new<const N: usize>(header: [&'static str; N]) -> Self {
        let numbers = header.iter().enumerate().filter(|(_, word)| word.starts_with('#'));
        Self {
            numbers: numbers.map(|(column, _)| column).collect(),
            header: header.iter().map(|word| word.trim_start_matches('#')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, as long as the header.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|word| word.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, widths: &[usize], cells: &[impl AsRef<str>]) -> fmt::Result {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let cell = cell.as_ref();
            line += &if self.numbers.contains(&column) {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:<width$}  ")
            };
        }
        writeln!(f, "{}", line.trim_end())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        self.line(f, &widths, &self.header)?;
        self.rows.iter().try_for_each(|row| self.line(f, &widths, row))
    }
}

/// The text without what would steer a terminal. Names and reasons come from outside.
pub(super) fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_stand_on_the_right() {
        let mut table = Table::new(["POD", "#COUNT", "IDENTITY"]);
        table.row(["demo/a".to_owned(), "7".to_owned(), "spiffe://x".to_owned()]);
        table.row([
            "a-long-namespace/größer".to_owned(),
            "1234567".to_owned(),
            String::new(),
        ]);
        assert_eq!(
            table.to_string(),
            "POD                        COUNT  IDENTITY\n\
             demo/a                         7  spiffe://x\n\
             a-long-namespace/größer  1234567  -\n"
        );
    }

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
