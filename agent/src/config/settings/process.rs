use std::time::Duration;

use super::{
    Fallback::{Unset, Value},
    Setting, of, shared,
};
use crate::config::kind::Kind::{Address, Cpus, Endpoint, Filter, Moment, OneOf, Path, Port, Switch, Text, Threads};
use crate::config::verb::Verb;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The process: who it is, where its things are, how it ends, what an operator sees of it.
pub(super) const PROCESS: &[Setting] = &[
    // Who and where.
    of(
        Verb::Run,
        shared(
            "node",
            "NODE_NAME",
            Text,
            Unset("needed"),
            "Name of this node; names the directory of pins.",
        ),
    ),
    shared(
        "network",
        "NETWORK",
        Text,
        Value(""),
        "Network this node or gateway is on; empty in a mesh of one.",
    ),
    shared(
        "trust-domain",
        "TRUST_DOMAIN",
        Text,
        Value("cluster.local"),
        "Trust domain of the process's own identity. Pods have theirs from the mesh.",
    ),
    shared(
        "cluster-id",
        "CLUSTER_ID",
        Text,
        Value("Kubernetes"),
        "Cluster this node is in, as istiod knows it.",
    ),
    shared(
        "cluster-domain",
        "CLUSTER_DOMAIN",
        Text,
        Value("cluster.local"),
        "DNS domain of the cluster.",
    ),
    of(
        Verb::Gateway,
        shared(
            "identity",
            "ISTHMUS_IDENTITY",
            Text,
            Unset("needed"),
            "Identity of the gateway as NAMESPACE/SERVICE-ACCOUNT.",
        ),
    ),
    of(
        Verb::Gateway,
        shared(
            "listen",
            "ISTHMUS_LISTEN",
            Address,
            Unset("[::]:15008; 0.0.0.0:15008 with --ipv6=false"),
            "Where to listen for tunnels of other networks.",
        ),
    ),
    // Mesh and certificates.
    shared(
        "mesh",
        "LOCAL_XDS_PATH",
        Path,
        Unset("none"),
        "Mesh file (docs/mesh-file.md) instead of istiod. Reloaded when it changes.",
    ),
    shared(
        "mesh-snapshot",
        "ISTHMUS_MESH_SNAPSHOT",
        Text,
        Unset("`mesh.snapshot` in --run-dir; none for a gateway"),
        "File in which what istiod told is kept, so that a restarted process serves before istiod answers; `off` for none.",
    ),
    shared(
        "embedded-ca",
        "ISTHMUS_EMBEDDED_CA",
        Path,
        Unset("none"),
        "Directory of the embedded CA, instead of istiod's. Its keys lie on disk: for tests and demonstrations only.",
    ),
    shared(
        "secret-ttl",
        "SECRET_TTL",
        Moment {
            least: Duration::from_secs(60),
            most: Duration::from_secs(3650 * 24 * 3600),
        },
        Value("24h"),
        "How long certificates are asked for. They are renewed at half of it.",
    ),
    shared(
        "compliance-policy",
        "COMPLIANCE_POLICY",
        OneOf(&["", "pqc"]),
        Value(""),
        "`pqc` admits only the post-quantum key exchange X25519MLKEM768; peers without it are refused.",
    ),
    // Ending.
    shared(
        "drain-deadline",
        "CONNECTION_TERMINATION_DEADLINE",
        Moment {
            least: Duration::ZERO,
            most: HOUR,
        },
        Value("5s"),
        "How long open connections may go on after SIGTERM.",
    ),
    of(
        Verb::Run,
        shared(
            "release-deadline",
            "ISTHMUS_RELEASE_DEADLINE",
            Moment {
                least: Duration::ZERO,
                most: DAY,
            },
            Value("10m"),
            "How long connections of a released pod may go on.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "vigil",
            "ISTHMUS_VIGIL",
            Moment {
                least: Duration::ZERO,
                most: Duration::from_millis(1),
            },
            Value("100us"),
            "How long a data thread may stay awake for more work, where work follows work. 0 always sleeps: less CPU, more latency.",
        ),
    ),
    // Redirection.
    of(
        Verb::Run,
        shared(
            "leave-non-mesh",
            "ISTHMUS_LEAVE_NON_MESH",
            Switch,
            Value("true"),
            "Connects to destinations outside the mesh are left alone in the connect hook instead of being relayed.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "run-dir",
            "ISTHMUS_RUN_DIR",
            Path,
            Value("/run/isthmus"),
            "Directory of the agent's socket and records. Must not survive a reboot.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "state-dir",
            "ISTHMUS_STATE_DIR",
            Path,
            Unset("--run-dir"),
            "Directory of what the CNI plugin knows while no agent runs: the mode of each namespace (docs/cni.md). Should survive a reboot.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "bpffs",
            "ISTHMUS_BPFFS",
            Path,
            Value("/sys/fs/bpf/isthmus"),
            "Where to pin, on a BPF file system.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "cgroup",
            "ISTHMUS_CGROUP",
            Path,
            Unset("found in the mount table"),
            "Root of the cgroup2 hierarchy of the node.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "node-netns",
            "ISTHMUS_NODE_NETNS",
            Path,
            Value("/proc/1/ns/net"),
            "Network namespace of the node: connections made there are probes.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "ebpf-log",
            "ISTHMUS_EBPF_LOG",
            Switch,
            Value("false"),
            "The eBPF programs log what they decide (target `isthmus_ebpf`). Programs already attached keep quiet.",
        ),
    ),
    // Threads.
    of(
        Verb::Run,
        shared(
            "threads",
            "ZTUNNEL_WORKER_THREADS",
            Threads,
            Value("auto"),
            "Threads that serve pods: a number, a share of the cores as `25%`, 0 for as many as cores. `auto` is a quarter of the cores, but at least one and at least --cpu-request.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "cpu-limit",
            "ZTUNNEL_RESOURCE_CPU_LIMIT",
            Cpus,
            Unset("cores of the machine"),
            "Cores --threads counts with, where a limit leaves fewer than the machine has.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "cpu-request",
            "ZTUNNEL_RESOURCE_CPU_REQUEST",
            Cpus,
            Unset("none"),
            "Cores the agent was promised; --threads=auto uses as many at least.",
        ),
    ),
    // What an operator sees.
    shared(
        "log",
        "RUST_LOG",
        Filter,
        Value("info"),
        "Which log lines are written, as `info,isthmus::proxy=debug`.",
    ),
    shared(
        "log-format",
        "LOG_FORMAT",
        OneOf(&["plain", "json"]),
        Value("plain"),
        "How log lines are written, to standard error.",
    ),
    shared(
        "admin-port",
        "ISTHMUS_ADMIN_PORT",
        Port,
        Value("15000"),
        "Port of the admin server, on localhost; `off` or 0 for none.",
    ),
    shared(
        "stats-port",
        "ISTHMUS_STATS_PORT",
        Port,
        Value("15020"),
        "Port of the metrics, on every address; `off` or 0 for none.",
    ),
    shared(
        "readiness-port",
        "ISTHMUS_READINESS_PORT",
        Port,
        Value("15021"),
        "Port of the readiness probe, on every address; `off` or 0 for none.",
    ),
    shared(
        "otlp-endpoint",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        Endpoint,
        Unset("off"),
        "Where spans are sent over OTLP/gRPC, as `http://collector:4317`.",
    ),
];
