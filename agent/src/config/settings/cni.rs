use super::{
    Fallback::{Unset, Value},
    Setting, of, shared,
};
use crate::config::kind::Kind::{OneOf, Path, Switch, Text};
use crate::config::verb::Verb;

/// The CNI plugin on the node (docs/cni.md).
pub(super) const CNI: &[Setting] = &[
    of(
        Verb::Run,
        shared(
            "cni-install",
            "ISTHMUS_CNI_INSTALL",
            OneOf(&["own", "chained", "off"]),
            Unset("own in Kubernetes, else off"),
            "How the CNI plugin is installed: in a list of our own, in the primary's file, or not at all (docs/cni.md).",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "cni-bin-dir",
            "ISTHMUS_CNI_BIN_DIR",
            Path,
            Unset("that of the node's distribution"),
            "Directory of CNI plugins.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "cni-conf-dir",
            "MOUNTED_CNI_NET_DIR",
            Path,
            Unset("that of the node's distribution"),
            "Directory of CNI configurations.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "cni-conf-name",
            "CNI_CONF_NAME",
            Text,
            Unset("the first in order"),
            "File of the primary CNI plugin's configuration.",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "cni-when-away",
            "ISTHMUS_CNI_WHEN_AWAY",
            OneOf(&["fail", "pass-known", "pass"]),
            Value("fail"),
            "What the CNI plugin does while the agent is away with pods of namespaces that are neither excluded nor ambient (docs/cni.md).",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "take-over-istio-cni",
            "ISTHMUS_TAKE_OVER_ISTIO_CNI",
            Switch,
            Value("false"),
            "Once nobody has listened on istio-cni's socket for 10 s, what it left on the node is removed (docs/install.md).",
        ),
    ),
    of(
        Verb::Run,
        shared(
            "host-root",
            "ISTHMUS_HOST_ROOT",
            Path,
            Unset("/host if there is /host/etc, else /"),
            "Where the node's file system is seen, for --take-over-istio-cni.",
        ),
    ),
];
