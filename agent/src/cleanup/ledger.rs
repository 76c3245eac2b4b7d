//! What was removed and what could not be, line by line.

use std::{
    fmt::Display,
    fs,
    io::{self, Write},
    path::Path,
};

/// Prints as it goes and counts.
pub(super) struct Ledger<W> {
    out: W,
    whose: &'static str,
    removed: usize,
    failed: usize,
    trouble: Option<io::Error>,
}

impl<W: Write> Ledger<W> {
    /// Nothing yet. `whose` traces are looked for.
    pub(super) fn new(out: W, whose: &'static str) -> Self {
        Self {
            out,
            whose,
            removed: 0,
            failed: 0,
            trouble: None,
        }
    }

    /// This is gone now.
    pub(super) fn removed(&mut self, what: impl Display) {
        self.removed += 1;
        self.line(format_args!("removed {what}"));
    }

    /// This is still there.
    pub(super) fn failed(&mut self, what: impl Display, why: impl Display) {
        self.failed += 1;
        self.line(format_args!("could not remove {what}: {why}"));
    }

    /// Worth knowing.
    pub(super) fn noted(&mut self, what: impl Display) {
        self.line(format_args!("{what}"));
    }

    /// Removes a file, or an empty directory. Nothing there is not told.
    pub(super) fn remove(&mut self, what: &str, path: &Path, removing: impl FnOnce(&Path) -> io::Result<()>) {
        if fs::symlink_metadata(path).is_err() {
            return;
        }
        let named = format!("{what} {}", path.display());
        match removing(path) {
            Ok(()) => self.removed(named),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.failed(named, error),
        }
    }

    /// Says the sum. Answers whether nothing is left.
    pub(super) fn close(mut self) -> io::Result<bool> {
        match (self.removed, self.failed) {
            (0, 0) => {
                let whose = self.whose;
                self.line(format_args!("nothing to do: no trace of {whose} was found"));
            }
            (removed, 0) => self.line(format_args!("{removed} things removed, nothing is left")),
            (removed, failed) => self.line(format_args!(
                "{removed} things removed, {failed} could not be; run it again once what it names is mended"
            )),
        }
        match self.trouble {
            Some(error) => Err(error),
            None => Ok(self.failed == 0),
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Whoever reads may have gone; the work goes on, and the error is told at the end.
        if let Err(error) = writeln!(self.out, "{text}") {
            self.trouble.get_or_insert(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(work: impl FnOnce(&mut Ledger<&mut Vec<u8>>)) -> (String, bool) {
        let mut out = Vec::new();
        let mut ledger = Ledger::new(&mut out, "Isthmus");
        work(&mut ledger);
        let clean = ledger.close().unwrap();
        (String::from_utf8(out).unwrap(), clean)
    }

    #[test]
    fn each_thing_is_a_line_and_the_sum_is_the_last() {
        let (said, clean) = text(|ledger| {
            ledger.removed("map /b/map_PODS");
            ledger.failed("rules of pod a", "EPERM");
        });
        assert_eq!(
            said,
            "removed map /b/map_PODS\n\
             could not remove rules of pod a: EPERM\n\
             1 things removed, 1 could not be; run it again once what it names is mended\n"
        );
        assert!(!clean);
    }

    #[test]
    fn nothing_to_do_is_said_and_is_clean() {
        let (said, clean) =
            text(|ledger| ledger.remove("record", Path::new("/proc/isthmus-none"), |_| panic!("not there")));
        assert_eq!(said, "nothing to do: no trace of Isthmus was found\n");
        assert!(clean);
    }

    #[test]
    fn what_cannot_be_removed_is_told_with_its_reason() {
        let (said, clean) = text(|ledger| {
            ledger.remove("directory", Path::new("/proc"), |_| {
                Err(io::Error::from_raw_os_error(libc::EBUSY))
            });
        });
        assert!(said.starts_with("could not remove directory /proc: "), "{said}");
        assert!(!clean);
    }
}
