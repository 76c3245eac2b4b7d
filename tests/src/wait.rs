//! The one place that waits.

use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

const STEP: Duration = Duration::from_millis(4);

/// Asks `answer` again and again until it has one; fails with `what` after `bound`.
#[track_caller]
pub fn within<T>(bound: Duration, what: &str, mut answer: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(answer) = answer() {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(format!("not within {bound:?}: {what}")));
        }
        step();
    }
}

/// Looks again and again for as long as `span`, and fails as soon as `holds` does not.
#[track_caller]
pub fn throughout(span: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Result {
    let end = Instant::now() + span;
    loop {
        if !holds() {
            return Err(Failure::new(format!("did not hold for {span:?}: {what}")));
        }
        if Instant::now() >= end {
            return Ok(());
        }
        step();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "between two looks at a condition, here and nowhere else"
)]
fn step() {
    std::thread::sleep(STEP);
}
