//! Images that nodes are given before anything runs on them.

use std::path::{Path, PathBuf};

use crate::failure::{Because as _, Result};

/// BusyBox, which is called by its path with the applet's name: servers, clients and shells of the tests, and what holds the
/// namespaces of pods.
pub const WORKLOAD: &str = "isthmus-test/busybox:1";

/// Archives that `cargo xtask cluster` and `cargo xtask test` make: the agent's image, and [`WORKLOAD`].
pub(super) fn built() -> Result<[PathBuf; 2]> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image");
    let find = |name: &str| {
        let path = home.join(name);
        path.canonicalize()
            .because(format!("finding {} (cargo xtask cluster images)", path.display()))
    };
    Ok([
        find(concat!("isthmus-", env!("CARGO_PKG_VERSION"), ".tar"))?,
        find("busybox.tar")?,
    ])
}
