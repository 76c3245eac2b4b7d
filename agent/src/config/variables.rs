//! What becomes of each variable that ztunnel reads (wire-facts.md §9.5), of istio-cni's (§12.8) as far as they have a
//! meaning here, and of those that only Isthmus has.
//!
//! A variable is never dropped silently: it sets something, or it cannot change what happens here and the log says so,
//! or it asks for what Isthmus does not do and is refused.

use super::settings::settings;

/// One variable, or a family that begins alike.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name; a family's ends in `*`.
    pub name: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
}

/// What becomes of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is the value of the setting with this flag.
    Sets(&'static str),
    /// The text says how settings come from it.
    Mapped(&'static str),
    /// Any value is accepted and none changes anything, because of this.
    Ignored(&'static str),
    /// Only these values describe what Isthmus does; the text says why no other can be had, and what to do.
    Only(&'static [&'static str], &'static str),
    /// Any value is refused; the text says why and what to do.
    Refused(&'static str),
}

use Treatment::{Ignored, Mapped, Only, Refused, Sets};

const fn row(name: &'static str, treatment: Treatment) -> Variable {
    Variable { name, treatment }
}

/// Every variable that is known. Of two that set the same, the upper one wins.
pub const VARIABLES: &[Variable] = &[
    row(
        "ENABLE_PROXY",
        Only(
            &["true"],
            "Isthmus is the proxy and has no mode without it; do not run it",
        ),
    ),
    row(
        "PROXY_MODE",
        Only(
            &["shared"],
            "there is one agent per node and none per pod; leave it out",
        ),
    ),
    row(
        "PROXY_WORKLOAD_INFO",
        Ignored("it describes the pod of PROXY_MODE=dedicated, which there is not"),
    ),
    row("NETWORK", Sets("network")),
    row("NODE_NAME", Sets("node")),
    row("ISTIO_META_CLUSTER_ID", Sets("cluster-id")),
    row("CLUSTER_ID", Sets("cluster-id")),
    row("CLUSTER_DOMAIN", Sets("cluster-domain")),
    row("XDS_ADDRESS", Sets("xds-address")),
    row("CA_ADDRESS", Sets("ca-address")),
    row("XDS_ROOT_CA", Sets("xds-root-ca")),
    row("CA_ROOT_CA", Sets("ca-root-ca")),
    row("ALT_XDS_HOSTNAME", Sets("xds-hostname")),
    row("ALT_CA_HOSTNAME", Sets("ca-hostname")),
    row(
        "XDS_HEADER_*",
        Mapped("each is a header sent to istiod's workload API; its value is never shown"),
    ),
    row(
        "CA_HEADER_*",
        Mapped("each is a header sent to the CA; its value is never shown"),
    ),
    row("AUTH_TOKEN", Sets("auth-token")),
    row("XDS_ON_DEMAND", Sets("xds-on-demand")),
    row("LOCAL_XDS_PATH", Sets("mesh")),
    row(
        "LOCAL_XDS",
        Refused("a mesh in a variable cannot be reloaded; write it to a file and give LOCAL_XDS_PATH"),
    ),
    row(
        "PREFERED_SERVICE_NAMESPACE",
        Ignored("only answers to DNS queries depend on it, and Isthmus leaves DNS alone"),
    ),
    row("SECRET_TTL", Sets("secret-ttl")),
    row(
        "FAKE_CA",
        Only(
            &["false"],
            "there is no CA that signs for nobody; for tests, `isthmus ca init DIR` and --embedded-ca DIR",
        ),
    ),
    row(
        "CRL_PATH",
        Refused(
            "certificates are not checked against revocation lists, and a list that is not enforced must not look as if it were",
        ),
    ),
    row("TRUST_DOMAIN", Sets("trust-domain")),
    row("POD_NAME", Sets("pod-name")),
    row("POD_NAMESPACE", Sets("pod-namespace")),
    row("SERVICE_ACCOUNT", Sets("service-account")),
    row("INSTANCE_IP", Sets("instance-ip")),
    row(
        "ISTIO_META_*",
        Mapped("each is a key of the node metadata istiod is told"),
    ),
    row(
        "ISTIO_METAJSON_*",
        Mapped("each is a key of the node metadata istiod is told; its value must be JSON"),
    ),
    row(
        "PROXY_CONFIG",
        Mapped(
            "YAML; discoveryAddress, proxyAdminPort, statsPort, concurrency and proxyMetadata are read, unless given otherwise",
        ),
    ),
    row(
        "INPOD_UDS",
        Ignored("one process enrols and serves pods, so there is no socket between the two"),
    ),
    row(
        "INPOD_PORT_REUSE",
        Ignored("listeners are handed from worker to worker, whether or not ports could be shared"),
    ),
    row(
        "PACKET_MARK",
        Only(
            &["1337"],
            "sockets of the agent are told apart by eBPF and carry no mark; rules that look for one do not work",
        ),
    ),
    row(
        "ENABLE_ORIG_SRC",
        Only(&["true"], "applications always see the client's address; leave it out"),
    ),
    row("IPV6_ENABLED", Sets("ipv6")),
    row("KEEPALIVE_ENABLED", Sets("keepalive")),
    row("KEEPALIVE_TIME", Sets("keepalive-time")),
    row("KEEPALIVE_INTERVAL", Sets("keepalive-interval")),
    row("KEEPALIVE_RETRIES", Sets("keepalive-retries")),
    row("USER_TIMEOUT_ENABLED", Sets("user-timeout")),
    row("HTTP2_STREAM_WINDOW_SIZE", Sets("stream-window")),
    row("HTTP2_CONNECTION_WINDOW_SIZE", Sets("tunnel-window")),
    row("HTTP2_FRAME_SIZE", Sets("frame-size")),
    row("POOL_MAX_STREAMS_PER_CONNECTION", Sets("pool-streams")),
    row("POOL_UNUSED_RELEASE_TIMEOUT", Sets("pool-idle")),
    row("CONNECTION_TERMINATION_DEADLINE", Sets("drain-deadline")),
    row(
        "TERMINATION_GRACE_PERIOD_SECONDS",
        Mapped(
            "--drain-deadline is 5 s less above 10 s, else 1 s less and at least 1 s; CONNECTION_TERMINATION_DEADLINE comes first",
        ),
    ),
    row("ZTUNNEL_WORKER_THREADS", Sets("threads")),
    row("ZTUNNEL_RESOURCE_CPU_LIMIT", Sets("cpu-limit")),
    row("ZTUNNEL_CPU_LIMIT", Sets("cpu-limit")),
    row("ZTUNNEL_RESOURCE_CPU_REQUEST", Sets("cpu-request")),
    row(
        "LOCALHOST_APP_TUNNEL",
        Ignored("application tunnels of protocol PROXY are refused (docs/mesh-file.md)"),
    ),
    row("ENABLE_RESPONSE_BAGGAGE", Sets("response-baggage")),
    row(
        "AUTHZ_POLICY_INFO_LOGGING",
        Ignored("the access log names the policy that refused a connection in any case"),
    ),
    row(
        "UNSTABLE_ENABLE_SOCKS5",
        Only(&["false"], "there is no SOCKS5 listener; pods are redirected"),
    ),
    row("TLS12_ENABLED", Only(&["false"], "TLS 1.3 is the only one spoken")),
    row("COMPLIANCE_POLICY", Sets("compliance-policy")),
    row("LOG_FORMAT", Sets("log-format")),
    row("RUST_LOG", Sets("log")),
    row(
        "INPOD_ENABLED",
        Ignored("pods are always served inside their own network namespaces"),
    ),
    // istio-cni's.
    row("EXCLUDE_NAMESPACES", Sets("exclude-namespaces")),
    row("SYSTEM_NAMESPACE", Sets("system-namespace")),
    row("AMBIENT_ENABLEMENT_SELECTOR", Sets("enablement-selector")),
    row("MOUNTED_CNI_NET_DIR", Sets("cni-conf-dir")),
    row("CNI_CONF_NAME", Sets("cni-conf-name")),
    row(
        "CHAINED_CNI_PLUGIN",
        Only(
            &["true"],
            "the plugin makes no network and is always listed after the one that does; leave it out",
        ),
    ),
    row(
        "ISTIO_OWNED_CNI_CONFIG",
        Mapped("`true` is --cni-install=own, `false` is --cni-install=chained; ISTHMUS_CNI_INSTALL comes first"),
    ),
    row(
        "ISTIO_OWNED_CNI_CONFIG_FILENAME",
        Ignored("our own list is always 00-isthmus.conflist, because it must sort first"),
    ),
    row(
        "ISTIO_OWNED_CNI_CONF_FILENAME",
        Ignored("our own list is always 00-isthmus.conflist, because it must sort first"),
    ),
    row(
        "CNI_NETWORK_CONFIG",
        Ignored("the plugin's entry in the configuration is made from settings (docs/cni.md)"),
    ),
    row(
        "CNI_NETWORK_CONFIG_FILE",
        Ignored("the plugin's entry in the configuration is made from settings (docs/cni.md)"),
    ),
    // Only Isthmus has these.
    row("ISTHMUS_CNI_INSTALL", Sets("cni-install")),
    row("ISTHMUS_CNI_BIN_DIR", Sets("cni-bin-dir")),
    row("ISTHMUS_CNI_WHEN_AWAY", Sets("cni-when-away")),
    row("ISTHMUS_TAKE_OVER_ISTIO_CNI", Sets("take-over-istio-cni")),
    row("ISTHMUS_HOST_ROOT", Sets("host-root")),
    row("ISTHMUS_MESH_SNAPSHOT", Sets("mesh-snapshot")),
    row("ISTHMUS_EMBEDDED_CA", Sets("embedded-ca")),
    row("ISTHMUS_RUN_DIR", Sets("run-dir")),
    row("ISTHMUS_STATE_DIR", Sets("state-dir")),
    row("ISTHMUS_STARTUP_TAINT", Sets("startup-taint")),
    row("ISTHMUS_BPFFS", Sets("bpffs")),
    row("ISTHMUS_CGROUP", Sets("cgroup")),
    row("ISTHMUS_NODE_NETNS", Sets("node-netns")),
    row("ISTHMUS_KUBERNETES", Sets("kubernetes")),
    row("ISTHMUS_KUBECONFIG", Sets("kubeconfig")),
    row("ISTHMUS_PROC", Sets("proc")),
    row("ISTHMUS_RELEASE_DEADLINE", Sets("release-deadline")),
    row("ISTHMUS_VIGIL", Sets("vigil")),
    row("ISTHMUS_EBPF_LOG", Sets("ebpf-log")),
    row("ISTHMUS_LEAVE_NON_MESH", Sets("leave-non-mesh")),
    row("ISTHMUS_IDENTITY", Sets("identity")),
    row("ISTHMUS_LISTEN", Sets("listen")),
    row("ISTHMUS_ADMIN_PORT", Sets("admin-port")),
    row("ISTHMUS_STATS_PORT", Sets("stats-port")),
    row("ISTHMUS_READINESS_PORT", Sets("readiness-port")),
    row("OTEL_EXPORTER_OTLP_ENDPOINT", Sets("otlp-endpoint")),
    row("ISTHMUS_BIN", Ignored("the lab's tests find the agent by it")),
];

/// The row of this variable: its own, or its family's.
pub(super) fn variable(name: &str) -> Option<&'static Variable> {
    let own = VARIABLES.iter().find(|variable| variable.name == name);
    own.or_else(|| VARIABLES.iter().find(|variable| variable.key_of(name).is_some()))
}

impl Variable {
    /// What follows the family's prefix; nothing where this is no family, or the name is not of it.
    pub fn key_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let key = name.strip_prefix(self.name.strip_suffix('*')?)?;
        (!key.is_empty()).then_some(key)
    }
}

/// A name that was probably meant: known here, and at most two letters away.
pub(super) fn meant(name: &str) -> Option<&'static str> {
    let known = VARIABLES
        .iter()
        .map(|variable| variable.name)
        .filter(|known| !known.ends_with('*'));
    nearest(name, known)
}

