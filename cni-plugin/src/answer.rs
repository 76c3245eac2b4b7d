//! What the agent's answers mean for the runtime; no input or output here.

use isthmus_wire::{AskError, Namespaces, NamespacesError, NewPod, Response};

use crate::{away::Away, failure::Failure};

type Answer = Result<Response, AskError>;

/// Of an ADD: anything but `Done` keeps the pod from starting, unless no agent answers and the pod passes without one.
/// `file` is read only then.
pub(crate) fn added(
    answer: Answer,
    away: &Away,
    pod: &NewPod,
    file: impl FnOnce() -> Result<Namespaces, NamespacesError>,
) -> Result<(), Failure> {
    match answer {
        Ok(response) => done(response, "enrol"),
        Err(cause @ AskError::Answer(_)) => Err(Failure::NotUnderstood(cause)),
        Err(cause) => away
            .decide(pod, file)
            .map_err(|reason| Failure::NoAgent { cause, reason }),
    }
}

/// Of a DEL. An agent that went away holds nothing that a deleted pod needs.
pub(crate) fn deleted(answer: Answer) -> Result<(), Failure> {
    answer.map_or(Ok(()), |response| done(response, "release"))
}

/// Of a CHECK: a pod that is to be enrolled must be.
pub(crate) fn checked(
    answer: Answer,
    away: &Away,
    pod: &NewPod,
    file: impl FnOnce() -> Result<Namespaces, NamespacesError>,
) -> Result<(), Failure> {
    match answer {
        Ok(response) => done(response, "find"),
        Err(cause) => away.decide(pod, file).map_err(|_| Failure::Unread(cause)),
    }
}

/// Of a look whether pods can be enrolled.
pub(crate) fn is_up(answer: Answer) -> Result<(), Failure> {
    match answer.map_err(Failure::Unavailable)? {
        Response::Done => Ok(()),
        Response::Refused { reason, .. } => Err(Failure::NotReady { reason }),
        Response::Status(_) => Err(Failure::OffTopic),
    }
}

fn done(response: Response, doing: &'static str) -> Result<(), Failure> {
    match response {
        Response::Done => Ok(()),
        Response::Refused { reason, retriable } => Err(Failure::Refused {
            doing,
            reason,
            retriable,
        }),
        Response::Status(_) => Err(Failure::OffTopic),
    }
}
