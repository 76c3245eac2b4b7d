//! The CNI plugin on this node, as the configuration asks for it.

use std::{env, path::PathBuf};

use isthmus_wire::{CniStatus, NAMESPACES_NAME, SOCKET_NAME};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use crate::{
    cni::{self, Install, PLUGIN, Places, Plugin},
    config::NodeConfig,
    istio_cni::follow::follow,
};

/// The plugin, looked after until this is dropped: two agents with two versions of it must not undo each other's work.
pub(super) struct Installed {
    /// How it stands.
    pub(super) status: watch::Receiver<CniStatus>,
    following: AbortHandle,
}

impl Drop for Installed {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// Installs it, if that is asked for.
pub(super) fn install(config: &NodeConfig) -> Option<Installed> {
    let install = asked(config)?;
    let (told, status) = watch::channel(CniStatus::default());
    let following = tokio::spawn(cni::follow(install, told)).abort_handle();
    Some(Installed { status, following })
}

/// Removes what istio-cni left on the node, if that is asked for, until the set is dropped.
pub(super) fn take_over(config: &NodeConfig) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if config.cni.take_over {
        let root = config.cni.host_root.clone().unwrap_or_else(cni::node_root);
        tasks.spawn(follow(root, config.node_netns.clone()));
    }
    tasks
}

fn asked(config: &NodeConfig) -> Option<Install> {
    let cni = &config.cni;
    let own = &config.common.istiod.pod;
    Some(Install {
        mode: cni.install?,
        places: Places::find(cni.binaries.clone(), cni.configurations.clone()),
        primary: cni.primary.clone(),
        plugin: Plugin {
            agent_socket: config.run_dir.join(SOCKET_NAME),
            namespaces_file: config.state_dir.join(NAMESPACES_NAME),
            when_agent_is_away: cni.when_away,
            exclude_namespaces: config.exclude_namespaces.iter().cloned().collect(),
            own_pods: Plugin::daemon_set_of(own.namespace.as_deref(), own.name.as_deref()),
        },
        binary: beside_us(),
    })
}

/// The plugin is shipped beside the agent.
fn beside_us() -> PathBuf {
    env::current_exe().map_or_else(|_| PLUGIN.into(), |agent| agent.with_file_name(PLUGIN))
}
