//! What the agent must have reached before it is ready, besides what its start does in order: each followed to where it is
//! reached (docs/operations.md, Readiness).

use std::time::Duration;

use isthmus_wire::CniStatus;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    admin::{Part, Readiness},
    config::{Config, NodeConfig},
    identity::{
        CertificateSource, Certificates, IssueError, SpiffeId,
        istiod_ca::{Asks, IstiodCa},
    },
    kubernetes::{Kubernetes, Standing},
    pods::registry::chain,
};

/// How long runtimes may pass the CNI plugin by until readiness says so: who rewrites a directory does it in steps, and what
/// is undone is put back within seconds.
const PASSED_BY: Duration = Duration::from_secs(60);
/// The first wait after the CA gave nothing, doubled with each further one, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Longest answer of the CA.
const ANSWER: Duration = Duration::from_secs(20);

/// The parts that an agent of this configuration has.
pub(super) fn parts(config: &NodeConfig) -> Vec<Part> {
    let always = [Part::Proxy, Part::Mesh, Part::Pods, Part::Control];
    let some = [
        (Part::Certificates, own_identity(&config.common).is_some()),
        (Part::Lists, config.kubernetes.is_some()),
        (Part::Enrolment, config.kubernetes.is_some()),
        (Part::Plugin, config.cni.install.is_some()),
    ];
    let some = some.into_iter().filter_map(|(part, has)| has.then_some(part));
    always.into_iter().chain(some).collect()
}

/// Whose certificate istiod's CA gives for the agent's own token; none where another CA signs, or that is not told.
fn own_identity(config: &Config) -> Option<SpiffeId> {
    let pod = &config.istiod.pod;
    let (namespace, account) = (pod.namespace.as_deref()?, pod.service_account.as_deref()?);
    let identity = SpiffeId::new(&config.trust_domain, namespace, account).ok()?;
    config.embedded_ca.is_none().then_some(identity)
}

/// What is done once everything is reached for the first time: the startup taint is taken off. It is not put back.
pub(super) async fn reached(readiness: Readiness, taint: Option<(Kubernetes, String)>) {
    readiness.reached().await;
    tracing::info!("all that readiness waits for is reached");
    if let Some((kubernetes, key)) = taint {
        kubernetes.take_taint_off(&key).await;
    }
}

/// Until all was told, and the pods that were there are in the mesh.
pub(super) async fn enrolment(readiness: Readiness, mut standing: watch::Receiver<Standing>) {
    if standing
        .wait_for(|standing| *standing != Standing::Unlisted)
        .await
        .is_err()
    {
        return;
    }
    readiness.done(Part::Lists);
    if standing
        .wait_for(|standing| *standing == Standing::Settled)
        .await
        .is_ok()
    {
        readiness.done(Part::Enrolment);
    }
}

/// Until runtimes call the plugin; and again, when they have not for long: pods then start past it, and the agent brings them
/// in only once they run.
pub(super) async fn plugin(readiness: Readiness, mut status: watch::Receiver<CniStatus>) {
    while status.wait_for(|status| status.called).await.is_ok() {
        readiness.done(Part::Plugin);
        loop {
            if status.wait_for(|status| !status.called).await.is_err() {
                return;
            }
            match timeout(PASSED_BY, status.wait_for(|status| status.called)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return,
                Err(_) => break,
            }
        }
        tracing::warn!("container runtimes have passed the CNI plugin by for long; the agent is not ready");
        readiness.pend(Part::Plugin);
    }
}

/// Until istiod's CA has given a certificate: to a pod, or for the agent's own account. The latter is not used; it proves the
/// way, the token and the CA on a node that has no pods yet.
pub(super) async fn certificates(readiness: Readiness, config: Config, held: Certificates) {
    let Some(own) = own_identity(&config) else { return };
    match super::contact_ca(&config) {
        Ok(contact) => {
            let ca = IstiodCa::new(contact, Asks::ForItself, config.secret_ttl);
            until_given(&ca, &own, || has_any(&held)).await;
            readiness.done(Part::Certificates);
        }
        // The same was found before, and there it ended the start.
        Err(error) => tracing::error!(%error, "istiod's CA cannot be asked"),
    }
}

fn has_any(held: &Certificates) -> bool {
    held.list().iter().any(|(_, held)| held.certificate.is_some())
}

async fn until_given(ca: &impl CertificateSource, own: &SpiffeId, has_any: impl Fn() -> bool) {
    let mut wait = WAITS.0;
    while !has_any() {
        match timeout(ANSWER, ca.issue(own.clone())).await {
            Ok(given) if is_given(&given) => return,
            Ok(Err(error)) => tracing::warn!(error = chain(&error), ?wait, "istiod's CA gives the agent nothing yet"),
            _ => tracing::warn!(?wait, "istiod's CA does not answer"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

/// What is wrong with a certificate of its own is no matter of the way to the CA: pods' are judged each by itself.
fn is_given<T>(answer: &Result<T, IssueError>) -> bool {
    !matches!(answer, Err(IssueError::Authority(_) | IssueError::TimedOut(_)))
}

#[cfg(test)]
mod tests;
