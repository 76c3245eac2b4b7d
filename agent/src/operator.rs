//! Commands of an operator: short questions and orders, on the terminal.

mod status;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use isthmus_wire::{Enrol, Request, Response, SOCKET_NAME, ask};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    cli::{CaCommand, MeshCommand, Mtls, PodAddArgs, PodCommand},
    identity::{
        SpiffeId,
        embedded_ca::{EmbeddedCa, Terms},
    },
    mesh,
};

pub use status::status;

/// The agent answers in milliseconds unless its node is in trouble.
const PATIENCE: Duration = Duration::from_secs(15);

/// `isthmus pod`.
pub fn pod(command: PodCommand) -> Result<(), Box<dyn Error>> {
    match command {
        PodCommand::Add(arguments) => {
            let run_dir = arguments.socket.run_dir.clone();
            done(&run_dir, &Request::Enrol(enrol(arguments)))
        }
        PodCommand::Remove { socket, uid } => done(&socket.run_dir, &Request::Release { uid }),
    }
}

fn enrol(arguments: PodAddArgs) -> Enrol {
    let PodAddArgs {
        socket: _,
        netns,
        namespace,
        name,
        service_account,
        uid,
        mtls,
        reroute_interfaces,
    } = arguments;
    let uid = uid.unwrap_or_else(|| format!("{namespace}/{name}"));
    let mtls_required = mtls.map(|mtls| mtls == Mtls::Required);
    Enrol {
        uid,
        namespace,
        name,
        service_account,
        netns,
        mtls_required,
        reroute_interfaces,
        capture: Box::default(),
    }
}

fn done(run_dir: &Path, request: &Request) -> Result<(), Box<dyn Error>> {
    match ask(&run_dir.join(SOCKET_NAME), request, PATIENCE)? {
        Response::Done => Ok(()),
        Response::Refused { reason, retriable } => {
            let advice = if retriable {
                "; the same request may succeed later"
            } else {
                ""
            };
            Err(format!("{reason}{advice}").into())
        }
        Response::Status(_) => Err("the agent answered something else than was asked".into()),
    }
}

/// `isthmus ca`.
pub fn ca(command: CaCommand) -> Result<(), Box<dyn Error>> {
    match command {
        CaCommand::Init { directory } => {
            EmbeddedCa::create(&directory)?;
            println!(
                "made a root in {}; its key lies there: not for production",
                directory.display()
            );
            Ok(())
        }
        CaCommand::Issue {
            directory,
            identity,
            out,
            not_before,
            not_after,
        } => {
            let usual = Terms::day_from(SystemTime::now());
            let terms = Terms {
                not_before: not_before
                    .as_deref()
                    .map(moment)
                    .transpose()?
                    .unwrap_or(usual.not_before),
                not_after: not_after.as_deref().map(moment).transpose()?.unwrap_or(usual.not_after),
            };
            let id: SpiffeId = identity.parse()?;
            let issued = EmbeddedCa::open(&directory)?.issue_pem(&id, terms)?;
            fs::create_dir_all(&out)?;
            for (name, text) in [
                ("cert-chain.pem", &issued.cert_chain),
                ("key.pem", &issued.key),
                ("root-cert.pem", &issued.root),
            ] {
                fs::write(out.join(name), text)?;
            }
            Ok(())
        }
    }
}

fn moment(text: &str) -> Result<SystemTime, Box<dyn Error>> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(SystemTime::from)
        .map_err(|error| format!("{text} is not a time as in RFC 3339 (2026-11-21T09:00:00Z): {error}").into())
}

/// `isthmus mesh`.
pub fn mesh(command: MeshCommand) -> Result<(), Box<dyn Error>> {
    let MeshCommand::Check { file } = command;
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let [workloads, services, policies] = mesh::file::parse(&text, &PathBuf::from(&file))?.sizes();
    println!(
        "{}: {workloads} workloads, {services} services, {policies} policies",
        file.display()
    );
    Ok(())
}
