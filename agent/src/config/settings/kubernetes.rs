use super::{
    Fallback::{Unset, Value},
    Setting, of, shared,
};
use crate::config::{
    kind::Kind::{Path, Switch, Text},
    verb::Verb,
};

/// Enrolment by Kubernetes.
pub(super) const KUBERNETES: &[Setting] = &[
    of(
        Verb::Run,
        shared(
            "kubernetes",
            "ISTHMUS_KUBERNETES",
            Switch,
            Unset("true in a cluster or with --kubeconfig, else false"),
            "Enrol pods by their labels, as Kubernetes' API server tells them (docs/kubernetes.md).",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "kubeconfig",
            "ISTHMUS_KUBECONFIG",
            Path,
            Unset("the service account of the agent's own pod"),
            "How to reach the API server.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "exclude-namespaces",
            "EXCLUDE_NAMESPACES",
            Text,
            Value("kube-system"),
            "Namespaces of which no pod is enrolled, with commas between them.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "system-namespace",
            "SYSTEM_NAMESPACE",
            Text,
            Value("istio-system"),
            "Namespace of the data plane, whose pods (`app=ztunnel`, `app=isthmus`) are not enrolled; that of --pod-namespace is another one.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "enablement-selector",
            "AMBIENT_ENABLEMENT_SELECTOR",
            Text,
            Unset("label istio.io/dataplane-mode, of the pod before that of its namespace"),
            "Who is enrolled: a YAML list of pairs of podSelector and namespaceSelector.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "proc",
            "ISTHMUS_PROC",
            Path,
            Value("/proc"),
            "Where the node's processes are found: the node's own /proc, or where it is mounted. Pods that run already are recognised by it.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "startup-taint",
            "ISTHMUS_STARTUP_TAINT",
            Text,
            Unset("none"),
            "Key of a taint that is taken off the agent's own node once the agent is ready, as cni.istio.io/not-ready.",
        ),
    ),
];
