/// A command that serves. Each has the shared settings and its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `isthmus run`, and the worker it starts.
    Run,
    /// `isthmus gateway`.
    Gateway,
}

impl Verb {
    /// As on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Gateway => "gateway",
        }
    }
}
