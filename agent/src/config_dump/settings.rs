//! The configuration as it holds, under ztunnel's names where they mean the same, and ours beside as `isthmus`.
//! Tokens, and values of headers, are in neither.

use std::{num::NonZeroUsize, time::Duration};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::{Config, GatewayConfig, NodeConfig, Printed};

/// What both have; keys are those of ztunnel's dump.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Common<'a> {
    network: &'a str,
    cluster_id: &'a str,
    cluster_domain: &'a str,
    xds_address: Option<&'a str>,
    alt_xds_hostname: Option<&'a str>,
    xds_on_demand: bool,
    ca_address: Option<&'a str>,
    alt_ca_hostname: Option<&'a str>,
    secret_ttl: Duration,
    self_termination_deadline: Duration,
    ipv6_enabled: bool,
    window_size: u32,
    connection_window_size: u32,
    frame_size: u32,
    pool_max_streams_per_conn: usize,
    pool_unused_release_timeout: Duration,
    socket_config: SocketConfig,
    admin_addr: Option<String>,
    stats_addr: Option<String>,
    readiness_addr: Option<String>,
    isthmus: &'a Printed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SocketConfig {
    keepalive_time: Duration,
    keepalive_interval: Duration,
    keepalive_retries: u32,
    keepalive_enabled: bool,
    user_timeout_enabled: bool,
}

/// The configuration of an agent that serves with `threads` data threads.
pub fn of_node(config: &NodeConfig, threads: NonZeroUsize) -> Map<String, Value> {
    let mut told = common(&config.common);
    told.insert("localNode".to_owned(), config.node.as_str().into());
    told.insert("numWorkerThreads".to_owned(), threads.get().into());
    told
}

/// The configuration of a gateway.
pub fn of_gateway(config: &GatewayConfig) -> Map<String, Value> {
    let mut told = common(&config.common);
    told.insert("inboundAddr".to_owned(), config.listen.to_string().into());
    told
}

fn common(config: &Config) -> Map<String, Value> {
    let Config { istiod, tuning, .. } = config;
    let local = |port: Option<u16>| port.map(|port| format!("localhost:{port}"));
    let everywhere = |port: Option<u16>| port.map(|port| format!("[::]:{port}"));
    let common = Common {
        network: &config.network,
        cluster_id: &config.cluster_id,
        cluster_domain: &config.cluster_domain,
        // A mesh file or an embedded CA is used instead, whatever the address says.
        xds_address: istiod.xds_address.as_deref().filter(|_| config.mesh.is_none()),
        alt_xds_hostname: istiod.xds_hostname.as_deref(),
        xds_on_demand: istiod.on_demand,
        ca_address: istiod.ca_address.as_deref().filter(|_| config.embedded_ca.is_none()),
        alt_ca_hostname: istiod.ca_hostname.as_deref(),
        secret_ttl: config.secret_ttl,
        self_termination_deadline: config.drain_deadline,
        ipv6_enabled: config.ipv6,
        window_size: tuning.tunnels.stream_window_bytes,
        connection_window_size: tuning.tunnels.tunnel_window_bytes,
        frame_size: tuning.tunnels.frame_bytes,
        pool_max_streams_per_conn: tuning.pool.streams,
        pool_unused_release_timeout: tuning.pool.idle,
        socket_config: SocketConfig {
            keepalive_time: tuning.sockets.keepalive_time,
            keepalive_interval: tuning.sockets.keepalive_interval,
            keepalive_retries: tuning.sockets.keepalive_retries,
            keepalive_enabled: tuning.sockets.keepalive,
            user_timeout_enabled: tuning.sockets.user_timeout,
        },
        admin_addr: local(config.ports.admin),
        stats_addr: everywhere(config.ports.stats),
        readiness_addr: everywhere(config.ports.readiness),
        isthmus: &config.printed,
    };
    match serde_json::to_value(&common) {
        Ok(Value::Object(told)) => told,
        // Neither happens: it is a struct whose keys are texts.
        Ok(_) | Err(_) => Map::new(),
    }
}
