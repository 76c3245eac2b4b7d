//! Columns as wide as what stands in them.

use std::fmt;

/// Rows under a header. Nothing is cut off; the last column is not padded.
pub(super) struct Table<const N: usize> {
    header: [&'static str; N],
    /// Which columns are numbers, aligned to the right.
    numbers: [bool; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table without rows. A header that begins with `#` makes a column of numbers.
    pub(super) fn new(header: [&'static str; N]) -> Self {
        Self {
            numbers: header.map(|word| word.starts_with('#')),
            header: header.map(|word| word.trim_start_matches('#')),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }

    fn widths(&self) -> [usize; N] {
        let mut widths = self.header.map(|word| word.chars().count());
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    fn line(&self, f: &mut fmt::Formatter<'_>, widths: &[usize; N], cells: &[impl AsRef<str>; N]) -> fmt::Result {
        let mut line = String::new();
        for ((cell, width), is_number) in cells.iter().zip(widths).zip(self.numbers) {
            let cell = cell.as_ref();
            line += &if is_number {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:<width$}  ")
            };
        }
        writeln!(f, "{}", line.trim_end())
    }
}

impl<const N: usize> fmt::Display for Table<N> {
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
