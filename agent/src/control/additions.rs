//! Pods as the CNI plugin adds, deletes and checks them.
//!
//! A pod that is added may send at once, so its addition ends only when nothing is missing any more: redirection stands and
//! the certificate is there. If that cannot be had in time, the pod is let go of and the runtime tries again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use isthmus_wire::{NewPod, Response};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    admission::{Admission, Admitted, NotAdmitted},
    turns::Turns,
};
use crate::{
    identity::{Certificates, SpiffeId},
    pods::{
        Pods,
        ask::{Added, Found},
        registry::chain,
    },
};

/// How long it may take to decide on a pod, and then, from when it is redirected, to get its certificate. Both, and the time
/// that many pods spend in the registry's queue, are less than the plugin waits, so that it hears why.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks for a certificate that could not be had. It does not make the CA be asked more often.
const PAUSE: Duration = Duration::from_millis(100);

/// Adds, deletes and checks pods. Clones share it.
#[derive(Clone)]
pub struct Additions {
    pods: Pods,
    certificates: Certificates,
    admission: Arc<dyn Admission>,
    turns: Turns,
}

impl Additions {
    /// Of pods which `admission` lets in.
    pub fn new(pods: Pods, certificates: Certificates, admission: Arc<dyn Admission>) -> Self {
        Self {
            pods,
            certificates,
            admission,
            turns: Turns::default(),
        }
    }

    /// Who enrols and releases.
    pub(super) fn pods(&self) -> &Pods {
        &self.pods
    }

    /// See `isthmus_wire::Request::Add`.
    pub async fn add(&self, pod: NewPod) -> Response {
        let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
        let mut steps = Steps::begin();
        let response = self.bring_in(pod, &mut steps).await;
        let done = matches!(response, Response::Done);
        let (decided_ms, enrolled_ms, took_ms) = (steps.decided_ms, steps.enrolled_ms, steps.ms());
        tracing::info!(
            namespace,
            pod = name,
            decided_ms,
            enrolled_ms,
            took_ms,
            done,
            "the CNI plugin's ADD is answered"
        );
        response
    }

    async fn bring_in(&self, pod: NewPod, steps: &mut Steps) -> Response {
        let until = steps.begin + PATIENCE;
        // A runtime that gave one addition up begins the next while the first still runs; what the first lets go of must
        // not be what the second has brought in.
        let Ok(_turn) = timeout_at(until, self.turns.take(&pod.uid)).await else {
            return late("another addition of this pod did not end", "").into();
        };
        let enrol = match self.admit(pod, until).await {
            Ok(Admitted::Enrol(enrol)) => enrol,
            Ok(Admitted::Leave) => return Response::Done,
            Err(refused) => return refused.into(),
        };
        steps.decided_ms = Some(steps.ms());
        let (uid, netns) = (enrol.uid.clone(), enrol.netns.clone());
        let added = match self.pods.add(enrol).await {
            Ok(added) => added,
            Err(refused) => return refused.into(),
        };
        steps.enrolled_ms = Some(steps.ms());
        match self.certified(&added, Instant::now() + PATIENCE).await {
            Ok(()) => {
                self.admission.added();
                Response::Done
            }
            Err(reason) => self.undo(&added, uid, netns, &reason).await,
        }
    }

    async fn admit(&self, pod: NewPod, until: Instant) -> Result<Admitted, NotAdmitted> {
        match timeout_at(until, self.admission.admit(pod)).await {
            Ok(decided) => decided,
            Err(_) => Err(late(
                "whether the pod is to be enrolled was not decided",
                "; does the agent reach the API server?",
            )),
        }
    }

    /// Waits for the certificate of the pod's identity, where anybody knows that.
    async fn certified(&self, added: &Added, until: Instant) -> Result<(), String> {
        let Some(id) = &added.identity else { return Ok(()) };
        let mut last = None;
        let waiting = async {
            loop {
                match self.certificates.get(id).await {
                    Ok(_) => return,
                    Err(error) => last = Some(chain(&error)),
                }
                sleep(PAUSE).await;
            }
        };
        match timeout_at(until, waiting).await {
            Ok(()) => Ok(()),
            Err(_) => Err(uncertified(id, last)),
        }
    }

    async fn undo(&self, added: &Added, uid: String, netns: PathBuf, reason: &str) -> Response {
        tracing::warn!(uid, reason, "a pod is not added");
        let end = if added.is_new {
            let released = self.pods.delete(uid.clone(), netns).await;
            if released != Response::Done {
                tracing::error!(
                    uid,
                    ?released,
                    "a pod that is not added is not let go of; DEL tries again"
                );
            }
            "the pod was let go of, and is to be added again"
        } else {
            // It runs already: in clear it would do what it must not.
            "it was enrolled before, and stays so"
        };
        Response::Refused {
            reason: format!("{reason}; {end}"),
            retriable: true,
        }
    }

    /// See `isthmus_wire::Request::Check`.
    pub async fn check(&self, pod: NewPod) -> Response {
        let (uid, netns) = (pod.uid.clone(), pod.netns.clone());
        let found = self.pods.find(uid.clone(), netns.clone()).await;
        if found == Found::Enrolled {
            return Response::Done;
        }
        match self.admit(pod, Instant::now() + PATIENCE / 4).await {
            Ok(Admitted::Leave) => Response::Done,
            Ok(Admitted::Enrol(_)) => Response::Refused {
                reason: match found {
                    Found::Otherwise { state, netns: held } => format!(
                        "the agent holds pod {uid} as {state} with network namespace {}, not as enrolled with {}",
                        held.display(),
                        netns.display()
                    ),
                    _ => format!("the agent does not hold pod {uid}; delete the pod to have it made and enrolled anew"),
                },
                retriable: false,
            },
            Err(refused) => refused.into(),
        }
    }
}

/// When an addition was how far.
struct Steps {
    begin: Instant,
    decided_ms: Option<u64>,
    enrolled_ms: Option<u64>,
}

impl Steps {
    fn begin() -> Self {
        Self {
            begin: Instant::now(),
            decided_ms: None,
            enrolled_ms: None,
        }
    }

    fn ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn late(what: &str, hint: &str) -> NotAdmitted {
    NotAdmitted {
        reason: format!("{what} within {} s{hint}", PATIENCE.as_secs()),
        retriable: true,
    }
}

fn uncertified(id: &SpiffeId, last: Option<String>) -> String {
    let why = last.unwrap_or_else(|| "the CA has not answered; `isthmus status` tells of the way to it".to_owned());
    format!(
        "there was no certificate for {id} within {} s: {why}",
        PATIENCE.as_secs()
    )
}

#[cfg(test)]
mod tests;
