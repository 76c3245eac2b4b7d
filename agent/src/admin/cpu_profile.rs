//! Where the process spends its time: stacks sampled by the kernel's profiling timer, of all threads.

use std::time::Duration;

use http::StatusCode;
use pprof::{ProfilerGuardBuilder, protos::Message as _};
use tokio::sync::Semaphore;

use super::{
    query::Query,
    reply::{self, Reply},
};

/// Least, usual and most seconds a profile takes.
const SECONDS: [u64; 3] = [1, 10, 300];
/// Least, usual and most samples a second of CPU time.
const FREQUENCY: [u64; 3] = [1, 100, 1000];
/// Where a stack must not be walked: a signal may come while these hold a lock that walking needs.
const NOT_IN: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Takes one profile at a time: there is one timer.
pub(super) struct CpuProfiles(Semaphore);

impl CpuProfiles {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(1))
    }

    /// `GET /debug/pprof/profile`: answers a protobuf as `go tool pprof` reads it, after `seconds`.
    pub(super) async fn answer(&self, query: &Query) -> Reply {
        let (seconds, frequency) = match (query.number("seconds", SECONDS), query.number("frequency", FREQUENCY)) {
            (Ok(seconds), Ok(frequency)) => (seconds, frequency),
            (Err(wrong), _) | (_, Err(wrong)) => return reply::bad(wrong),
        };
        let Ok(_only) = self.0.try_acquire() else {
            let text = "a profile is being taken; there can be one at a time\n";
            return reply::text(StatusCode::TOO_MANY_REQUESTS, text);
        };
        match take(
            Duration::from_secs(seconds),
            i32::try_from(frequency).unwrap_or(i32::MAX),
        )
        .await
        {
            Ok(profile) => reply::whole(StatusCode::OK, "application/vnd.google.protobuf", profile),
            Err(error) => {
                tracing::warn!(error, "no CPU profile");
                reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("no profile: {error}\n"))
            }
        }
    }
}

async fn take(span: Duration, frequency: i32) -> Result<Vec<u8>, String> {
    let start = move || {
        ProfilerGuardBuilder::default()
            .frequency(frequency)
            .blocklist(&NOT_IN)
            .build()
    };
    // Both ends look up libraries and symbols, which takes time; dropped in between, the timer stops.
    let sampling = blocking(start).await?;
    tokio::time::sleep(span).await;
    blocking(move || {
        let profile = sampling.report().build()?.pprof()?;
        Ok::<_, pprof::Error>(profile.encode_to_vec())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, pprof::Error> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn seconds_and_frequency_have_bounds() {
        let profiles = CpuProfiles::new();
        for wrong in [
            "seconds=0",
            "seconds=301",
            "seconds=x",
            "frequency=0",
            "frequency=1001",
            "seconds=-1",
        ] {
            let reply = profiles.answer(&Query::parse(wrong).unwrap()).await;
            assert_eq!(reply.status(), StatusCode::BAD_REQUEST, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_second_profile_at_the_same_time_is_refused_and_a_later_one_is_taken() {
        let profiles = CpuProfiles::new();
        let query = Query::parse("seconds=1&frequency=1000").unwrap();
        let (first, second) = tokio::join!(profiles.answer(&query), profiles.answer(&query));
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(profiles.answer(&query).await.status(), StatusCode::OK);
    }
}
