//! Can the node's network namespace be opened?

use std::path::Path;

use super::report::{Check, Finding};
use crate::redirect::netns::NetnsError;

/// Judges. `opened` is what opening it came to.
pub(super) fn judge(path: &Path, opened: &Result<(), NetnsError>) -> Finding {
    match opened {
        Ok(()) => Finding::good(Check::NodeNetns, format!("{} can be entered", path.display())),
        Err(error) => Finding::bad(
            Check::NodeNetns,
            crate::pods::registry::chain(error),
            "the agent cannot tell probes of the kubelet from other plaintext, nor a pod with hostNetwork from others, and \
             does not start",
            "give the agent's pod hostPID: true; where process 1 stays closed but the agent is in the node's network \
             namespace (hostNetwork: true), say --node-netns /proc/self/ns/net",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;
    use crate::redirect::Netns;

    #[test]
    fn a_path_that_is_no_namespace_is_bad() {
        let path = Path::new("/proc/isthmus-is-not-here/ns/net");
        let finding = judge(path, &Netns::open(path).map(drop));
        assert_eq!(finding.level, Level::Bad);
        assert!(
            finding.found.contains("/proc/isthmus-is-not-here/ns/net"),
            "{finding:?}"
        );
        assert_eq!(judge(path, &Ok(())).level, Level::Good);
    }
}
