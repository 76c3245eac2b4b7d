//! The variables that the runtime sets for a call.

use std::path::PathBuf;

use crate::failure::Failure;

/// Longest pod name, namespace or id that is taken, in bytes: Kubernetes' own limit for names.
const NAME_LIMIT: usize = 253;

/// Variables of the CNI specification, section "Parameters". Empty means not set, as runtimes use both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    pub(crate) command: String,
    pub(crate) container: String,
    pub(crate) netns: String,
    pub(crate) interface: String,
    pub(crate) arguments: String,
}

/// The pod that a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Kubernetes UID; the sandbox's id with runtimes that do not tell it (containerd before 1.6).
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Environment {
    /// Reads the variables through `get`.
    pub(crate) fn read(get: impl Fn(&'static str) -> Option<String>) -> Self {
        let get = |name| get(name).unwrap_or_default();
        Self {
            command: get("CNI_COMMAND"),
            container: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            interface: get("CNI_IFNAME"),
            arguments: get("CNI_ARGS"),
        }
    }

    /// The pod, from `CNI_ARGS` (`KEY=VALUE;KEY=VALUE`). `command` is for the error text.
    pub(crate) fn pod(&self, command: &'static str) -> Result<Pod, Failure> {
        if self.container.is_empty() {
            return Err(Failure::Missing {
                variable: "CNI_CONTAINERID",
                command,
            });
        }
        if self.interface.is_empty() {
            return Err(Failure::Missing {
                variable: "CNI_IFNAME",
                command,
            });
        }
        let sandbox = name("CNI_CONTAINERID", &self.container)?;
        let namespace = self.argument("K8S_POD_NAMESPACE")?;
        let pod = self.argument("K8S_POD_NAME")?;
        Ok(Pod {
            uid: self.argument("K8S_POD_UID")?.unwrap_or(sandbox),
            namespace: namespace.ok_or(Failure::NotKubernetes {
                key: "K8S_POD_NAMESPACE",
            })?,
            name: pod.ok_or(Failure::NotKubernetes { key: "K8S_POD_NAME" })?,
        })
    }

    /// The pod's network namespace, which must be there. `command` is for the error text.
    pub(crate) fn netns(&self, command: &'static str) -> Result<PathBuf, Failure> {
        if self.netns.is_empty() {
            return Err(Failure::Missing {
                variable: "CNI_NETNS",
                command,
            });
        }
        let path = PathBuf::from(&self.netns);
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(malformed("CNI_NETNS", "not an absolute path", &self.netns))
        }
    }

    fn argument(&self, key: &'static str) -> Result<Option<String>, Failure> {
        let mut found = None;
        for pair in self.arguments.split(';').filter(|pair| !pair.is_empty()) {
            let Some((said, value)) = pair.split_once('=') else {
                return Err(malformed("CNI_ARGS", "an entry without `=`", pair));
            };
            if said == key {
                let value = name("CNI_ARGS", value)?;
                if found.replace(value).is_some() {
                    return Err(malformed("CNI_ARGS", "a key given twice", key));
                }
            }
        }
        Ok(found)
    }
}

/// A name or id as Kubernetes makes them: it ends up in logs, paths and certificates.
fn name(variable: &'static str, value: &str) -> Result<String, Failure> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if value.is_empty()
        || !value.bytes().all(is_plain)
        || !value.starts_with(|first: char| first.is_ascii_alphanumeric())
    {
        return Err(malformed(
            variable,
            "a name has letters, digits, `-`, `.` and `_` only",
            value,
        ));
    }
    if value.len() > NAME_LIMIT {
        return Err(malformed(variable, "a name is longer than 253 bytes", value));
    }
    Ok(value.to_owned())
}

fn malformed(variable: &'static str, reason: &'static str, value: &str) -> Failure {
    Failure::Malformed {
        variable,
        reason,
        value: value.chars().take(80).collect(),
    }
}
