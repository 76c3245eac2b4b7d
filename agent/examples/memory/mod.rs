//! What the memory of an example is, in all its counts.

use std::error::Error;
use std::fs;
use std::time::Duration;

use tikv_jemalloc_ctl::{epoch, stats};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the allocator has given out and what the kernel has given it, now and at most.
pub(crate) fn report(when: &str, idle: usize, workloads: u32) -> Outcome<usize> {
    epoch::advance()?;
    let allocated = stats::allocated::read()?;
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map_or("?", str::trim)
    };
    let each = allocated.saturating_sub(idle) / usize::try_from(workloads)?.max(1);
    println!(
        "{when:12} allocated {:6.1} MB ({each} bytes a workload), active {:6.1} MB, resident {:6.1} MB, RSS {}, peak RSS {}",
        mega(allocated),
        mega(stats::active::read()?),
        mega(stats::resident::read()?),
        field("VmRSS:"),
        field("VmHWM:"),
    );
    Ok(allocated)
}

fn mega(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes / 1000).unwrap_or(u32::MAX)) / 1000.0
}

/// Waits until the allocator has given back what it does not need.
#[expect(
    clippy::disallowed_methods,
    reason = "time is what is waited for: pages are given back after ten seconds"
)]
pub(crate) fn settle() -> Outcome<()> {
    tikv_jemalloc_ctl::background_thread::write(true)?;
    std::thread::sleep(Duration::from_secs(12));
    Ok(())
}
