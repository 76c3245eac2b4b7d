//! Rows of traffic: raw, ours and the plain relay one after the other, round by round.

use isthmus_tests::Result;

use crate::{
    case::{Case, DOUBLE_BY_SINGLE, Kind},
    census::Census,
    load::{Run, Span},
    pace::Pace,
    report::{Better, Figure, Row, Side},
    stage::{Destination, Place, Stage},
};

/// Seconds of load before a window: congestion windows and buffers have grown by then.
const WARM_SECONDS: f64 = 0.3;
/// So many seconds of a churn are its beginning.
const FIRST_SECONDS: usize = 3;

/// A figure's name, unit, direction, and how it is read from a run; `None` when a run of that side does not have it.
type Reading = (&'static str, &'static str, Better, fn(&Run) -> Result<f64>);

const BULK: &[Reading] = &[
    ("rate", "Gbit/s", Better::Higher, |run| {
        Ok(run.number("bytes")? * 8e-9 / run.number("seconds")?)
    }),
    ("agents' CPU", "s/GB", Better::Lower, |run| {
        Ok(run.cpu * 1e9 / run.number("bytes")?)
    }),
    ("machine's CPU", "s/GB", Better::Lower, |run| {
        Ok(run.machine * 1e9 / run.number("bytes")?)
    }),
    ("client's eth0", "B/B", Better::Neither, |run| {
        Ok(run.client_wire / run.number("bytes")?)
    }),
    ("server's eth0", "B/B", Better::Neither, |run| {
        Ok(run.server_wire / run.number("bytes")?)
    }),
];

const PING: &[Reading] = &[
    ("rate", "trips/s", Better::Higher, |run| {
        Ok(run.number("trips")? / run.number("seconds")?)
    }),
    ("p50", "µs", Better::Lower, |run| run.number("p50_us")),
    ("p99", "µs", Better::Lower, |run| run.number("p99_us")),
    ("p99.9", "µs", Better::Lower, |run| run.number("p999_us")),
    ("agents' CPU", "µs/trip", Better::Lower, |run| {
        Ok(run.cpu * 1e6 / run.number("trips")?)
    }),
];

const CHURN: &[Reading] = &[
    ("rate", "conn/s", Better::Higher, |run| {
        Ok(run.number("done")? / run.number("seconds")?)
    }),
    ("rate at first", "conn/s", Better::Higher, |run| {
        let seconds = run.numbers("per_second");
        let first: Vec<f64> = seconds.iter().copied().take(FIRST_SECONDS).collect();
        Ok(first.iter().sum::<f64>() / first.len().max(1) as f64)
    }),
    ("p50", "ms", Better::Lower, |run| Ok(run.number("p50_us")? / 1e3)),
    ("p99", "ms", Better::Lower, |run| Ok(run.number("p99_us")? / 1e3)),
    ("p99.9", "ms", Better::Lower, |run| Ok(run.number("p999_us")? / 1e3)),
    ("failed", "conn", Better::Lower, |run| run.number("failed")),
    ("agents' CPU", "µs/conn", Better::Lower, |run| {
        Ok(run.cpu * 1e6 / run.number("done")?)
    }),
];

/// Runs a case on these of its sides. A side without agents has no CPU time of agents.
pub(crate) fn row(stage: &Stage, case: &Case, pace: &Pace, sides: &[Side]) -> Result<Row> {
    let is_churn = matches!(case.kind, Kind::Churn { .. });
    let rounds = if is_churn { 1 } else { pace.rounds };
    let mut found = Found::default();
    for _ in 0..rounds {
        for &(side, from, to) in case.routes.iter().filter(|(side, ..)| sides.contains(side)) {
            let run = Run::of(stage, case.kind, from, to, span(case.kind, side, pace))?;
            if is_churn {
                found.censuses.push((side, Closed::count(stage, from, to)?));
            }
            found.runs.push((side, run));
        }
    }
    found.row(case)
}

/// For a row of double HBONE, the figure that sets it beside the row of single HBONE, if that was measured.
pub(crate) fn double_by_single(row: &Row, measured: &[Row]) -> Option<Figure> {
    let (_, single, name) = DOUBLE_BY_SINGLE.iter().find(|(double, ..)| *double == row.name)?;
    let single = measured.iter().find(|row| row.name == *single)?;
    let of = |row: &Row| {
        let figure = row.figures.iter().find(|figure| figure.name == *name)?;
        Some((figure.better, figure.ours.clone()?))
    };
    let ((better, double), (_, single)) = (of(row)?, of(single)?);
    let title = format!("{name} by single HBONE's");
    Some(Figure::ours(&title, "×", better, double.by(&single)?.runs))
}

fn span(kind: Kind, side: Side, pace: &Pace) -> Span {
    let Kind::Churn { .. } = kind else {
        return Span {
            warm: WARM_SECONDS,
            seconds: pace.seconds,
        };
    };
    let whole = if side == Side::Relay {
        pace.churn_seconds / 3.0
    } else {
        pace.churn_seconds
    };
    let seconds = pace.churn_window_seconds.min(whole);
    Span {
        warm: whole - seconds,
        seconds,
    }
}

