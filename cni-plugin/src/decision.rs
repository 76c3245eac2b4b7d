//! From a call to what is to be done; no input or output here.

use std::path::PathBuf;

use isthmus_wire::Enrol;
use serde_json::json;

use crate::{
    call::{Call, VERSIONS},
    environment::Environment,
    failure::Failure,
};

/// What a call asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Answer with this text; the agent has no part in it.
    Say(String),
    /// Enrol the pod, then answer with the previous plugin's result.
    Enrol { enrol: Enrol, result: String },
    /// Release the pod if the agent holds it with this network namespace.
    Release { uid: String, netns: PathBuf },
    /// Look whether the agent holds the pod with this network namespace.
    Verify { uid: String, netns: PathBuf },
    /// Look whether the agent answers.
    Probe,
}

/// Decides what a call asks for, or why it is wrong.
pub(crate) fn decide(environment: &Environment, call: &Call) -> Result<Action, Failure> {
    match environment.command.as_str() {
        "VERSION" => Ok(Action::Say(
            json!({ "cniVersion": call.version, "supportedVersions": VERSIONS }).to_string(),
        )),
        "ADD" => {
            let result = call.previous()?;
            let netns = environment.netns("ADD")?;
            let pod = environment.pod("ADD")?;
            let enrol = Enrol {
                uid: pod.uid,
                namespace: pod.namespace,
                name: pod.name,
                service_account: None,
                netns,
                mtls_required: None,
                reroute_interfaces: Vec::new(),
            };
            Ok(Action::Enrol { enrol, result })
        }
        "DEL" => {
            let pod = match environment.pod("DEL") {
                Ok(pod) => pod,
                // ADD refused this pod for the same reason; an error now would keep its sandbox for ever.
                Err(Failure::NotKubernetes { .. } | Failure::Malformed { .. }) => {
                    return Ok(Action::Say(String::new()));
                }
                Err(failure) => return Err(failure),
            };
            // Without a path the namespace is gone, and the agent lets go of such pods by itself.
            if environment.netns.is_empty() {
                return Ok(Action::Say(String::new()));
            }
            Ok(Action::Release {
                uid: pod.uid,
                netns: environment.netns("DEL")?,
            })
        }
        "CHECK" => {
            since(call, "CHECK", "0.4.0")?;
            call.previous()?;
            Ok(Action::Verify {
                uid: environment.pod("CHECK")?.uid,
                netns: environment.netns("CHECK")?,
            })
        }
        "STATUS" => since(call, "STATUS", "1.1.0").map(|()| Action::Probe),
        // This plugin keeps nothing; what the agent keeps, it clears by itself.
        "GC" => since(call, "GC", "1.1.0").map(|()| Action::Say(String::new())),
        found => Err(Failure::Command {
            found: found.chars().take(80).collect(),
        }),
    }
}

fn since(call: &Call, command: &'static str, since: &'static str) -> Result<(), Failure> {
    if call.is_since(since) {
        Ok(())
    } else {
        Err(Failure::CommandTooNew {
            command,
            since,
            found: call.version.clone(),
        })
    }
}
