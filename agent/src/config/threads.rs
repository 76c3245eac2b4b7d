use std::num::NonZeroUsize;

/// How many threads serve pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// A quarter of the cores, at least one: the node belongs to its pods.
    Auto,
    /// As many as cores.
    All,
    /// So many.
    Count(u16),
    /// A share of the cores in percent, rounded up.
    Percent(u8),
}

/// Cores that the process may count with, in thousandths; `None` where nothing was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuShare {
    /// No more than these.
    pub limit: Option<u32>,
    /// These are promised.
    pub request: Option<u32>,
}

impl Threads {
    /// The number, on a machine of `cores` cores.
    #[must_use]
    pub fn on(self, cores: usize, share: CpuShare) -> NonZeroUsize {
        let whole = |thousandths: u32| usize::try_from(thousandths.div_ceil(1000)).unwrap_or(usize::MAX);
        // A limit of 0 is none: the downward API says so where a container has no limit.
        let cores = share.limit.filter(|limit| *limit > 0).map_or(cores, whole);
        let percent = |share: usize| cores.saturating_mul(share).div_ceil(100);
        let count = match self {
            Self::Auto => percent(25).max(share.request.map_or(0, whole)),
            Self::All => cores,
            Self::Count(count) => usize::from(count),
            Self::Percent(share) => percent(usize::from(share)),
        };
        NonZeroUsize::new(count.min(1024)).unwrap_or(NonZeroUsize::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_cores_unless_more_was_promised_or_asked_for() {
        let none = CpuShare::default();
        let on = |threads: Threads, cores, share| threads.on(cores, share).get();
        assert_eq!(on(Threads::Auto, 1, none), 1);
        assert_eq!(on(Threads::Auto, 5, none), 2);
        assert_eq!(on(Threads::Auto, 64, none), 16);
        assert_eq!(on(Threads::All, 6, none), 6);
        assert_eq!(on(Threads::Count(3), 64, none), 3);
        assert_eq!(on(Threads::Percent(50), 3, none), 2);
        let limited = CpuShare {
            limit: Some(4_000),
            request: None,
        };
        assert_eq!(on(Threads::Auto, 64, limited), 1);
        assert_eq!(on(Threads::All, 64, limited), 4);
        let promised = CpuShare {
            limit: Some(0),
            request: Some(2_500),
        };
        assert_eq!(on(Threads::Auto, 4, promised), 3);
        assert_eq!(on(Threads::Auto, 64, promised), 16);
    }
}
