//! The CNI plugin on this node, as the configuration asks for it.

use std::{env, path::PathBuf};

use isthmus_wire::{CniStatus, SOCKET_NAME};
use tokio::sync::watch;

use crate::{
    cni::{self, Install, PLUGIN, Places, Plugin},
    config::NodeConfig,
};

/// Installs it, if that is asked for, and looks after it as long as this process lives. Tells how it stands.
pub(super) fn install(config: &NodeConfig) -> Option<watch::Receiver<CniStatus>> {
    let install = asked(config)?;
    let (told, status) = watch::channel(CniStatus::default());
    tokio::spawn(cni::follow(install, told));
    Some(status)
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
            when_agent_is_away: cni.when_away,
            exclude_namespaces: config.exclude_namespaces.clone(),
            own_pods: Plugin::daemon_set_of(own.namespace.as_deref(), own.name.as_deref()),
        },
        binary: beside_us(),
    })
}

/// The plugin is shipped beside the agent.
fn beside_us() -> PathBuf {
    env::current_exe().map_or_else(|_| PLUGIN.into(), |agent| agent.with_file_name(PLUGIN))
}
