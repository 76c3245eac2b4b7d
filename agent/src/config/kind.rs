use std::time::Duration;

/// What a setting's value looks like, and its bounds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path.
    Path,
    /// A length of time, within bounds.
    Moment {
        /// Shortest.
        least: Duration,
        /// Longest.
        most: Duration,
    },
    /// A number of bytes, within bounds.
    Bytes {
        /// Fewest.
        least: u64,
        /// Most.
        most: u64,
    },
    /// A number, within bounds.
    Count {
        /// Fewest.
        least: u64,
        /// Most.
        most: u64,
    },
    /// True or false.
    Switch,
    /// A TCP port, or `off`.
    Port,
    /// One of a few words, in any case.
    OneOf(&'static [&'static str]),
    /// An address and port to listen on.
    Address,
    /// A URL, or HOST:PORT; empty is none.
    Endpoint,
    /// Certificates: a file, `SYSTEM`, or PEM.
    Roots,
    /// A file, or a text that is never shown.
    Secret,
    /// Cores, as Kubernetes writes them.
    Cpus,
    /// A number, a percentage, or `auto`.
    Threads,
    /// Which log lines are written.
    Filter,
}

impl Kind {
    /// The unit or form of a value, for tables and help.
    #[must_use]
    pub fn unit(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Moment { .. } => "time".to_owned(),
            Self::Bytes { .. } => "bytes".to_owned(),
            Self::Count { .. } => "number".to_owned(),
            Self::Switch => "true, false".to_owned(),
            Self::Port => "port".to_owned(),
            Self::OneOf(words) => words
                .iter()
                .filter(|word| !word.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
            Self::Address => "ip:port".to_owned(),
            Self::Endpoint => "url".to_owned(),
            Self::Roots => "path, SYSTEM, PEM".to_owned(),
            Self::Secret => "path, token".to_owned(),
            Self::Cpus => "cores".to_owned(),
            Self::Threads => "number, n%, auto".to_owned(),
            Self::Filter => "filter".to_owned(),
        }
    }

    /// Whether the flag alone, without a value, means `true`.
    #[must_use]
    pub fn is_switch(self) -> bool {
        matches!(self, Self::Switch)
    }
}
