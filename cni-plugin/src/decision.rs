//! From a call to what is to be done; no input or output here.

use std::path::PathBuf;

use isthmus_wire::NewPod;
use serde_json::json;

use crate::{
    call::{Call, NEWEST_VERSION, VERSIONS},
    environment::Environment,
    failure::Failure,
};

/// The interface by which container runtimes attach a pod to the cluster's network.
const FIRST_INTERFACE: &str = "eth0";

/// What a call asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Answer with this text; the agent has no part in it.
    Say(String),
    /// Have the pod enrolled if it is to be, then answer with the previous plugin's result.
    Add { pod: NewPod, result: String },
    /// Release the pod if the agent holds it with this network namespace.
    Delete { uid: String, netns: PathBuf },
    /// Look whether the pod is enrolled with this network namespace, if it is to be.
    Check { pod: NewPod },
    /// Look whether pods can be enrolled.
    Probe,
}

/// Decides what a call asks for, or why it is wrong.
pub(crate) fn decide(environment: &Environment, call: &Call) -> Result<Action, Failure> {
    if environment.command == "VERSION" {
        return Ok(Action::Say(versions(call)));
    }
    call.must_be_spoken()?;
    match environment.command.as_str() {
        "ADD" => {
            let result = call.previous()?;
            let pod = new_pod(environment, "ADD")?;
            Ok(Action::Add { pod, result })
        }
        "DEL" => delete(environment),
        "CHECK" => {
            since(call, "CHECK", "0.4.0")?;
            call.previous()?;
            let pod = new_pod(environment, "CHECK")?;
            Ok(Action::Check { pod })
        }
        "STATUS" => {
            since(call, "STATUS", "1.1.0")?;
            // A node whose STATUS fails starts only pods of hostNetwork: not the agent's own, nor istiod's. ADD decides
            // pod by pod instead.
            if call.away.knows_own_pods() {
                return Ok(Action::Say(String::new()));
            }
            Ok(Action::Probe)
        }
        // This plugin keeps nothing; what the agent keeps, it clears by itself.
        "GC" => since(call, "GC", "1.1.0").map(|()| Action::Say(String::new())),
        found => Err(Failure::Command {
            found: found.chars().take(80).collect(),
        }),
    }
}

/// A runtime that is newer than this plugin asks in its own version, to learn which it can use.
fn versions(call: &Call) -> String {
    let version = if call.is_spoken() {
        &call.version
    } else {
        NEWEST_VERSION
    };
    json!({ "cniVersion": version, "supportedVersions": VERSIONS }).to_string()
}

fn new_pod(environment: &Environment, command: &'static str) -> Result<NewPod, Failure> {
    let netns = environment.netns(command)?;
    let pod = environment.pod(command)?;
    Ok(NewPod {
        uid: pod.uid,
        namespace: pod.namespace,
        name: pod.name,
        netns,
    })
}

fn delete(environment: &Environment) -> Result<Action, Failure> {
    let nothing = Ok(Action::Say(String::new()));
    let pod = match environment.pod("DEL") {
        Ok(pod) => pod,
        // ADD refused this pod for the same reason; an error now would keep its sandbox for ever.
        Err(Failure::NotKubernetes { .. } | Failure::Malformed { .. }) => return nothing,
        Err(failure) => return Err(failure),
    };
    // Without a path the namespace is gone, and the agent lets go of such pods by itself. And a running pod may lose
    // one interface of several (Multus): it must not be released for that.
    if environment.netns.is_empty() || environment.interface != FIRST_INTERFACE {
        return nothing;
    }
    Ok(Action::Delete {
        uid: pod.uid,
        netns: environment.netns("DEL")?,
    })
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
