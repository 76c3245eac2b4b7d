//! What a run of the bench has found: the form of its JSON.

use std::{fs, path::Path};

use isthmus_tests::{Because as _, Failure, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{goal::Goal, machine::Machine, pace::Pace};

/// Is one more when a reader of the form before would misunderstand this one.
pub(crate) const FORMAT: u32 = 1;

/// All of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// [`FORMAT`] of whoever wrote it.
    pub(crate) format: u32,
    pub(crate) machine: Machine,
    /// The agent's binary, when it is not the one built in the work tree of this bench.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    /// How long and how often each row was run.
    pub(crate) pace: Pace,
    pub(crate) rows: Vec<Row>,
}

/// One kind of traffic, or one state of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What `--rows` is matched with.
    pub(crate) name: String,
    /// What was measured, for a reader.
    pub(crate) title: String,
    pub(crate) figures: Vec<Figure>,
    /// What else a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// Why the row could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
}

/// One number of a row, on each side that has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) raw: Option<Sample>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ours: Option<Sample>,
    /// A plain relay behind the same redirection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) relay: Option<Sample>,
    /// Ours by raw of the same round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<Sample>,
    /// The plain relay by raw of the same round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) relay_ratio: Option<Sample>,
    /// What we want of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) goal: Option<Goal>,
}

/// Which way a figure should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Better {
    Higher,
    Lower,
    /// It only tells something.
    Neither,
}

/// A number as it was found in each round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Median of the rounds.
    pub(crate) value: f64,
    /// In the order of the rounds.
    pub(crate) runs: Vec<f64>,
}

/// Who carries the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Raw,
    Ours,
    Relay,
}

impl Report {
    /// Reads one that was written earlier.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading {}", path.display());
        let text = fs::read_to_string(path).because(reading())?;
        let value: Value = serde_json::from_str(&text).because(reading())?;
        // Before the rest, which another form may have otherwise.
        let format = value.get("format").and_then(Value::as_u64);
        if format != Some(FORMAT.into()) {
            return Err(Failure::new(format!(
                "{} is no report of this form ({FORMAT}) but of {format:?}; measure again with the commit to compare with",
                path.display()
            )));
        }
        serde_json::from_value(value).because(reading())
    }

    /// Fails if it could not be written there, so that this is known before the work and not after it.
    pub(crate) fn try_path(path: &Path) -> Result {
        let writing = || format!("opening {} for writing", path.display());
        let is_new = !path.exists();
        fs::File::options()
            .create(true)
            .append(true)
            .open(path)
            .because(writing())?;
        if is_new {
            fs::remove_file(path).because(writing())?;
        }
        Ok(())
    }

    /// Writes it, as JSON for programs and for reading.
    pub(crate) fn write(&self, path: &Path) -> Result {
        let text = serde_json::to_string_pretty(self).because("writing the report as JSON")? + "\n";
        fs::write(path, text).because(format!("writing {}", path.display()))
    }
}

impl Row {
    /// A row without figures yet.
    pub(crate) fn new(name: &str, title: &str) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            figures: Vec::new(),
            notes: Vec::new(),
            failed: None,
        }
    }
}

impl Sample {
    /// `None` of nothing, and of what is no number.
    pub(crate) fn of(runs: Vec<f64>) -> Option<Self> {
        if runs.iter().any(|run| !run.is_finite()) {
            return None;
        }
        let mut sorted = runs.clone();
        sorted.sort_by(f64::total_cmp);
        let upper = sorted.len() / 2;
        let lower = sorted.len().checked_sub(1)? / 2;
        let value = f64::midpoint(*sorted.get(lower)?, *sorted.get(upper)?);
        Some(Self { value, runs })
    }

    /// The lowest of the rounds.
    pub(crate) fn low(&self) -> f64 {
        self.runs.iter().copied().fold(self.value, f64::min)
    }

    /// The highest of the rounds.
    pub(crate) fn high(&self) -> f64 {
        self.runs.iter().copied().fold(self.value, f64::max)
    }

    /// Each round by the same round of `base`; `None` when a round is missing or its base is zero.
    pub(crate) fn by(&self, base: &Self) -> Option<Self> {
        if self.runs.len() != base.runs.len() {
            return None;
        }
        Self::of(self.runs.iter().zip(&base.runs).map(|(run, base)| run / base).collect())
    }
}

