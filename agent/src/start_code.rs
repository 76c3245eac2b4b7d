//! Letting go of code that only the start needed.
//!
//! Most of the binary is run once: reading the configuration, loading programs, parsing the mesh. Its pages stay mapped and
//! count as this process's memory, and being mapped they are also among the last that the kernel takes back. Unmapped they
//! are page cache like any other, and what is still needed returns at the first use.

use std::{fs, time::Duration};

use nix::sys::mman::{MmapAdvise, madvise};

/// The start has its last echoes until then: the first answers, the first look at every pod.
const AFTER_START: Duration = Duration::from_secs(3);

/// Lets go a little after the start; needs a tokio runtime.
pub fn let_go_soon() {
    tokio::spawn(async {
        tokio::time::sleep(AFTER_START).await;
        let_go();
    });
}

/// Unmaps the pages of this program's own code; those in use come back one by one, from the page cache.
pub fn let_go() {
    let read = fs::read_link("/proc/self/exe").and_then(|own| Ok((own, fs::read_to_string("/proc/self/maps")?)));
    let (own, maps) = match read {
        Ok(read) => read,
        Err(error) => return tracing::debug!(%error, "the code of the start stays mapped"),
    };
    let own = own.to_string_lossy();
    for (start, length) in maps.lines().filter_map(|line| code(line, &own)) {
        drop_pages(start, length);
    }
}

/// Where a line of proc_pid_maps(5) is about the code of `own`: start and length in bytes.
fn code(line: &str, own: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    // Never written to: nothing of it is kept anywhere but in the file.
    if permissions != "r-xp" || fields.nth(3)? != own {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[expect(unsafe_code, reason = "madvise(2) on a mapping that no Rust value owns")]
fn drop_pages(start: usize, length: usize) {
    let Some(start) = std::ptr::NonNull::new(std::ptr::with_exposed_provenance_mut(start)) else {
        return;
    };
    // SAFETY: a private mapping of the running program's file that is read and run but not written: after MADV_DONTNEED the
    // next access reads the same bytes from the file, which is held by the mapping itself.
    if let Err(error) = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) } {
        tracing::debug!(%error, "the code of the start stays mapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_meant() {
        let line = |permissions: &str, path: &str| {
            format!("55d0c0a00000-55d0c0a02000 {permissions} 00400000 fe:00 1234      {path}")
        };
        assert_eq!(
            code(&line("r-xp", "/bin/isthmus"), "/bin/isthmus"),
            Some((0x55d0_c0a0_0000, 0x2000))
        );
        // What is read only may hold addresses that the loader has written.
        for other in ["r--p", "rw-p", "rwxp"] {
            assert_eq!(code(&line(other, "/bin/isthmus"), "/bin/isthmus"), None);
        }
        assert_eq!(code(&line("r-xp", "/lib/libc.so.6"), "/bin/isthmus"), None);
        assert_eq!(code("nonsense", "/bin/isthmus"), None);
    }

    #[test]
    fn a_program_lives_on_without_its_code_in_memory() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status
                .lines()
                .find(|line| line.starts_with("RssFile:"))
                .unwrap()
                .to_owned();
            line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        // Other tests run beside this one and bring pages back.
        let least = (0..20).map(|_| {
            let before = resident();
            let_go();
            (resident() < before, before)
        });
        assert!(least.into_iter().any(|(fell, _)| fell));
        assert_eq!(format!("{:?}", vec![1, 2, 3]), "[1, 2, 3]");
    }
}
