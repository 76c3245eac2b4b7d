//! Who may import whom inside the agent: the table of ARCHITECTURE.md, held against the code.

use super::{Complaint, source::Token};

/// Modules of the agent and what each may import of the others. An entry with `::` opens no more than that item.
const MAY_IMPORT: [(&str, &[&str]); 29] = [
    // It is given closures for everything it tells.
    ("admin", &[]),
    // The composition root knows everybody.
    (
        "app",
        &[
            "admin",
            "cli",
            "cni",
            "config",
            "config_dump",
            "control",
            "drain",
            "hbone",
            "identity",
            "istio_cni",
            "istiod",
            "kubernetes",
            "mesh",
            "parent",
            "pods",
            "proxy",
            "redirect",
            "shards",
            "start_code",
            "status",
            "telemetry",
            "tls",
            "xds",
        ],
    ),
    // Looks at everything and changes nothing; what it finds is also what has to go.
    ("check", &["cli", "istio_cni", "pods", "redirect"]),
    (
        "cleanup",
        &[
            "check",
            "cni",
            "config::MESH_SNAPSHOT",
            "istio_cni",
            "parent::handover",
            "pods",
            "redirect",
        ],
    ),
    ("cli", &["check::CheckArgs", "cleanup::CleanupArgs"]),
    // Files in, files out: it does not know whose pods they are about.
    ("cni", &[]),
    // It makes the values that others take.
    (
        "config",
        &[
            "cni::Mode",
            "hbone",
            "identity",
            "istiod",
            "kubernetes",
            "mesh::HBONE_PORT",
            "proxy",
        ],
    ),
    // Values in, JSON out.
    ("config_dump", &["config", "identity", "mesh", "pods::ask", "proxy"]),
    ("control", &["identity", "pods", "status"]),
    // It is asked for names; it does not know what for.
    ("dns", &[]),
    ("drain", &[]),
    ("file_stamp", &[]),
    // A tunnel carries what it is asked to; it does not know who uses it or why.
    ("hbone", &["identity", "mesh::Authority", "mesh::Workload", "tls"]),
    ("identity", &["istiod", "tls"]),
    // It looks for names and numbers of others; whether and when is decided elsewhere.
    ("istio_cni", &["cni", "redirect"]),
    ("istiod", &["file_stamp", "tls"]),
    // It looks into a namespace to know whose it is; what is redirected in it is the registry's.
    ("kubernetes", &["pods", "redirect::Netns", "telemetry"]),
    // Decisions are pure values.
    ("mesh", &["file_stamp", "identity"]),
    ("operator", &["cli", "identity", "mesh", "status"]),
    // It must outlive whatever the others can break.
    ("parent", &["start_code"]),
    (
        "pods",
        &[
            "dns::Names",
            "drain",
            "identity",
            "istio_cni",
            "mesh",
            "parent::keeper",
            "proxy",
            "redirect",
            "shards",
            "telemetry",
        ],
    ),
    // Sockets are given to it; it does not know how they are made.
    (
        "proxy",
        &[
            "dns",
            "drain",
            "hbone",
            "identity",
            "mesh",
            "shards::vigil",
            "telemetry",
            "tls",
        ],
    ),
    // The kernel's side knows no mesh.
    ("redirect", &[]),
    ("shards", &[]),
    ("start_code", &[]),
    (
        "status",
        &[
            "admin::Readiness",
            "identity",
            "kubernetes::Kubernetes",
            "mesh",
            "pods",
            "proxy",
            "xds",
        ],
    ),
    // It is told what happens; it does not know how connections are made.
    (
        "telemetry",
        &["hbone::Baggage", "hbone::Traceparent", "identity", "mesh"],
    ),
    ("tls", &["identity"]),
    // It fills a mesh; it does not know who reads it.
    ("xds", &["istiod", "mesh", "identity", "telemetry", "tls"]),
];

/// Complains of imports through a wall, and of modules that are not in the table.
pub(super) fn complaints(file: &str, tokens: &[Token]) -> Vec<Complaint> {
    let Some(module) = module(file) else { return Vec::new() };
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(inside, _)| *inside == module) else {
        return vec![Complaint::about(
            file,
            "a new module: say in xtask/src/check/walls.rs what it may import",
        )];
    };
    let is_module = |name: &str| MAY_IMPORT.iter().any(|(other, _)| *other == name);
    let is_through = |import: &&Import<'_>| {
        let item = import.item.map(|item| format!("{}::{}", import.module.text, item.text));
        let names = [Some(import.module.text.as_str()), item.as_deref()];
        is_module(&import.module.text)
            && import.module.text != module
            && !names.into_iter().flatten().any(|name| allowed.contains(&name))
    };
    let complain = |import: &Import<'_>| {
        let text = format!(
            "{module} must not import {}; see xtask/src/check/walls.rs",
            import.module.text
        );
        Complaint::at(file, import.module.line, text)
    };
    imports(tokens).iter().filter(is_through).map(complain).collect()
}

