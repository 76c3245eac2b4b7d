//! Two reports side by side.

use crate::{
    report::{Better, Figure, Report, Row, Sample},
    table::number,
};

/// How far a figure of a single run may wander by itself; rounds tell their own spread.
const SINGLE_RUN_SPREAD: f64 = 0.1;
const NAME_WIDTH: usize = 56;
const CELL_WIDTH: usize = 24;

/// Whether a change is more than the spread, and of which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Within,
    Better,
    Worse,
    /// Outside the spread, in a figure that has no better.
    Other,
}

/// What differs between an earlier report and this one: old → new and the change, figure by figure.
pub(crate) fn lines(old: &Report, new: &Report) -> Vec<String> {
    let mut lines = vec![format!(
        "compared with {} of {} (▲ better, ▼ worse, ◆ different: by more than both spreads; the rest may be chance)",
        if old.machine.commit.is_empty() {
            "a run"
        } else {
            &old.machine.commit
        },
        old.machine.date
    )];
    lines.extend(grains_of_salt(old, new));
    let heads = ["raw", "ours", "ours / raw", "plain relay"];
    let heads = heads.map(|head| format!("  {head:>CELL_WIDTH$}")).concat();
    lines.push(format!("{:NAME_WIDTH$}{heads}", ""));
    for row in &new.rows {
        match old.rows.iter().find(|before| before.name == row.name) {
            Some(before) => lines.extend(of_row(before, row)),
            None => lines.push(format!("{}  [{}]: not in the earlier report", row.title, row.name)),
        }
    }
    lines
}

/// Why figures may differ although nothing was changed.
fn grains_of_salt(old: &Report, new: &Report) -> Vec<String> {
    let (then, now) = (&old.machine, &new.machine);
    let mut lines = Vec::new();
    let mut differs = |what: &str, then: &str, now: &str| {
        if then != now {
            lines.push(format!("  note: another {what}: {then}, now {now}"));
        }
    };
    differs("kernel", &then.kernel, &now.kernel);
    differs("processor", &then.cpu, &now.cpu);
    differs("number of cores", &then.cores.to_string(), &now.cores.to_string());
    if old.pace != new.pace {
        lines.push("  note: rows were run for another time or another number of rounds".to_owned());
    }
    lines
}

fn of_row(old: &Row, new: &Row) -> Vec<String> {
    let mut lines = vec![format!("{}  [{}]", new.title, new.name)];
    for figure in &new.figures {
        let Some(before) = old
            .figures
            .iter()
            .find(|before| before.name == figure.name && before.unit == figure.unit)
        else {
            continue;
        };
        let cells = sides(before)
            .into_iter()
            .zip(sides(figure))
            .map(|(old, new)| match (old, new) {
                (Some(old), Some(new)) => cell(figure.better, old, new),
                _ => String::new(),
            });
        let cells: String = cells.map(|cell| format!("  {cell:>CELL_WIDTH$}")).collect();
        let name = format!("  {}, {}", figure.name, figure.unit);
        lines.push(format!("{name:NAME_WIDTH$}{cells}").trim_end().to_owned());
    }
    lines
}

fn sides(figure: &Figure) -> [Option<&Sample>; 4] {
    [&figure.raw, &figure.ours, &figure.ratio, &figure.relay].map(Option::as_ref)
}

fn cell(better: Better, old: &Sample, new: &Sample) -> String {
    let mark = match change(better, old, new) {
        Change::Within => " ",
        Change::Better => "▲",
        Change::Worse => "▼",
        Change::Other => "◆",
    };
    let percent = (new.value / old.value - 1.0) * 100.0;
    let percent = if percent.is_finite() {
        format!(" {percent:+.0}%")
    } else {
        String::new()
    };
    format!("{} → {}{percent} {mark}", number(old.value), number(new.value))
}