/// What is in TIME_WAIT as a churn ends.
struct Closed {
    client: Census,
    server: Census,
    nodes: u64,
}

impl Closed {
    fn count(stage: &Stage, from: Place, to: Destination) -> Result<Self> {
        let mut nodes = 0;
        for agent in stage.agents() {
            nodes += Census::of_node(agent.node().netns())?;
        }
        Ok(Self {
            client: Census::of_pod(stage.pod(from)?)?,
            server: Census::of_pod(stage.server(to)?)?,
            nodes,
        })
    }
}

/// A census column: its name and how it is read.
type Column = (&'static str, fn(&Closed) -> u64);

const TIME_WAIT: [Column; 5] = [
    ("TIME_WAIT in the client's pod, its application", |closed| {
        closed.client.application
    }),
    ("TIME_WAIT in the client's pod, the agent", |closed| closed.client.agent),
    ("TIME_WAIT in the server's pod, its application", |closed| {
        closed.server.application
    }),
    ("TIME_WAIT in the server's pod, the agent", |closed| closed.server.agent),
    ("TIME_WAIT in the nodes", |closed| closed.nodes),
];

/// Everything the rounds of a row have found.
#[derive(Default)]
struct Found {
    runs: Vec<(Side, Run)>,
    censuses: Vec<(Side, Closed)>,
}

impl Found {
    fn row(&self, case: &Case) -> Result<Row> {
        let readings = match case.kind {
            Kind::Bulk { .. } => BULK,
            Kind::Ping { .. } => PING,
            Kind::Churn { .. } => CHURN,
        };
        let mut figures = Vec::new();
        for &(name, unit, better, read) in readings {
            let mut figure = Figure::new(name, unit, better);
            for side in self.sides() {
                if side == Side::Raw && name == "agents' CPU" {
                    continue;
                }
                figure.set(side, self.of(side).map(read).collect::<Result<Vec<_>>>()?);
            }
            figure.goal = case.goals.iter().find(|(its, _)| *its == name).map(|(_, goal)| *goal);
            figures.push(figure);
        }
        if !self.censuses.is_empty() {
            figures.extend(TIME_WAIT.map(|column| self.time_wait(column)));
        }
        let mut notes = Vec::new();
        if !case.crossing.is_empty() {
            notes.push(case.crossing.to_owned());
        }
        for (side, run) in &self.runs {
            notes.extend(
                run.texts("errors")
                    .into_iter()
                    .map(|error| format!("{side:?}: {error}")),
            );
        }
        let mut row = Row::new(case.name, case.title);
        (row.figures, row.notes) = (figures, notes);
        Ok(row)
    }

    fn time_wait(&self, (name, read): Column) -> Figure {
        let mut figure = Figure::new(name, "sockets", Better::Lower);
        for side in self.sides() {
            let counts = self.censuses.iter().filter(|(its, _)| *its == side);
            figure.set(side, counts.map(|(_, closed)| read(closed) as f64).collect());
        }
        figure
    }

    fn sides(&self) -> Vec<Side> {
        let mut sides: Vec<Side> = self.runs.iter().map(|(side, _)| *side).collect();
        sides.sort_unstable();
        sides.dedup();
        sides
    }

    fn of(&self, side: Side) -> impl Iterator<Item = &Run> {
        let its = self.runs.iter().filter(move |(its, _)| *its == side);
        its.map(|(_, run)| run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Close;

    fn row(name: &str, rates: &[f64]) -> Row {
        let mut row = Row::new(name, name);
        row.figures
            .push(Figure::ours("rate", "Gbit/s", Better::Higher, rates.to_vec()));
        row
    }

    #[test]
    fn double_is_set_beside_single_and_nothing_else_is() {
        let (double, single) = (row("double-bulk", &[1.0, 2.0, 3.0]), row("bulk-1", &[2.0, 4.0, 4.0]));
        let figure = double_by_single(&double, std::slice::from_ref(&single)).unwrap();
        assert_eq!(figure.ours.unwrap().runs, [0.5, 0.5, 0.75]);
        assert_eq!(double_by_single(&double, &[row("bulk-8", &[1.0])]), None);
        assert_eq!(double_by_single(&single, std::slice::from_ref(&double)), None);
    }

    #[test]
    fn only_the_end_of_a_churn_is_its_window() {
        let churn = Kind::Churn { close: Close::Rst };
        let whole = span(churn, Side::Ours, &Pace::FULL);
        assert_eq!((whole.warm, whole.seconds), (50.0, 10.0));
        let relay = span(churn, Side::Relay, &Pace::FULL);
        assert_eq!((relay.warm, relay.seconds), (10.0, 10.0));
        assert_eq!(span(Kind::Bulk { streams: 1 }, Side::Ours, &Pace::FULL).seconds, 1.5);
    }
}
