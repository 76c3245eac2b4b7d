use std::fs;

use nix::{
    sys::{
        resource::{Resource, UsageWho, getrlimit, getrusage},
        time::TimeValLike as _,
    },
    unistd::{SysconfVar, sysconf},
};

use super::{exposition::Families, metric};

/// Adds what the kernel and the allocator know of this process. What cannot be read is left out.
pub(super) fn describe(families: &mut Families) {
    // Since Linux 6.2 the size of this directory is the number of descriptors.
    if let Ok(descriptors) = fs::metadata("/proc/self/fd") {
        families.value(&metric::PROCESS_FDS, descriptors.len());
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        families.value(&metric::PROCESS_MAX_FDS, soft);
    }
    if let Some(bytes) = resident_bytes() {
        families.value(&metric::PROCESS_MEMORY, bytes);
    }
    if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
        let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        families.seconds(&metric::PROCESS_CPU, microseconds as f64 / 1e6);
    }
    if let Some(threads) = threads() {
        families.value(&metric::PROCESS_THREADS, threads);
    }
    // The allocator's numbers are as old as its epoch.
    if tikv_jemalloc_ctl::epoch::advance().is_ok()
        && let Ok(bytes) = tikv_jemalloc_ctl::stats::allocated::read()
    {
        families.value(&metric::MEMORY_ALLOCATED, bytes as u64);
    }
}

/// The second number of proc_pid_statm(5), in pages.
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(u64::try_from(page).ok()?)
}

/// The links of /proc/self/task, without `.` and `..`.
fn threads() -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self/task").ok()?.nlink().checked_sub(2)
}