fn change(better: Better, old: &Sample, new: &Sample) -> Change {
    let ([old_low, old_high], [new_low, new_high]) = (range(old), range(new));
    let is_higher = new_low > old_high;
    let is_lower = new_high < old_low;
    match better {
        _ if !is_higher && !is_lower => Change::Within,
        Better::Higher if is_higher => Change::Better,
        Better::Lower if is_lower => Change::Better,
        Better::Higher | Better::Lower => Change::Worse,
        Better::Neither => Change::Other,
    }
}

/// Where all rounds lie; of one round, where others would probably lie.
fn range(sample: &Sample) -> [f64; 2] {
    if sample.runs.len() > 1 {
        return [sample.low(), sample.high()];
    }
    let spread = sample.value.abs() * SINGLE_RUN_SPREAD / 2.0;
    [sample.value - spread, sample.value + spread]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pace::Pace,
        report::{FORMAT, Side},
    };

    fn sample(runs: &[f64]) -> Sample {
        Sample::of(runs.to_vec()).unwrap()
    }

    fn report(rates: &[f64]) -> Report {
        let mut rate = Figure::new("rate", "Gbit/s", Better::Higher);
        rate.set(Side::Raw, vec![20.0; rates.len()]);
        rate.set(Side::Ours, rates.to_vec());
        let mut row = Row::new("bulk-1", "bulk");
        row.figures.push(rate);
        Report {
            format: FORMAT,
            machine: crate::machine::Machine::default(),
            agent: None,
            pace: Pace::FULL,
            rows: vec![row],
        }
    }

    #[test]
    fn rounds_that_overlap_are_no_change() {
        let (old, new) = (sample(&[10.0, 11.0, 12.0]), sample(&[11.5, 13.0, 14.0]));
        assert_eq!(change(Better::Higher, &old, &new), Change::Within);
        assert_eq!(change(Better::Higher, &new, &old), Change::Within);
    }

    #[test]
    fn rounds_apart_are_better_or_worse_as_the_figure_says() {
        let (old, new) = (sample(&[10.0, 11.0, 12.0]), sample(&[12.5, 13.0, 14.0]));
        assert_eq!(change(Better::Higher, &old, &new), Change::Better);
        assert_eq!(change(Better::Higher, &new, &old), Change::Worse);
        assert_eq!(change(Better::Lower, &old, &new), Change::Worse);
        assert_eq!(change(Better::Lower, &new, &old), Change::Better);
        assert_eq!(change(Better::Neither, &old, &new), Change::Other);
    }

    #[test]
    fn a_single_run_has_a_spread_too() {
        let (old, near, far) = (sample(&[100.0]), sample(&[109.0]), sample(&[111.0]));
        assert_eq!(change(Better::Higher, &old, &near), Change::Within);
        assert_eq!(change(Better::Higher, &old, &far), Change::Better);
    }

    #[test]
    fn a_line_tells_old_new_and_change() {
        let lines = lines(&report(&[10.0, 10.0, 10.0]), &report(&[12.0, 12.0, 12.0])).join("\n");
        assert!(lines.contains("10.0 → 12.0 +20% ▲"), "{lines}");
        assert!(lines.contains("0.500 → 0.600 +20% ▲"), "{lines}");
        assert!(lines.contains("20.0 → 20.0 +0% "), "{lines}");
    }

    #[test]
    fn rows_that_are_new_and_another_machine_are_told() {
        let mut old = report(&[10.0]);
        old.rows.clear();
        old.machine.kernel = "5.4".to_owned();
        let lines = lines(&old, &report(&[10.0])).join("\n");
        assert!(lines.contains("[bulk-1]: not in the earlier report"), "{lines}");
        assert!(lines.contains("another kernel: 5.4"), "{lines}");
    }

    #[test]
    fn from_nothing_there_is_no_percentage() {
        assert_eq!(cell(Better::Lower, &sample(&[0.0]), &sample(&[5.0])), "0 → 5.00 ▼");
    }
}
