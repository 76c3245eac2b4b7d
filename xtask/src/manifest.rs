//! `cargo xtask manifest`: the charts as plain manifests, for those who have no Helm.

use std::fs;

use clap::Args;

use crate::{
    Failure, Tree, helm,
    setup::{self, Purpose},
};

/// A manifest, what stands at its head, and how it is rendered. The last is written into the head as well: the tests read it
/// from there and render again.
struct Plain {
    file: &'static str,
    about: &'static str,
    /// Which part of the chart it is.
    part: &'static [&'static str],
}

/// How the chart is rendered.
const RENDER: [&str; 7] = [
    "template",
    "isthmus",
    "deploy/helm/isthmus",
    "--namespace",
    "istio-system",
    "--kube-version",
    "1.30",
];

/// Hooks are left out of the first: one of them takes the agent off every node.
const MANIFESTS: [Plain; 2] = [
    Plain {
        file: "isthmus.yaml",
        about: "The node agent, in place of ztunnel and istio-cni, as the chart makes it when no value is set.\n\
                kubectl apply -f deploy/manifest/isthmus.yaml",
        part: &["--no-hooks"],
    },
    Plain {
        file: "cleanup.yaml",
        about: "Takes every trace of the agent off every node. Once isthmus.yaml is deleted:\n\
                kubectl apply -f deploy/manifest/cleanup.yaml\n\
                kubectl rollout status daemonset/ztunnel-cleanup -n istio-system\n\
                kubectl delete -f deploy/manifest/cleanup.yaml",
        part: &["--show-only", "templates/cleanup.yaml"],
    },
];

/// Renders the chart into deploy/manifest.
#[derive(Debug, Args)]
pub(crate) struct Manifest {
    /// Change nothing, and fail if a manifest is not what the chart makes
    #[arg(long)]
    check: bool,
}

impl Manifest {
    /// Renders, or compares.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        setup::prepare(tree, &[Purpose::Charts])?;
        for plain in &MANIFESTS {
            let path = tree.path("deploy/manifest").join(plain.file);
            let wanted = plain.text(&rendered(tree, &plain.render())?);
            let is_there = fs::read_to_string(&path).is_ok_and(|there| there == wanted);
            if is_there {
                println!("==> deploy/manifest/{} ... as the chart makes it", plain.file);
            } else if self.check {
                return Err(Failure::new(format!(
                    "{} is not what the chart makes; run `cargo xtask manifest`",
                    path.display()
                )));
            } else {
                fs::write(&path, wanted).map_err(|cause| Failure::io("writing", &path, &cause))?;
                println!("==> deploy/manifest/{} ... written", plain.file);
            }
        }
        Ok(())
    }
}

impl Plain {
    fn render(&self) -> Vec<&'static str> {
        RENDER.iter().chain(self.part).copied().collect()
    }

    /// What is rendered, below its head.
    fn text(&self, rendered: &str) -> String {
        let mut head = String::new();
        for line in self.about.lines() {
            head = head + "# " + line + "\n";
        }
        format!(
            "{head}#\n# Made by `cargo xtask manifest`; change the chart instead. For Kubernetes 1.30 and newer:\n# helm {}\n{rendered}",
            self.render().join(" ")
        )
    }
}

fn rendered(tree: &Tree, arguments: &[&str]) -> Result<String, Failure> {
    let output = helm::command(tree, arguments)?
        .output()
        .map_err(|cause| Failure::new(format!("starting helm: {cause}")))?;
    if !output.status.success() {
        return Err(Failure::new(format!(
            "helm {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    String::from_utf8(output.stdout).map_err(|cause| Failure::new(format!("what helm rendered is no text: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::MANIFESTS;

    #[test]
    fn a_manifest_tells_how_it_is_made() {
        let text = MANIFESTS[0].text("---\nkind: X\n");
        let (head, below): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with('#'));
        assert_eq!(below, ["---", "kind: X"]);
        assert!(
            head.last()
                .is_some_and(|line| line.starts_with("# helm template isthmus "))
        );
    }

    #[test]
    fn what_takes_the_agent_away_is_not_applied_with_it() {
        assert!(MANIFESTS[0].render().contains(&"--no-hooks"));
    }
}
