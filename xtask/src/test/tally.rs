//! What passed and what failed, over every stage.

use crate::Failure;

/// Counts of tests and of stages that are one check each.
#[derive(Debug, Default)]
pub(super) struct Tally {
    passed: usize,
    failed: usize,
    failures: Vec<String>,
}

impl Tally {
    /// Counts a stage as one check.
    pub(super) fn record(&mut self, title: &str, ended: Result<(), Failure>) {
        match ended {
            Ok(()) => self.passed += 1,
            Err(failure) => {
                self.failed += 1;
                self.failures.push(format!("{title}: {failure}"));
            }
        }
    }

    /// Counts the tests in a line `test result: ok. 5 passed; 0 failed; ...` and keeps the names of failed ones.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += number_before(counts, " passed");
            self.failed += number_before(counts, " failed");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(format!("test {name}"));
        }
    }

    /// How many have failed so far.
    pub(super) fn failed(&self) -> usize {
        self.failed
    }

    /// Lists what failed and prints the closing line.
    pub(super) fn close(&self) -> Result<(), Failure> {
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        match (self.passed, self.failed) {
            (0, 0) => Err(Failure::new("no test ran")),
            (_, 0) => Ok(()),
            _ => Err(Failure::new("tests failed")),
        }
    }
}

/// The number that stands before `word`, 0 if there is none.
fn number_before(text: &str, word: &str) -> usize {
    let before = text.find(word).and_then(|at| text.get(..at)).unwrap_or_default();
    before
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::Failure;

    #[test]
    fn counts_results_of_test_binaries() {
        let mut tally = Tally::default();
        tally.read("running 3 tests");
        tally.read("test a ... ok");
        tally.read("test result: ok. 31 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.1s");
        assert!(tally.close().is_ok());
        tally.read("test lab::b ... FAILED");
        tally.read("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s");
        assert_eq!((tally.passed, tally.failed), (33, 1));
        assert_eq!(tally.failures, ["test lab::b"]);
        assert!(tally.close().is_err());
    }

    #[test]
    fn a_failed_stage_counts_and_no_test_at_all_is_a_failure() {
        let mut tally = Tally::default();
        assert!(tally.close().is_err());
        tally.record("lint", Ok(()));
        assert!(tally.close().is_ok());
        tally.record("fuzz", Err(Failure::new("crash")));
        assert!(tally.close().is_err());
    }
}
