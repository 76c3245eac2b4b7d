//! Taking a node over from istio-cni, for an agent that is told to: waits until it has gone, and removes what it left.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};

use super::host::{self, Lives};
use crate::redirect::Netns;

/// Time between two looks, and as long as nothing is to be done.
const LOOK: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(30);
/// Looks in a row that must find nobody: an istio-cni that is only replaced is away for less.
const ABSENT: u32 = 3;

/// What a look came to.
enum Look {
    Lives(Lives),
    Removed(Vec<(String, Option<io::Error>)>),
    Closed(String),
}

/// Looks after the node for ever. `root` is where its file system is seen.
pub async fn follow(root: PathBuf, node_netns: PathBuf) {
    let (mut absent, mut told) = (0, String::new());
    loop {
        let may_remove = absent + 1 >= ABSENT;
        let (root, node_netns) = (root.clone(), node_netns.clone());
        let looked = spawn_blocking(move || look(&root, &node_netns, may_remove)).await;
        let Ok(look) = looked else { return };
        let (said, wait) = match look {
            None if may_remove => (String::new(), REST),
            None => {
                absent += 1;
                (told.clone(), LOOK)
            }
            Some(look) => {
                absent = if matches!(look, Look::Lives(_)) { 0 } else { absent };
                (tell(look), LOOK)
            }
        };
        if !said.is_empty() && said != told {
            tracing::warn!(why = said, "istio-cni's traces are still on this node");
        }
        told = said;
        sleep(wait).await;
    }
}

/// Nothing, when nothing was to be done.
fn look(root: &Path, node_netns: &Path, may_remove: bool) -> Option<Look> {
    if let Err(lives) = host::is_gone(root) {
        return Some(Look::Lives(lives));
    }
    if !may_remove {
        return None;
    }
    let node = match Netns::open(node_netns) {
        Ok(node) => node,
        Err(error) => return Some(Look::Closed(error.to_string())),
    };
    let mut done = Vec::new();
    host::remove(root, &node, &mut |what, failure| done.push((what, failure)));
    (!done.is_empty()).then_some(Look::Removed(done))
}

/// Logs what is gone; answers what is not, and why.
fn tell(look: Look) -> String {
    match look {
        Look::Lives(lives) => lives.to_string(),
        Look::Closed(why) => why,
        Look::Removed(done) => {
            let mut left = Vec::new();
            for (what, failure) in done {
                match failure {
                    None => tracing::info!(what, "removed what istio-cni left on this node"),
                    Some(error) => left.push(format!("{what}: {error}")),
                }
            }
            left.join("; ")
        }
    }
}
