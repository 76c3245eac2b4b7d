//! The time in which is measured.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{Answer, Span};

/// A window that begins after a warm-up.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    begin: Instant,
    end: Instant,
}

/// Where in time something lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Before,
    Within,
    After,
}

impl Window {
    /// The window of a load that starts now.
    pub(crate) fn starting_now(span: Span) -> Answer<Self> {
        let begin = Instant::now() + Duration::try_from_secs_f64(span.warm)?;
        let end = begin + Duration::try_from_secs_f64(span.seconds)?;
        Ok(Self { begin, end })
    }

    pub(crate) fn place(&self, at: Instant) -> Place {
        if at < self.begin {
            Place::Before
        } else if at < self.end {
            Place::Within
        } else {
            Place::After
        }
    }

    /// Its length in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.end.duration_since(self.begin).as_secs_f64()
    }

    /// Waits for the window on a thread that does nothing else, and says its beginning and end.
    pub(crate) fn watch(&self) {
        wait_until(self.begin);
        begins();
        wait_until(self.end);
        ends();
    }
}

fn wait_until(moment: Instant) {
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// Tells whoever started us that the window begins.
pub(crate) fn begins() {
    println!("{}", json!({ "measuring": true }));
}

/// Tells whoever started us that the window ends.
pub(crate) fn ends() {
    println!("{}", json!({ "measured": true }));
}
