//! What the eBPF programs log, for debugging: one ring for all of them, written to the agent's log.

use std::{io, time::Duration};

use aya_log::EbpfLogger;
use tokio::time::interval;

use super::NodePrograms;

/// How often the ring is emptied. It holds 128 KiB; what does not fit is lost, counters are not.
const EVERY: Duration = Duration::from_millis(50);

/// Reads until the runtime ends.
pub fn follow(node: &NodePrograms) -> io::Result<()> {
    let Some((_, _, program)) = node.links().into_iter().next() else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no program of the node is attached",
        ));
    };
    let mut ring = EbpfLogger::init_from_id(program).map_err(io::Error::other)?;
    tokio::spawn(async move {
        let mut tick = interval(EVERY);
        loop {
            tick.tick().await;
            ring.flush();
        }
    });
    Ok(())
}