/// A flag that was probably meant.
pub(super) fn meant_flag(flag: &str) -> Option<&'static str> {
    nearest(flag, settings().map(|setting| setting.flag))
}

fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // Of short names too many are two letters from any other.
    let far = if name.len() < 8 { 1 } else { 2 };
    known
        .map(|known| (distance(name, known), known))
        .filter(|(distance, _)| (1..=far).contains(distance))
        .min()
        .map(|(_, known)| known)
}

/// Letters to change, insert or leave out (Levenshtein); names longer than any of ours are not looked at.
fn distance(one: &str, other: &str) -> usize {
    const LONGEST: usize = 64;
    if one.len() > LONGEST || other.len() > LONGEST {
        return LONGEST;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut next = vec![i + 1];
        for ((b, above_left), above) in other.bytes().zip(&row).zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or_default();
            next.push((above_left + usize::from(a != b)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// A variable that Kubernetes sets in pods for a service of the same namespace, as ISTHMUS_SERVICE_HOST.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    let ports = || {
        name.split("_PORT_").skip(1).any(|rest| {
            let (number, rest) = rest.split_once('_').unwrap_or((rest, ""));
            !number.is_empty()
                && number.bytes().all(|byte| byte.is_ascii_digit())
                && ["TCP", "UDP", "SCTP"].iter().any(|protocol| rest.starts_with(protocol))
        })
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && is_url
        || ports()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_strangers_are_not() {
        assert_eq!(meant("NODE_NAM"), Some("NODE_NAME"));
        assert_eq!(meant("ISTHMUS_RUNDIR"), Some("ISTHMUS_RUN_DIR"));
        assert_eq!(
            meant("POOL_MAX_STREAM_PER_CONNECTION"),
            Some("POOL_MAX_STREAMS_PER_CONNECTION")
        );
        assert_eq!(meant_flag("drain-deadlin"), Some("drain-deadline"));
        for stranger in ["PATH", "HOME", "HOSTNAME", "LANG", "TERM", "", &"X".repeat(10_000)] {
            assert_eq!(meant(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn variables_which_kubernetes_makes_of_services_are_told_from_ours() {
        for (name, value) in [
            ("ISTHMUS_SERVICE_HOST", "10.0.0.1"),
            ("ISTHMUS_SERVICE_PORT", "15020"),
            ("ISTHMUS_SERVICE_PORT_HTTP_METRICS", "15020"),
            ("ISTHMUS_PORT", "tcp://10.0.0.1:15020"),
            ("ISTHMUS_PORT_15020_TCP", "tcp://10.0.0.1:15020"),
            ("ISTHMUS_PORT_15020_TCP_ADDR", "10.0.0.1"),
            ("ISTHMUS_ADMIN_PORT", "tcp://10.0.0.1:15000"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for (name, value) in [
            ("ISTHMUS_ADMIN_PORT", "15000"),
            ("ISTHMUS_RUN_DIR", "/run/x"),
            ("ISTHMUS_PORT_OF_ENTRY", "x"),
        ] {
            assert!(!is_service_link(name, value), "{name}");
        }
    }

    #[test]
    fn every_variable_stands_once_and_what_sets_a_setting_names_one() {
        for (index, variable) in VARIABLES.iter().enumerate() {
            assert!(
                VARIABLES
                    .iter()
                    .skip(index + 1)
                    .all(|other| other.name != variable.name),
                "{} stands twice",
                variable.name
            );
            if let Sets(flag) = variable.treatment {
                assert!(super::super::settings::setting(flag).is_some(), "{}", variable.name);
            }
        }
        for setting in settings() {
            let row = variable(setting.variable).unwrap();
            assert_eq!(row.treatment, Sets(setting.flag), "{}", setting.variable);
        }
    }
}
