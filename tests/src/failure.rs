//! Why a step of the lab could not be done, with the line that asked for it.

use std::{error::Error, fmt, panic::Location};

/// What lab functions answer.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// A step that failed: what it was, where it was asked for, and its causes.
pub struct Failure {
    what: String,
    place: &'static Location<'static>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure without a cause below it.
    #[track_caller]
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            place: Location::caller(),
            cause: None,
        }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    #[track_caller]
    fn from(cause: E) -> Self {
        Self {
            what: String::new(),
            place: Location::caller(),
            cause: Some(Box::new(cause)),
        }
    }
}

/// Lets a failure be the cause of another.
impl From<Failure> for Box<dyn Error + Send + Sync> {
    fn from(failure: Failure) -> Self {
        failure.to_string().into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut between = if self.what.is_empty() { "" } else { ": " };
        let mut cause = self.cause.as_ref().map(|cause| cause.as_ref() as &dyn Error);
        while let Some(error) = cause {
            write!(f, "{between}{error}")?;
            between = ": ";
            cause = error.source();
        }
        Ok(())
    }
}

/// What a test prints that ends with a failure.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}\n  at {}", self.place)
    }
}

/// Says what was tried when something fails.
pub trait Because<T> {
    /// Puts `what` before the cause.
    #[track_caller]
    fn because(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Because<T> for std::result::Result<T, E> {
    #[track_caller]
    fn because(self, what: impl fmt::Display) -> Result<T> {
        let place = Location::caller();
        self.map_err(|cause| Failure {
            what: what.to_string(),
            place,
            cause: Some(cause.into()),
        })
    }
}

impl<T> Because<T> for Option<T> {
    #[track_caller]
    fn because(self, what: impl fmt::Display) -> Result<T> {
        let place = Location::caller();
        self.ok_or_else(|| Failure {
            what: what.to_string(),
            place,
            cause: None,
        })
    }
}
