//! The kinds of resources an agent asks for.

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Workloads and services.
    Address,
    /// Authorisation policies.
    Authorization,
}

/// A resource that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its name.
    pub name: String,
    /// The field, and what is wrong with it.
    pub reason: String,
}

impl Kind {
    /// All, in the order in which they are asked for.
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// Its type URL.
    #[must_use]
    pub const fn url(self) -> &'static str {
        match self {
            Self::Address => isthmus_istio::ADDRESS,
            Self::Authorization => isthmus_istio::AUTHORIZATION,
        }
    }

    /// The kind with this type URL.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}
