//! What holds memory, as jemalloc samples it. It samples only in a process that was started for it.

use http::{Method, StatusCode};
use jemalloc_pprof::PROF_CTL;

use super::{
    query::Query,
    reply::{self, Reply},
};

/// How sampling is made possible.
const HOW: &str = "this process was started without heap profiling; start it with \
                   _RJEM_MALLOC_CONF=prof:true,prof_active:false in its environment, then \
                   POST /debug/pprof/heap/profiling?active=true\n";
/// How sampling is begun.
const INACTIVE: &str =
    "nothing is sampled; POST /debug/pprof/heap/profiling?active=true, let time pass, and ask again\n";

/// `GET /debug/pprof/heap`: a gzipped protobuf as `go tool pprof` reads it, of what was allocated while sampling was active
/// and is still held.
pub(super) async fn dump() -> Reply {
    let Some(control) = PROF_CTL.as_ref() else {
        return reply::text(StatusCode::SERVICE_UNAVAILABLE, HOW);
    };
    let mut control = control.clone().lock_owned().await;
    if !control.activated() {
        return reply::text(StatusCode::CONFLICT, INACTIVE);
    }
    // It goes through a file and resolves symbols.
    let dumped = tokio::task::spawn_blocking(move || control.dump_pprof().map_err(|error| format!("{error:#}"))).await;
    match dumped.map_err(|error| error.to_string()).flatten() {
        Ok(profile) => reply::whole(StatusCode::OK, "application/octet-stream", profile),
        Err(error) => {
            let text =
                format!("no heap profile: {error}; it is written to a file in TMPDIR, can that be written to?\n");
            tracing::warn!(error, "no heap profile");
            reply::text(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

/// `/debug/pprof/heap/profiling`: GET tells whether allocations are sampled, POST with `active` switches it. Switched off,
/// all samples are forgotten.
pub(super) async fn profiling(method: &Method, query: &Query) -> Reply {
    let Some(control) = PROF_CTL.as_ref() else {
        return reply::text(StatusCode::SERVICE_UNAVAILABLE, HOW);
    };
    let mut control = control.lock().await;
    if *method == Method::POST {
        let switched = match query.get("active") {
            Some("true") => control.activate(),
            Some("false") => control.deactivate(),
            _ => return reply::bad("active=true or active=false is wanted\n"),
        };
        if let Err(error) = switched {
            return reply::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("jemalloc refused: {error}\n"),
            );
        }
        tracing::warn!(
            active = control.activated(),
            "heap profiling was switched over the admin port"
        );
    }
    let word = if control.activated() { "active" } else { "inactive" };
    reply::text(StatusCode::OK, format!("{word}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn a_process_that_was_not_started_for_it_says_how_to() {
        let post = profiling(&Method::POST, &Query::parse("active=true").unwrap()).await;
        for reply in [dump().await, post] {
            assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
            let text = reply.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&text).contains("_RJEM_MALLOC_CONF=prof:true"));
        }
    }
}
