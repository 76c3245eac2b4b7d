//! Taking the startup taint off, until it is off: the API server may be away, and others write taints too.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    api::{ApiServer, CallError},
    back_off::BackOff,
    counters::{Counters, Done},
};

/// The first wait after a failure, doubled with each further one, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Takes the taint of this key off our own node. Ends when it is not there any more.
pub(super) async fn take_off(api: &ApiServer, counters: &Counters, key: &str) {
    let mut back_off = BackOff::new(WAITS.0, WAITS.1);
    loop {
        match once(api, key).await {
            Ok(None) => return tracing::debug!(key, "the node does not have the startup taint"),
            Ok(Some(uid)) => {
                counters.acted(Done::Untaint, true);
                tracing::info!(key, "the startup taint is taken off the node");
                return tell(api, &uid, key).await;
            }
            // Somebody else wrote in between: it is read again, and what he wrote stays.
            Err(CallError::Another) => tracing::debug!(key, "the node changed while its taint was taken off"),
            Err(error) => {
                counters.acted(Done::Untaint, false);
                let why = crate::pods::registry::chain(&error);
                tracing::warn!(
                    key,
                    why,
                    "the startup taint is not taken off yet; no pod is scheduled here for it"
                );
            }
        }
        sleep(back_off.after_failure(rand::random())).await;
    }
}

/// Answers the UID of the node that it was taken off from.
async fn once(api: &ApiServer, key: &str) -> Result<Option<String>, CallError> {
    let node = api.own_node().await?;
    let Some(patch) = node.without(key) else {
        return Ok(None);
    };
    api.patch_own_node(&patch).await?;
    Ok(Some(node.metadata.uid.unwrap_or_default()))
}

async fn tell(api: &ApiServer, uid: &str, key: &str) {
    let note = format!("the agent is ready; startup taint {key} was taken off");
    if let Err(error) = api.note_of_node(uid, "StartupTaintRemoved", &note).await {
        let error = crate::pods::registry::chain(&error);
        tracing::warn!(error, "an event about the node was not written");
    }
}
