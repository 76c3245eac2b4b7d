//! Who may depend on whom among our packages, and that each takes the workspace's lints.

use std::fs;

use serde_json::Value;

use super::Complaint;
use crate::{Failure, Tree};

/// Every package of the workspace and those of ours that it may depend on.
const PACKAGES: [(&str, &[&str]); 7] = [
    ("isthmus", &["isthmus-abi", "isthmus-istio", "isthmus-wire"]),
    ("isthmus-abi", &[]),
    ("isthmus-cni", &["isthmus-wire"]),
    ("isthmus-istio", &[]),
    (
        "isthmus-tests",
        &["isthmus", "isthmus-abi", "isthmus-istio", "isthmus-wire"],
    ),
    ("isthmus-wire", &[]),
    ("xtask", &[]),
];

/// Complains of packages with the wrong friends or without the workspace's lints.
pub(super) fn complaints(tree: &Tree) -> Result<Vec<Complaint>, Failure> {
    let mut cargo = tree.cargo();
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1"]);
    let output = cargo
        .output()
        .map_err(|cause| Failure::new(format!("cannot start cargo metadata: {cause}")))?;
    if !output.status.success() {
        return Err(Failure::new(format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|cause| Failure::new(format!("cargo metadata is not understood: {cause}")))?;
    let mut found = friends(&metadata);
    for package in packages(&metadata) {
        let manifest = text(package, "manifest_path");
        let contents =
            fs::read_to_string(manifest).map_err(|cause| Failure::new(format!("reading {manifest}: {cause}")))?;
        if !takes_lints(&contents) {
            found.push(Complaint::about(manifest, "add\n[lints]\nworkspace = true"));
        }
    }
    Ok(found)
}

fn friends(metadata: &Value) -> Vec<Complaint> {
    let mut found = Vec::new();
    for package in packages(metadata) {
        let name = text(package, "name");
        let Some((_, allowed)) = PACKAGES.iter().find(|(known, _)| *known == name) else {
            found.push(Complaint::about(
                name,
                "a new package: say in xtask/src/check/packages.rs what it may depend on",
            ));
            continue;
        };
        let dependencies = package
            .get("dependencies")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        for dependency in dependencies.filter(|dependency| dependency.get("path").is_some_and(Value::is_string)) {
            let other = text(dependency, "name");
            if !allowed.contains(&other) {
                found.push(Complaint::about(name, format!("must not depend on {other}")));
            }
        }
    }
    found
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata.get("packages").and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn takes_lints(manifest: &str) -> bool {
    let mut lines = manifest
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{friends, takes_lints};

    #[test]
    fn the_wrong_friend_is_found() {
        let metadata = json!({"packages": [
            {"name": "isthmus-cni", "dependencies": [{"name": "serde"}, {"name": "isthmus-wire", "path": "/w"}]},
            {"name": "xtask", "dependencies": [{"name": "isthmus-wire", "path": "/w"}]},
            {"name": "isthmus-extra", "dependencies": []},
        ]});
        let found: Vec<_> = friends(&metadata).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], "xtask: must not depend on isthmus-wire");
        assert!(found[1].starts_with("isthmus-extra: a new package"));
    }

    #[test]
    fn lints_must_be_the_workspaces() {
        assert!(takes_lints(
            "[package]\nname = \"x\"\n\n[lints]\n# all of them\nworkspace = true\n"
        ));
        assert!(!takes_lints("[package]\nname = \"x\"\n"));
        assert!(!takes_lints(
            "[lints]\n[lints.rust]\nunsafe_code = \"allow\"\nworkspace = true"
        ));
    }
}