/// The agent's module a file belongs to; none for the files that only hold the modules together.
fn module(file: &str) -> Option<&str> {
    let module = file.strip_prefix("agent/src/")?.split(['/', '.']).next()?;
    (!["lib", "main"].contains(&module)).then_some(module)
}

/// A path of this crate: `crate::module::item`. The item is absent in `crate::module` and `crate::module::{...}`.
struct Import<'a> {
    module: &'a Token,
    item: Option<&'a Token>,
}

/// Every path that begins with `crate::`, also those in `crate::{a, b::c}`.
fn imports(tokens: &[Token]) -> Vec<Import<'_>> {
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let after = tokens.get(at + 1..).unwrap_or_default();
        if token.text != "crate" {
            continue;
        }
        match after_colons(after) {
            Some([open, group @ ..]) if open.text == "{" => found.extend(in_group(group)),
            Some(path) => found.extend(import(path)),
            None => {}
        }
    }
    found
}

/// The paths of a brace group, up to its closing brace.
fn in_group(tokens: &[Token]) -> Vec<Import<'_>> {
    let mut found = Vec::new();
    let (mut depth, mut is_first) = (1, true);
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => is_first = true,
            _ if depth == 1 && is_first => {
                found.extend(tokens.get(at..).and_then(import));
                is_first = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn import(path: &[Token]) -> Option<Import<'_>> {
    let (module, after) = path.split_first()?;
    let item = after_colons(after)
        .and_then(<[Token]>::first)
        .filter(|item| item.text != "{");
    Some(Import { module, item })
}

/// What follows `::`.
fn after_colons(tokens: &[Token]) -> Option<&[Token]> {
    match tokens {
        [one, two, rest @ ..] if one.text == ":" && two.text == ":" => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::source::tokens, complaints, imports};

    #[test]
    fn imports_are_read_from_every_form() {
        let source = tokens(
            "use crate::{mesh::{route, policy}, tls, hbone::Tunnel as T};\nuse crate::drain::Drain;\n\
             let x = crate::pods::f();\npub(crate) fn g() {}",
        );
        let name = |import: &super::Import<'_>| {
            let item = import.item.map(|item| format!("::{}", item.text)).unwrap_or_default();
            format!("{}{item}", import.module.text)
        };
        let found: Vec<_> = imports(&source).iter().map(name).collect();
        assert_eq!(found, ["mesh", "tls", "hbone::Tunnel", "drain::Drain", "pods::f"]);
    }

    #[test]
    fn an_import_through_a_wall_is_found() {
        let source = tokens("use crate::{\n    identity::SpiffeId,\n    proxy::Pool,\n};");
        let found = complaints("agent/src/mesh/route.rs", &source);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "agent/src/mesh/route.rs:3");
        assert_eq!(complaints("agent/src/mesh.rs", &source).len(), 1);
        assert_eq!(complaints("agent/src/redirect/plan.rs", &source).len(), 2);
    }

    #[test]
    fn an_import_downwards_is_fine() {
        let source = tokens("use crate::mesh::Snapshot;");
        assert_eq!(complaints("agent/src/proxy/outbound.rs", &source), []);
        assert_eq!(complaints("agent/src/app.rs", &source), []);
        assert_eq!(complaints("agent/src/main.rs", &source), []);
        assert_eq!(complaints("tests/src/lab.rs", &source), []);
        assert_eq!(complaints("agent/src/extra.rs", &source).len(), 1);
    }

    #[test]
    fn one_item_may_be_open_and_the_rest_closed() {
        assert_eq!(
            complaints("agent/src/pods.rs", &tokens("use crate::parent::keeper::Keeper;")),
            []
        );
        assert_eq!(
            complaints("agent/src/pods.rs", &tokens("use crate::parent::run;")).len(),
            1
        );
        assert_eq!(complaints("agent/src/pods.rs", &tokens("use crate::parent;")).len(), 1);
    }
}
