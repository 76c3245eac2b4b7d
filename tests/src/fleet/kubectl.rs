//! `kubectl` and `helm` of one cluster.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{
    control_plane::built,
    failure::{Because as _, Result},
    process::answer,
    wait::within,
};

/// No call takes longer, however the cluster fares.
const CALL: &str = "--request-timeout=60s";

/// Speaks to a cluster as whoever its kubeconfig says.
#[derive(Clone, Debug)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    /// The namespace in which the cluster's address is reached; the host's when none is told.
    netns: Option<PathBuf>,
}

impl Kubectl {
    /// Of a kubeconfig, in a network namespace.
    pub fn new(kubeconfig: &Path, netns: Option<&Path>) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            netns: netns.map(Path::to_owned),
        }
    }

    /// Answers what `kubectl ARGUMENTS` writes.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.tell(arguments, "")
    }

    /// As [`Kubectl::run`], with something on its standard input.
    pub fn tell(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.kubectl()?;
        answer(command.arg(CALL).args(arguments), input).because(format!("kubectl {}", arguments.join(" ")))
    }

    /// As [`Kubectl::run`], for what takes longer than a call; it ends by itself.
    pub fn run_patiently(&self, arguments: &[&str]) -> Result<String> {
        answer(self.kubectl()?.args(arguments), "").because(format!("kubectl {}", arguments.join(" ")))
    }

    fn kubectl(&self) -> Result<Command> {
        let mut command = self.command(&built("kubectl")?);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.arg("--cache-dir").arg(self.kubeconfig.with_extension("cache"));
        Ok(command)
    }

    /// Makes objects what they are told to be; a namespace that is not there is an error.
    pub fn apply(&self, objects: &[Value]) -> Result {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        self.tell(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            &list.to_string(),
        )
        .map(drop)
    }

    /// What `kubectl get ARGUMENTS` answers, an object or a list.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "--output=json"], arguments].concat())?;
        serde_json::from_str(&text).because(format!("reading what kubectl gets of {}", arguments.join(" ")))
    }

    /// Asks again and again until `holds` answers something of what `kubectl get` gets; fails with what that was last.
    #[track_caller]
    pub fn until<T>(&self, arguments: &[&str], bound: Duration, holds: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let mut last = String::new();
        let what = format!("what is awaited of {}", arguments.join(" "));
        within(bound, &what, || match self.get(arguments) {
            Ok(value) => {
                let answer = holds(&value);
                last = value.to_string();
                answer
            }
            Err(failure) => {
                last = failure.to_string();
                None
            }
        })
        .because(format!("last it was {last}"))
    }

    /// Answers what a program in a pod writes; `place` is `POD` or `deploy/NAME`.
    pub fn exec(&self, namespace: &str, place: &str, command: &[&str]) -> Result<String> {
        self.run(&[&["exec", "--namespace", namespace, place, "--"], command].concat())
    }

    /// As [`Kubectl::exec`], for a program that takes longer than a call.
    pub fn exec_patiently(&self, namespace: &str, place: &str, command: &[&str]) -> Result<String> {
        self.run_patiently(&[&["exec", "--namespace", namespace, place, "--"], command].concat())
    }

    /// Answers what `helm ARGUMENTS` writes, in the work tree, given values on its standard input.
    pub fn helm(&self, arguments: &[&str], values: &str) -> Result<String> {
        let mut command = self.command(&crate::chart::program()?);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        crate::chart::at_home(&mut command);
        answer(&mut command, values).because(format!("helm {}", arguments.join(" ")))
    }

    /// The words with which a developer speaks to the cluster.
    pub fn words(&self) -> Result<String> {
        let command = self.command(&built("kubectl")?);
        let mut words = vec![command.get_program().to_string_lossy().into_owned()];
        words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
        words.push(format!("--kubeconfig={}", self.kubeconfig.display()));
        Ok(words.join(" "))
    }

    fn command(&self, program: &Path) -> Command {
        let Some(netns) = &self.netns else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.display())).arg("--").arg(program);
        command
    }
}
