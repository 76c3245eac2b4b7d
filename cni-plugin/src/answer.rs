//! What the agent's answers mean for the runtime; no input or output here.

use std::path::{Path, PathBuf};

use isthmus_wire::{AskError, PodStatus, Response, Status};

use crate::failure::Failure;

type Answer = Result<Response, AskError>;

/// Of an enrolment: anything but `Done` keeps the pod from starting.
pub(crate) fn enrolled(answer: Answer) -> Result<(), Failure> {
    done(answer.map_err(Failure::NoAgent)?, "enrol")
}

/// Of a release. An agent that went away holds nothing that a deleted pod needs.
pub(crate) fn released(answer: Answer) -> Result<(), Failure> {
    answer.map_or(Ok(()), |response| done(response, "release"))
}

/// Whether the agent holds the pod with this network namespace. An agent that is away cannot be asked to release.
pub(crate) fn is_held(answer: Answer, uid: &str, netns: &Path) -> bool {
    matches!(answer, Ok(Response::Status(status)) if pod(&status, uid).is_some_and(|pod| is_same(&pod.netns, netns)))
}

/// Of a check: the pod must be enrolled with this network namespace.
pub(crate) fn verified(answer: Answer, uid: &str, netns: &Path) -> Result<(), Failure> {
    let Response::Status(status) = answer.map_err(Failure::Unread)? else {
        return Err(Failure::OffTopic);
    };
    let held = pod(&status, uid).ok_or_else(|| Failure::NotEnrolled { uid: uid.to_owned() })?;
    if held.state == "enrolled" && is_same(&held.netns, netns) {
        return Ok(());
    }
    Err(Failure::HeldOtherwise {
        uid: uid.to_owned(),
        state: held.state.clone(),
        held: held.netns.display().to_string(),
        netns: netns.display().to_string(),
    })
}

/// Of a look whether pods can be enrolled.
pub(crate) fn is_up(answer: Answer) -> Result<(), Failure> {
    match answer.map_err(Failure::Unavailable)? {
        Response::Status(_) => Ok(()),
        Response::Done | Response::Refused { .. } => Err(Failure::OffTopic),
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

fn pod<'a>(status: &'a Status, uid: &str) -> Option<&'a PodStatus> {
    status.pods.get(uid)
}

/// Runtimes say `/var/run` and `/run` for one folder.
fn is_same(one: &Path, other: &Path) -> bool {
    let short = |path: &Path| {
        path.strip_prefix("/var/run")
            .map_or(path.to_owned(), |rest| PathBuf::from("/run").join(rest))
    };
    short(one) == short(other)
}
