//! Does an agent answer on the socket of the run directory?

use std::{fs, io, os::unix::net::UnixStream, path::Path, time::Duration};

use isthmus_wire::{Request, Response, SOCKET_NAME, ask};

use super::report::{Check, Finding};

/// An agent answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is behind the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    /// There is no socket.
    Absent,
    /// There is a socket nobody listens on.
    Dead,
    /// Somebody listens and does not answer.
    Deaf(String),
    /// An agent.
    Runs {
        /// Its node name.
        node: String,
        /// Process id of its worker, as it sees itself.
        pid: u32,
        /// Pods it holds.
        pods: Vec<String>,
    },
}

impl Agent {
    /// Asks.
    pub fn behind(run_directory: &Path) -> Self {
        let socket = run_directory.join(SOCKET_NAME);
        match fs::symlink_metadata(&socket) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::Absent,
            Err(error) => return Self::Deaf(error.to_string()),
            Ok(_) => {}
        }
        // Held by a parent without a worker, it accepts and is silent.
        if UnixStream::connect(&socket).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return Self::Dead;
        }
        match ask(&socket, &Request::Status, PATIENCE) {
            Ok(Response::Status(status)) => Self::Runs {
                node: status.node,
                pid: status.worker_pid,
                pods: status.pods.into_keys().collect(),
            },
            Ok(_) => Self::Deaf("it answered something else than was asked".into()),
            Err(error) => Self::Deaf(crate::pods::registry::chain(&error)),
        }
    }

    /// Is there a process that would put back what is taken away?
    pub fn runs(&self) -> bool {
        matches!(self, Self::Runs { .. } | Self::Deaf(_))
    }
}

/// Judges.
pub(super) fn judge(agent: &Agent, run_directory: &Path) -> Finding {
    let socket = run_directory.join(SOCKET_NAME);
    match agent {
        Agent::Absent => Finding::good(
            Check::Agent,
            format!("none runs here ({} is not there)", socket.display()),
        ),
        Agent::Runs { node, pid, pods } => Finding::good(
            Check::Agent,
            format!("runs as node {node}, process {pid}, with {} pods", pods.len()),
        ),
        Agent::Dead => Finding::warning(
            Check::Agent,
            format!("{} is there and nobody listens on it", socket.display()),
            "an agent ended without an orderly stop; pods it had enrolled stay guarded and cut off",
            "start the agent, which takes them up again; or take everything out with `isthmus cleanup`",
        ),
        Agent::Deaf(error) => Finding::bad(
            Check::Agent,
            format!(
                "{} is held by a process that does not answer: {error}",
                socket.display()
            ),
            "the agent's worker does not start or hangs: pods cannot be enrolled, and enrolled ones are cut off",
            "look at the agent's log; its last lines say what it waits for",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    #[test]
    fn a_socket_nobody_listens_on_is_told_from_one_that_is_not_there() {
        let directory = std::env::temp_dir().join(format!("isthmus-check-agent-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        assert_eq!(Agent::behind(&directory), Agent::Absent);
        drop(std::os::unix::net::UnixListener::bind(directory.join(SOCKET_NAME)).unwrap());
        assert_eq!(Agent::behind(&directory), Agent::Dead);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn only_a_socket_that_leads_nowhere_is_not_good() {
        let at = |agent| judge(&agent, Path::new("/run/isthmus")).level;
        assert_eq!(at(Agent::Absent), Level::Good);
        assert_eq!(at(Agent::Dead), Level::Warning);
        assert_eq!(at(Agent::Deaf("timed out".into())), Level::Bad);
        let runs = Agent::Runs {
            node: "n".into(),
            pid: 7,
            pods: vec!["u".into()],
        };
        assert!(runs.runs());
        assert_eq!(at(runs), Level::Good);
    }
}
