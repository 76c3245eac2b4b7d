//! Images that nodes are given before anything runs on them.

use std::path::{Path, PathBuf};

use crate::{
    control_plane,
    failure::{Because as _, Result},
};

/// BusyBox, which is called by its path with the applet's name: servers, clients and shells of the tests, and what holds the
/// namespaces of pods.
pub const WORKLOAD: &str = "isthmus-test/busybox:1";

/// istio-cni's own programs, and those that they run; a node is given it when a test asks for it, because it is large.
pub(super) const ISTIO_CNI: &str = "isthmus-test/istio-cni:1";

/// The archive of [`ISTIO_CNI`].
pub(super) fn istio_cni() -> Result<PathBuf> {
    control_plane::built("istio-cni.tar")
}

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
