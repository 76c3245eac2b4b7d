//! The kinds of objects that Istio and the Gateway API add.

use std::fs;

use super::{api::Api, programs::built};
use crate::failure::{Because as _, Failure, Result};

/// Files that `cargo xtask setup` takes out of the modules that istiod is built from.
const FILES: [&str; 2] = ["istio-crds.yaml", "gateway-crds.yaml"];
/// Where definitions go.
const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Defines all of them.
pub(super) fn define(api: &Api) -> Result {
    for file in FILES {
        let path = built(file)?;
        let text = fs::read_to_string(&path).because(format!("reading {}", path.display()))?;
        let documents = text
            .split("\n---")
            .filter(|document| document.contains("kind: CustomResourceDefinition"));
        let mut count = 0;
        for document in documents {
            let name = name_of(document).because(format!("the name of a definition in {}", path.display()))?;
            api.apply_text(&format!("{PATH}/{name}"), document.to_owned())?;
            count += 1;
        }
        if count == 0 {
            return Err(Failure::new(format!("{} defines nothing", path.display())));
        }
    }
    Ok(())
}

/// `metadata.name`: the only `name` that is indented by two spaces and is `PLURAL.GROUP`.
fn name_of(document: &str) -> Option<&str> {
    document
        .lines()
        .filter_map(|line| line.strip_prefix("  name: "))
        .find(|name| name.contains('.'))
}
