//! Answering who asked for a pod to be brought in or let go.

use isthmus_wire::Response;
use tokio::sync::oneshot;

use super::{RegistryError, chain, reply};
use crate::pods::ask::{Added, NotAdded};

/// Who asked for a pod to be brought in.
pub(super) struct Asker {
    uid: String,
    answer: Answer,
}

enum Answer {
    Response(oneshot::Sender<Response>),
    Added(oneshot::Sender<Result<Added, NotAdded>>),
}

impl Asker {
    /// Somebody who wants it done.
    pub(super) fn order(uid: &str, answer: oneshot::Sender<Response>) -> Self {
        Self {
            uid: uid.to_owned(),
            answer: Answer::Response(answer),
        }
    }

    /// Somebody who adds a pod, and waits for what is missing yet.
    pub(super) fn addition(uid: &str, answer: oneshot::Sender<Result<Added, NotAdded>>) -> Self {
        Self {
            uid: uid.to_owned(),
            answer: Answer::Added(answer),
        }
    }

    /// Tells that the pod is brought in, or why not.
    pub(super) fn hear(self, outcome: Result<Added, RegistryError>) {
        let outcome = outcome.map_err(|error| refused(&self.uid, &error));
        match self.answer {
            Answer::Response(answer) => reply(answer, outcome.map_or_else(Into::into, |_| Response::Done)),
            Answer::Added(answer) => reply(answer, outcome),
        }
    }
}

/// What is said of a pod that was to be let go.
pub(super) fn respond(uid: &str, outcome: Result<(), RegistryError>) -> Response {
    match outcome {
        Ok(()) => Response::Done,
        Err(error) => refused(uid, &error).into(),
    }
}

fn refused(uid: &str, error: &RegistryError) -> NotAdded {
    let reason = chain(error);
    tracing::warn!(uid, reason, "refused");
    let retriable = !matches!(
        error,
        RegistryError::HostNetwork(_) | RegistryError::Sandboxed(_) | RegistryError::Capture(_)
    );
    NotAdded { reason, retriable }
}