impl Figure {
    /// A figure without any numbers yet.
    pub(crate) fn new(name: &str, unit: &str, better: Better) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            better,
            raw: None,
            ours: None,
            relay: None,
            ratio: None,
            relay_ratio: None,
            goal: None,
        }
    }

    /// Puts the numbers of one side in, and its ratio to raw if raw's are known.
    pub(crate) fn set(&mut self, side: Side, runs: Vec<f64>) {
        let sample = Sample::of(runs);
        match side {
            Side::Raw => self.raw = sample,
            Side::Ours => self.ours = sample,
            Side::Relay => self.relay = sample,
        }
        let by_raw = |side: &Option<Sample>| side.as_ref()?.by(self.raw.as_ref()?);
        (self.ratio, self.relay_ratio) = (by_raw(&self.ours), by_raw(&self.relay));
    }

    /// As [`Figure::set`], for our side alone.
    pub(crate) fn ours(name: &str, unit: &str, better: Better, runs: Vec<f64>) -> Self {
        let mut figure = Self::new(name, unit, better);
        figure.set(Side::Ours, runs);
        figure
    }

    /// Whether it is as wanted; `None` when nothing is wanted or nothing was found.
    pub(crate) fn is_reached(&self) -> Option<bool> {
        let value = |sample: &Option<Sample>| sample.as_ref().map(|sample| sample.value);
        self.goal?.is_reached(value(&self.ours), value(&self.ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_spread_are_of_all_rounds() {
        let sample = Sample::of(vec![5.0, 1.0, 3.0]).unwrap();
        assert_eq!((sample.low(), sample.value, sample.high()), (1.0, 3.0, 5.0));
        assert_eq!(Sample::of(vec![1.0, 2.0]).unwrap().value, 1.5);
        assert_eq!(Sample::of(Vec::new()), None);
        assert_eq!(Sample::of(vec![1.0, f64::NAN]), None);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let mut figure = Figure::new("rate", "1/s", Better::Higher);
        figure.set(Side::Raw, vec![10.0, 20.0, 40.0]);
        figure.set(Side::Ours, vec![5.0, 5.0, 20.0]);
        assert_eq!(figure.ratio.clone().unwrap().runs, [0.5, 0.25, 0.5]);
        assert_eq!(figure.ratio.unwrap().value, 0.5);
        assert_eq!(figure.relay_ratio, None);
    }

    #[test]
    fn what_was_written_is_read_again() {
        let mut rate = Figure::new("rate", "1/s", Better::Higher);
        rate.set(Side::Raw, vec![0.1, 1e9, 3.0]);
        rate.goal = Some(Goal::RatioAtLeast(0.55));
        let mut row = Row::new("bulk-1", "bulk, 1 stream");
        row.figures.push(rate);
        let mut failed = Row::new("ping-1", "ping");
        failed.failed = Some("no route".to_owned());
        let report = Report {
            format: FORMAT,
            machine: Machine::this(),
            agent: Some("/elsewhere/isthmus".to_owned()),
            pace: Pace::FULL,
            rows: vec![row, failed],
        };
        let path = std::env::temp_dir().join(format!("bench-report-{}.json", std::process::id()));
        Report::try_path(&path).unwrap();
        assert!(!path.exists(), "a trial leaves nothing");
        report.write(&path).unwrap();
        Report::try_path(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), report);
        fs::write(&path, "{\"format\": 0, \"rows\": 5}").unwrap();
        assert!(
            Report::read(&path)
                .unwrap_err()
                .to_string()
                .contains("no report of this form")
        );
        fs::write(&path, "{").unwrap();
        assert!(Report::read(&path).is_err());
        fs::remove_file(&path).unwrap();
        assert!(Report::try_path(Path::new("/no/such/folder/report.json")).is_err());
    }

    #[test]
    fn without_raw_or_with_zero_there_is_no_ratio() {
        let mut figure = Figure::ours("memory", "MB", Better::Lower, vec![12.0]);
        assert_eq!(figure.ratio, None);
        figure.set(Side::Raw, vec![0.0]);
        assert_eq!(figure.ratio, None);
        figure.set(Side::Raw, vec![1.0, 2.0]);
        assert_eq!(figure.ratio, None);
    }
}
