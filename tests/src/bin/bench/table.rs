//! The report on a terminal: a line for each figure, in columns.

use crate::report::{Figure, Row, Sample};

/// Width of each column; the first holds figure and unit.
const WIDTHS: [usize; 7] = [56, 13, 13, 7, 13, 7, 13];
const HEAD: [&str; 7] = ["", "raw", "ours", "ratio", "plain relay", "ratio", "wanted"];

/// The head of the columns.
pub(crate) fn head() -> String {
    line(&HEAD.map(str::to_owned), "")
}

/// A row: its title, its figures, its notes.
pub(crate) fn lines(row: &Row) -> Vec<String> {
    let mut lines = vec![format!("{}  [{}]", row.title, row.name)];
    if let Some(reason) = &row.failed {
        lines.push(format!("  could not be measured: {reason}"));
    }
    lines.extend(row.figures.iter().map(figure));
    lines.extend(row.notes.iter().map(|note| format!("  note: {note}")));
    lines
}

fn figure(figure: &Figure) -> String {
    let cell = |sample: &Option<Sample>| sample.as_ref().map_or_else(String::new, with_spread);
    let ratio = |sample: &Option<Sample>| {
        sample
            .as_ref()
            .map_or_else(String::new, |sample| format!("{:.2}", sample.value))
    };
    let mark = match figure.is_reached() {
        Some(true) => "✓",
        Some(false) => "✗",
        None => "",
    };
    line(
        &[
            format!("  {}, {}", figure.name, figure.unit),
            cell(&figure.raw),
            cell(&figure.ours),
            ratio(&figure.ratio),
            cell(&figure.relay),
            ratio(&figure.relay_ratio),
            figure.goal.map_or_else(String::new, |goal| goal.to_string()),
        ],
        mark,
    )
}

fn line(cells: &[String; 7], mark: &str) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in cells.iter().zip(WIDTHS).enumerate() {
        line += &if index == 0 {
            format!("{cell:<width$}")
        } else {
            format!("  {cell:>width$}")
        };
    }
    format!("{line}  {mark}").trim_end().to_owned()
}

/// The median, and how far the farthest round is from it.
fn with_spread(sample: &Sample) -> String {
    let value = number(sample.value);
    let off = (sample.high() - sample.value).max(sample.value - sample.low()) / sample.value;
    if sample.runs.len() > 1 && off.is_finite() {
        format!("{value} ±{:.0}%", off * 100.0)
    } else {
        value
    }
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        goal::Goal,
        report::{Better, Side},
    };

    fn rate() -> Figure {
        let mut rate = Figure::new("rate", "Gbit/s", Better::Higher);
        rate.goal = Some(Goal::RatioAtLeast(0.55));
        rate.set(Side::Raw, vec![20.0, 22.0, 21.0]);
        rate.set(Side::Ours, vec![10.0, 11.0, 12.6]);
        rate
    }

    fn row(figures: Vec<Figure>) -> Row {
        let mut row = Row::new("bulk-1", "bulk, 1 stream");
        row.figures = figures;
        row.notes.push("something".to_owned());
        row
    }

    #[test]
    fn cells_stand_below_their_heads() {
        let text = figure(&rate());
        let end_of = |line: &str, part: &str| {
            line.split(part)
                .next()
                .map(|before| before.chars().count() + part.chars().count())
        };
        assert_eq!(end_of(&text, "21.0 ±5%"), end_of(&head(), "raw"));
        assert_eq!(end_of(&text, "11.0 ±15%"), end_of(&head(), "ours"));
        assert_eq!(end_of(&text, "≥ 0.55 × raw"), end_of(&head(), "wanted"));
    }

    #[test]
    fn a_goal_that_is_missed_is_marked() {
        assert!(figure(&rate()).ends_with('✗'), "{}", figure(&rate()));
        let mut reached = rate();
        reached.goal = Some(Goal::RatioAtLeast(0.5));
        assert!(figure(&reached).ends_with('✓'), "{}", figure(&reached));
        let mut unmeasured = rate();
        (unmeasured.ours, unmeasured.ratio) = (None, None);
        assert!(figure(&unmeasured).ends_with("raw"), "{}", figure(&unmeasured));
    }

    #[test]
    fn a_row_has_its_title_figures_and_notes_in_this_order() {
        let lines = lines(&row(vec![rate()]));
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "bulk, 1 stream  [bulk-1]");
        assert_eq!(lines[2], "  note: something");
    }

    #[test]
    fn a_row_that_failed_says_why() {
        let mut failed = row(Vec::new());
        failed.failed = Some("no route".to_owned());
        assert_eq!(lines(&failed)[1], "  could not be measured: no route");
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.1234, 1.234, 12.34, 1234.5].map(number);
        assert_eq!(shown, ["0", "0.123", "1.23", "12.3", "1234"]);
    }
}
