//! The charts of deploy/helm as Helm renders them; no cluster takes part.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    failure::{Because as _, Failure, Result},
    process::answer,
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A chart and what it is rendered with.
#[derive(Clone, Debug)]
pub struct Chart {
    name: &'static str,
    release: &'static str,
    values: String,
    arguments: Vec<String>,
}

/// What Helm made of a chart.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// As it is applied, with comments.
    pub text: String,
    objects: Vec<Value>,
}

impl Chart {
    /// The chart in deploy/helm/NAME, installed under that name into istio-system.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            release: name,
            values: String::new(),
            arguments: Vec::new(),
        }
    }

    /// Installed under another name.
    #[must_use]
    pub fn release(mut self, release: &'static str) -> Self {
        self.release = release;
        self
    }

    /// With a values file of this content.
    #[must_use]
    pub fn values(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.values);
        self
    }

    /// With more arguments of `helm template`.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Renders it.
    pub fn render(&self) -> Result<Rendered> {
        let mut arguments = vec!["template", self.release];
        let folder = format!("deploy/helm/{}", self.name);
        arguments.extend([folder.as_str(), "--namespace", "istio-system", "--values", "-"]);
        // Helm has no idea of its own how old a cluster is that it does not ask; of two arguments the later one holds.
        arguments.extend(["--kube-version", "1.33"]);
        arguments.extend(self.arguments.iter().map(String::as_str));
        Rendered::read(helm(&arguments, &self.values)?)
    }

    /// What Helm says where it refuses the values.
    pub fn refused(&self) -> Result<String> {
        match self.render() {
            Ok(_) => Err(Failure::new(format!(
                "chart {} takes the values\n{}",
                self.name, self.values
            ))),
            Err(refusal) => Ok(refusal.to_string()),
        }
    }

    /// What `helm lint` says of it, which must be no complaint.
    pub fn lint(&self) -> Result {
        let folder = format!("deploy/helm/{}", self.name);
        helm(&["lint", "--strict", &folder, "--values", "-"], &self.values).map(drop)
    }
}

impl Rendered {
    /// Reads YAML documents.
    pub fn read(text: String) -> Result<Self> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).because("reading what helm rendered")?;
        Ok(Self {
            text,
            objects: objects.into_iter().filter(Value::is_object).collect(),
        })
    }

    /// Kinds and names of all objects, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .objects
            .iter()
            .map(|object| format!("{} {}", kind(object), name(object)))
            .collect();
        names.sort();
        names
    }

    /// The one object of this kind and name.
    #[track_caller]
    pub fn object(&self, of: &str, called: &str) -> &Value {
        let found: Vec<_> = self
            .objects
            .iter()
            .filter(|object| kind(object) == of && name(object) == called)
            .collect();
        assert_eq!(found.len(), 1, "{of} {called} among {:?}", self.names());
        found.first().copied().unwrap_or(&Value::Null)
    }

    /// All of them.
    pub fn objects(&self) -> &[Value] {
        &self.objects
    }
}

/// The file at a path of the work tree.
pub fn file(path: &str) -> Result<String> {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).because(format!("reading {}", path.display()))
}

/// What `helm ARGUMENTS` prints in the work tree, given this on its standard input.
pub fn helm(arguments: &[&str], input: &str) -> Result<String> {
    let mut helm = Command::new(program()?);
    at_home(helm.args(arguments));
    answer(&mut helm, input)
}

/// A helm in the work tree that takes nothing of who calls it.
pub(crate) fn at_home(helm: &mut Command) {
    helm.current_dir(ROOT);
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HELM_PLUGINS"] {
        helm.env(variable, "/nonexistent");
    }
}

/// Built by `cargo xtask setup`; `LAB_HELM` names another one.
pub(crate) fn program() -> Result<PathBuf> {
    if let Some(program) = env::var_os("LAB_HELM") {
        return Ok(program.into());
    }
    let built = Path::new(ROOT).join("target/tools/helm");
    let current = fs::read_to_string(built.join("current")).because("finding helm (cargo xtask setup)")?;
    Ok(built.join(current.trim()).join("helm"))
}

fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn name(object: &Value) -> &str {
    object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
}
