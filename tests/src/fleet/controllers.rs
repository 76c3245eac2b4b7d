//! A scheduler and a controller-manager.

use std::{path::Path, sync::Arc};

use crate::{
    control_plane::{Cluster, built},
    failure::Result,
    lab::World,
    process::Process,
};

/// Starts both beside a cluster's apiserver, with the rights of its administrator.
pub(super) fn start(world: &Arc<World>, cluster: &Cluster, kubeconfig: &Path) -> Result<[Process; 2]> {
    let own = cluster.files();
    let common = |program: &str| -> Result<std::process::Command> {
        let mut command = cluster.command(&built(program)?);
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            // There is one of each, and nobody asks them anything.
            .args([
                "--leader-elect=false",
                "--secure-port=0",
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ]);
        Ok(command)
    };
    let mut controllers = common("kube-controller-manager")?;
    controllers
        .arg("--service-account-private-key-file")
        .arg(own.join("service-account-key.pem"))
        .arg("--root-ca-file")
        .arg(own.join("root.pem"))
        // A machine that lost power is missed soon.
        .args(["--node-monitor-grace-period=20s", "--node-monitor-period=2s"]);
    Ok([
        Process::start(
            world,
            &format!("{}-scheduler", cluster.name()),
            common("kube-scheduler")?,
        )?,
        Process::start(world, &format!("{}-controllers", cluster.name()), controllers)?,
    ])
}
