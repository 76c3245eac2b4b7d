use super::{
    Fallback::{Unset, Value},
    Setting, shared,
};
use crate::config::kind::Kind::{Endpoint, Roots, Secret, Switch, Text};

/// For talking to istiod; what `--mesh` and `--embedded-ca` replace is not used beside them.
pub(super) const ISTIOD: &[Setting] = &[
    shared(
        "xds-address",
        "XDS_ADDRESS",
        Endpoint,
        Unset("https://istiod.istio-system.svc:15012 in a cluster, else https://localhost:15012"),
        "Where istiod serves the workload API; empty for nowhere.",
    ),
    shared(
        "xds-root-ca",
        "XDS_ROOT_CA",
        Roots,
        Value("./var/run/secrets/istio/root-cert.pem"),
        "Who istiod must be certified by: a file, `SYSTEM`, or PEM.",
    ),
    shared(
        "xds-hostname",
        "ALT_XDS_HOSTNAME",
        Text,
        Unset("none"),
        "Another name that istiod's certificate may have.",
    ),
    shared(
        "xds-on-demand",
        "XDS_ON_DEMAND",
        Switch,
        Value("false"),
        "Ask istiod only for what pods of this node talk to, when they do. Then no connect is left alone.",
    ),
    shared(
        "ca-address",
        "CA_ADDRESS",
        Endpoint,
        Unset("as --xds-address"),
        "Where istiod signs certificates.",
    ),
    shared(
        "ca-root-ca",
        "CA_ROOT_CA",
        Roots,
        Value("./var/run/secrets/istio/root-cert.pem"),
        "Who the CA must be certified by: a file, `SYSTEM`, or PEM.",
    ),
    shared(
        "ca-hostname",
        "ALT_CA_HOSTNAME",
        Text,
        Unset("none"),
        "Another name that the CA's certificate may have.",
    ),
    shared(
        "auth-token",
        "AUTH_TOKEN",
        Secret,
        Value("./var/run/secrets/tokens/istio-token"),
        "Token shown to istiod: a file, which is what a text with `/` is, or the token itself.",
    ),
    shared(
        "pod-name",
        "POD_NAME",
        Text,
        Unset("none"),
        "The agent's own pod, as istiod is told.",
    ),
    shared(
        "pod-namespace",
        "POD_NAMESPACE",
        Text,
        Unset("none"),
        "Namespace of the agent's own pod, as istiod is told.",
    ),
    shared(
        "service-account",
        "SERVICE_ACCOUNT",
        Text,
        Unset("none"),
        "Service account of the agent's own pod.",
    ),
    shared(
        "instance-ip",
        "INSTANCE_IP",
        Text,
        Unset("1.1.1.1"),
        "Address of the agent's own pod, as istiod is told.",
    ),
];
