//! The CNI plugin of Isthmus, chained after the plugin that gives a pod its network.
//!
//! It holds no state and decides nothing about the mesh: it reads one call of the container runtime (CNI
//! specification 0.3.1 to 1.1.0), asks the agent of this node, and passes the previous plugin's result on unchanged.
//! A pod that cannot be enrolled does not start: ADD fails when no agent answers.

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
    time::Duration,
};

use isthmus_wire::{AskError, Request, Response, ask};

use crate::{call::Call, decision::Action, environment::Environment, failure::Failure};

mod answer;
mod call;
mod decision;
mod environment;
mod failure;

/// Longest network configuration that is read, in bytes. Real ones are a few kilobytes.
const INPUT_LIMIT_BYTES: u64 = 1 << 20;

/// How long each read or write of an exchange with the agent may take. Well below the runtime's own limit of minutes.
const AGENT_BOUND: Duration = Duration::from_secs(10);

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
    version.clone_from(&call.version);
    match decision::decide(environment, &call)? {
        Action::Say(text) => Ok(text),
        Action::Enrol { enrol, result } => {
            answer::enrolled(exchange(&call, &Request::Enrol(enrol)))?;
            Ok(result)
        }
        Action::Release { uid, netns } => {
            // A sandbox that is deleted late shares its pod's UID with the one that replaced it.
            if answer::is_held(exchange(&call, &Request::Status), &uid, &netns) {
                answer::released(exchange(&call, &Request::Release { uid }))?;
            }
            Ok(String::new())
        }
        Action::Verify { uid, netns } => {
            answer::verified(exchange(&call, &Request::Status), &uid, &netns)?;
            Ok(String::new())
        }
        Action::Probe => {
            answer::is_up(exchange(&call, &Request::Status))?;
            Ok(String::new())
        }
    }
}

fn exchange(call: &Call, request: &Request) -> Result<Response, AskError> {
    ask(&call.agent_socket, request, AGENT_BOUND)
}

#[cfg(test)]
mod tests;
