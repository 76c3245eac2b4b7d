//! Runs checks one after the other and reports them as libtest does.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use isthmus_tests::Result;

/// Counts what passed.
pub(crate) struct Runner {
    /// Parts of names: with some, only checks whose name has one of them run.
    wanted: Vec<String>,
    begin: Instant,
    passed: usize,
    failed: usize,
    left_out: usize,
}

impl Runner {
    /// Told by the command line what to run. Options of libtest mean nothing here.
    pub(crate) fn new() -> Self {
        Self {
            wanted: env::args().skip(1).filter(|word| !word.starts_with('-')).collect(),
            begin: Instant::now(),
            passed: 0,
            failed: 0,
            left_out: 0,
        }
    }

    /// Something that others stand on, and that is never left out.
    pub(crate) fn stage<T>(&mut self, name: &str, stage: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("test {name} ...");
        let begin = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(stage));
        let took = begin.elapsed().as_secs_f64();
        match ended {
            Ok(Ok(value)) => {
                self.passed += 1;
                println!("test {name} ... ok ({took:.1} s)");
                return Some(value);
            }
            Ok(Err(failure)) => println!("{failure}"),
            // What it said stands above.
            Err(_panic) => {}
        }
        self.failed += 1;
        println!("after {took:.1} s:\ntest {name} ... FAILED");
        None
    }

    /// A check, unless others are wanted.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result) {
        if self.wants(name) {
            let _reported = self.stage(name, check);
        } else {
            self.left_out += 1;
        }
    }

    /// A check that cannot be made here.
    pub(crate) fn leave_out(&mut self, name: &str, why: &str) {
        self.left_out += 1;
        println!("test {name} ... ignored, {why}");
    }

    fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|part| name.contains(part.as_str()))
    }

    /// The closing line.
    pub(crate) fn close(mut self, done: Result) -> ExitCode {
        if let Err(failure) = done {
            self.failed += 1;
            println!("{failure}\ntest cluster ... FAILED");
        }
        println!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
            if self.failed == 0 { "ok" } else { "FAILED" },
            self.passed,
            self.failed,
            self.left_out,
            self.begin.elapsed().as_secs_f64()
        );
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
