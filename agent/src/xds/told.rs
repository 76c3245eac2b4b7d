//! What the client says of itself, for who asks after the mesh source.

use std::time::{Instant, SystemTime};

use super::kind::{Kind, Rejected};

/// How many rejected resources are remembered for each kind.
pub const REJECTED_KEPT: usize = 16;

/// What is known of the way to istiod, as of now.
#[derive(Clone, Debug)]
pub struct Told {
    /// `https://HOST:PORT`.
    pub address: String,
    /// What is done now.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// When the stream that is open was opened.
    pub connected_since: Option<SystemTime>,
    /// Why the last stream ended or could not be opened, with causes. None after an end that is no failure.
    pub last_error: Option<String>,
    /// Streams that were opened or tried after the first.
    pub reconnects: u64,
    /// What was received of workloads and services.
    pub addresses: Received,
    /// What was received of policies.
    pub authorizations: Received,
    /// When what was loaded from disk had been written; none when nothing was loaded.
    pub resumed_from_disk: Option<SystemTime>,
    /// What is asked for one by one; none when all there is is asked for.
    pub on_demand: Option<OnDemand>,
}

/// What is asked for one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDemand {
    /// Names in use.
    pub names: usize,
    /// Those that istiod has nothing for.
    pub absent: usize,
    /// Connections that wait for an answer.
    pub waiting: usize,
}

/// What the client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Reaching istiod.
    Connecting,
    /// Connected; not all kinds were answered yet.
    Syncing,
    /// All is as istiod told it last.
    Synced,
    /// Not connected until then.
    Waiting {
        /// When the next try begins.
        until: Instant,
    },
}

/// What was received of one kind.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// When the last response had been taken in.
    pub received: Option<SystemTime>,
    /// Responses since the agent started.
    pub responses: u64,
    /// Resources that were not taken and did not come right since, oldest first; the last [`REJECTED_KEPT`] of them.
    pub rejected: Vec<Rejected>,
}

impl Told {
    /// Nothing was tried yet.
    #[must_use]
    pub fn new(address: String) -> Self {
        Self {
            address,
            state: State::Connecting,
            since: SystemTime::now(),
            connected_since: None,
            last_error: None,
            reconnects: 0,
            addresses: Received::default(),
            authorizations: Received::default(),
            resumed_from_disk: None,
            on_demand: None,
        }
    }

    /// What was received of `kind`.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> &Received {
        match kind {
            Kind::Address => &self.addresses,
            Kind::Authorization => &self.authorizations,
        }
    }

    /// The same, to be written.
    pub const fn of_mut(&mut self, kind: Kind) -> &mut Received {
        match kind {
            Kind::Address => &mut self.addresses,
            Kind::Authorization => &mut self.authorizations,
        }
    }

    /// Something else is done from now on.
    pub fn turn(&mut self, state: State) {
        self.state = state;
        self.since = SystemTime::now();
    }
}

impl Received {
    /// A response was taken in, but for the resources that were `rejected`; those of `healed` are right now. The first one
    /// of a stream tells of all that are still bad.
    pub fn took(&mut self, rejected: &[Rejected], healed: &[String], is_first: bool) {
        self.received = Some(SystemTime::now());
        self.responses += 1;
        self.rejected.retain(|old| {
            let again = rejected.iter().any(|new| new.name == old.name);
            !is_first && !again && !healed.contains(&old.name)
        });
        let surplus = (self.rejected.len() + rejected.len()).saturating_sub(REJECTED_KEPT);
        self.rejected.extend_from_slice(rejected);
        self.rejected.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(number: usize) -> Rejected {
        Rejected {
            name: number.to_string(),
            reason: String::new(),
        }
    }

    #[test]
    fn the_last_rejected_resources_are_remembered() {
        let mut received = Received::default();
        received.took(&[rejected(0), rejected(1)], &[], true);
        assert_eq!(received.rejected.len(), 2);
        let many: Vec<_> = (2..40).map(rejected).collect();
        received.took(&many, &[], false);
        assert_eq!(received.rejected.len(), REJECTED_KEPT);
        assert_eq!(received.rejected[0].name, "24");
        assert_eq!(received.rejected[15].name, "39");
        assert_eq!(received.responses, 2);
        received.took(&[rejected(30)], &["39".to_owned(), "99".to_owned()], false);
        assert_eq!(received.rejected.len(), REJECTED_KEPT - 1);
        assert_eq!(received.rejected[14].name, "30");
        received.took(&[], &[], true);
        assert_eq!(received.rejected, []);
    }
}
