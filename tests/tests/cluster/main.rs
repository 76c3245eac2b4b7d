//! What is promised of clusters with real kubelets, asked by kubectl and helm.
//!
//! All checks share one pair of clusters, which takes longer to start than they take; so they are one program and run in
//! their order. `LAB_KUBECONFIGS=FIRST:SECOND` names two clusters in which Isthmus is installed already; checks that need
//! power over nodes are left out there and say so.

mod checks;
mod demo;
mod load;
mod nodes;
mod runner;
mod takeover;

use std::{env, path::Path, process::ExitCode};

use isthmus_tests::{
    Lab, Result,
    fleet::{Fleet, Kubectl, Site},
    sweep,
};

use crate::runner::Runner;

/// A cluster as checks see it.
pub(crate) struct Member<'a> {
    pub(crate) kubectl: Kubectl,
    /// None of a cluster that is somebody else's.
    pub(crate) site: Option<&'a Site>,
}

fn main() -> ExitCode {
    let mut runner = Runner::new();
    let done = sweep::when_interrupted().and_then(|()| match env::var("LAB_KUBECONFIGS") {
        Ok(paths) => given(&mut runner, &paths),
        Err(_) => ours(&mut runner),
    });
    sweep::leave_to_interrupt();
    runner.close(done)
}

fn ours(runner: &mut Runner) -> Result {
    let Some(fleet) = runner.stage("clusters_with_kubelets_start", || {
        Fleet::start(Lab::new("clusters")?, [2, 1])
    }) else {
        return Ok(());
    };
    if runner
        .stage("charts_bring_agents_and_gateways", || fleet.install())
        .is_none()
    {
        return Ok(());
    }
    let members = fleet.sites().iter().map(|site| Member {
        kubectl: site.kubectl().clone(),
        site: Some(site),
    });
    checks::all(runner, &members.collect::<Vec<_>>())
}

fn given(runner: &mut Runner, paths: &str) -> Result {
    let member = |path: &str| Member {
        kubectl: Kubectl::new(Path::new(path), None),
        site: None,
    };
    let members: Vec<_> = paths.split(':').map(member).collect();
    let done = checks::all(runner, &members);
    // They are somebody else's, and stay as they were.
    let cleaned = members.iter().map(|member| demo::remove(&member.kubectl));
    done.and(cleaned.collect::<Result<()>>())
}
