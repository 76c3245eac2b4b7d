//! The CNI plugin of Isthmus, chained after the plugin that gives a pod its network.
//!
//! It holds no state and decides nothing about the mesh: it reads one call of the container runtime (CNI
//! specification 0.3.1 to 1.1.0), asks the agent of this node one question, and passes the previous plugin's result on
//! unchanged. A pod that is to be enrolled and cannot be does not start. docs/cni.md tells it verb by verb.

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
    time::Duration,
};

use isthmus_wire::{AskError, Namespaces, Request, Response, ask};

use crate::{call::Call, decision::Action, environment::Environment, failure::Failure};

mod answer;
mod away;
mod call;
mod decision;
mod environment;
mod failure;

/// Longest network configuration that is read, in bytes. Real ones are a few kilobytes.
const INPUT_LIMIT_BYTES: u64 = 1 << 20;

/// How long the agent may take to add a pod: longer than it waits for a certificate, well below the runtime's own limit of
/// minutes.
const ADD_BOUND: Duration = Duration::from_secs(30);
/// How long the agent may take for anything else.
const BOUND: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let environment = Environment::read(|name| env::var(name).ok());
    match run(&environment, io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Carries out one call. What the runtime is to read, result or error, is on `output` when this returns.
fn run(environment: &Environment, input: impl Read, output: &mut impl Write) -> Result<(), Failure> {
    let mut version = call::NEWEST_VERSION.to_owned();
    let ended = answer(environment, input, &mut version);
    let text = match &ended {
        Ok(text) => text.clone(),
        Err(failure) => failure.to_json(&version),
    };
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(Failure::Output)?;
    ended.map(drop)
}

/// Reads the call and answers it; `version` becomes the call's own as soon as it is known.
fn answer(environment: &Environment, input: impl Read, version: &mut String) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    input
        .take(INPUT_LIMIT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Failure::Input)?;
    if bytes.len() as u64 > INPUT_LIMIT_BYTES {
        return Err(Failure::InputTooLong {
            limit: INPUT_LIMIT_BYTES,
        });
    }
    let call = Call::parse(&bytes)?;
    if call.is_spoken() {
        version.clone_from(&call.version);
    }
    let file = || Namespaces::read(&call.namespaces_file);
    match decision::decide(environment, &call)? {
        Action::Say(text) => Ok(text),
        Action::Add { pod, result } => {
            let answer = exchange(&call, &Request::Add(pod.clone()), ADD_BOUND);
            answer::added(answer, &call.away, &pod, file)?;
            Ok(result)
        }
        Action::Delete { uid, netns } => {
            answer::deleted(exchange(&call, &Request::Delete { uid, netns }, BOUND))?;
            Ok(String::new())
        }
        Action::Check { pod } => {
            let answer = exchange(&call, &Request::Check(pod.clone()), BOUND);
            answer::checked(answer, &call.away, &pod, file)?;
            Ok(String::new())
        }
        Action::Probe => {
            answer::is_up(exchange(&call, &Request::Ready, BOUND))?;
            Ok(String::new())
        }
    }
}

fn exchange(call: &Call, request: &Request, bound: Duration) -> Result<Response, AskError> {
    ask(&call.agent_socket, request, bound)
}

#[cfg(test)]
mod tests;
