//! The status as people and programs read it.

mod capture;
mod control_plane;

use std::path::PathBuf;

use isthmus_wire::{CniStatus, Direction, KubernetesStatus, MtlsBecause, PodStatus, Status};
use serde::Serialize;

use super::{
    problems::{Problem, problems},
    table::{Table, printable},
};

/// The status and its problems as JSON: on one line, or on many for people.
///
/// # Errors
/// Never, as far as is known: every key is text.
pub fn json(status: &Status, on_one_line: bool) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        problems: Vec<Problem>,
        #[serde(flatten)]
        status: &'a Status,
    }
    let report = Report {
        problems: problems(status),
        status,
    };
    let text = if on_one_line {
        serde_json::to_string(&report)?
    } else {
        serde_json::to_string_pretty(&report)?
    };
    Ok(text + "\n")
}

/// The status as tables, problems first.
pub fn text(status: &Status) -> String {
    let mut out = String::new();
    let problems = problems(status);
    if !problems.is_empty() {
        out += "PROBLEMS\n";
        for Problem { what, advice } in &problems {
            line(&mut out, &format!("- {}", printable(what)));
            line(&mut out, &format!("    {}", printable(advice)));
        }
        out += "\n";
    }
    head(&mut out, status);
    pods(&mut out, status);
    control_plane::certificates(&mut out, status);
    control_plane::gateways(&mut out, status);
    tunnels(&mut out, status);
    verdicts(&mut out, status);
    failures(&mut out, status);
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn head(out: &mut String, status: &Status) {
    let network = if status.network.is_empty() {
        "no network"
    } else {
        &status.network
    };
    let ended = status
        .worker_ended
        .as_ref()
        .map_or_else(String::new, |end| format!(" (last: {}, {})", end.time, end.how));
    let ready = if status.pending.is_empty() {
        "yes".to_owned()
    } else {
        format!("no, waiting for: {}", status.pending.join(", "))
    };
    let [workloads, services, policies] = status.mesh_size;
    let taken = status.mesh_age_seconds.map_or_else(
        || "none taken yet".to_owned(),
        |taken| {
            format!(
                "{workloads} workloads, {services} services, {policies} policies, taken {} ago",
                age(taken)
            )
        },
    );
    let (used, limit) = (status.descriptors.used, status.descriptors.limit);
    let rows = [
        ("NODE", format!("{} on {network}", printable(&status.node))),
        (
            "AGENT",
            format!(
                "isthmus {}, worker {} up {}, {}{ended}",
                status.version,
                status.worker_pid,
                age(status.uptime_seconds),
                match status.worker_restarts {
                    0 => "never started again".to_owned(),
                    count => format!("started again {}", times(count)),
                }
            ),
        ),
        ("READY", ready),
        ("MESH", format!("{}: {taken}", printable(&status.mesh))),
        (
            "ISTIOD",
            status.istiod.as_ref().map_or_else(String::new, control_plane::istiod),
        ),
        ("KUBE", status.kubernetes.as_ref().map_or_else(String::new, kubernetes)),
        ("CNI", status.cni.as_ref().map_or_else(String::new, cni)),
        (
            "LOAD",
            format!(
                "{} connections, {} tunnels, {used} of {limit} descriptors, {} of memory",
                status.connections,
                status.tunnels,
                bytes(status.resident_bytes)
            ),
        ),
    ];
    for (key, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        line(out, &format!("{key:<6} {value}"));
    }
}

/// The way to Kubernetes' API server in one line.
fn kubernetes(kubernetes: &KubernetesStatus) -> String {
    let state = match (kubernetes.out_of_sync_seconds, kubernetes.listed) {
        (Some(since), _) => format!("not followed for {}", age(since)),
        (None, false) => "not listed yet".to_owned(),
        (None, true) => "followed".to_owned(),
    };
    let address = printable(&kubernetes.address);
    let error = kubernetes
        .last_error
        .as_ref()
        .map_or_else(String::new, |error| format!(", last error: {}", printable(error)));
    format!("{address} {state}, {} pods of this node{error}", kubernetes.pods)
}

/// Where the CNI plugin stands, in one line.
fn cni(cni: &CniStatus) -> String {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| printable(&path.display().to_string()));
    let configuration = path(&cni.configuration).unwrap_or_else(|| "not configured".to_owned());
    let primary = cni.primary.as_deref().map(printable);
    let made = primary.map_or_else(String::new, |primary| format!(", made from {primary}"));
    let platform = cni
        .platform
        .as_deref()
        .map_or_else(String::new, |name| format!(" ({name})"));
    format!("{}: {configuration}{made}{platform}", cni.mode)
}

fn pods(out: &mut String, status: &Status) {
    out.push('\n');
    if status.pods.is_empty() {
        return line(out, "no pods are enrolled");
    }
    let mut table = Table::new([
        "POD",
        "STATE",
        "PLAINTEXT",
        "CERTIFICATE",
        "#CONN-IN",
        "#CONN-OUT",
        "#TUN-IN",
        "#TUN-OUT",
        "IDENTITY",
        "ADDRESSES",
    ]);
    let mut pods: Vec<&PodStatus> = status.pods.values().collect();
    pods.sort_by_key(|pod| (&pod.namespace, &pod.name));
    for pod in &pods {
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        table.row([
            format!("{}/{}", pod.namespace, pod.name),
            pod.state.clone(),
            plaintext(pod).to_owned(),
            certificate(pod),
            pod.connections_in.to_string(),
            pod.connections_out.to_string(),
            pod.tunnels_in.to_string(),
            pod.tunnels_out.to_string(),
            pod.identity.clone().unwrap_or_else(|| "not in the mesh".to_owned()),
            addresses.join(","),
        ]);
    }
    out.push_str(&table.to_string());
    capture::outside(out, &pods);
}

fn plaintext(pod: &PodStatus) -> &'static str {
    match (pod.mtls_required, pod.mtls_because) {
        _ if pod.capture.leaves_all_inbound() => "not captured",
        (false, _) => "admitted",
        (true, MtlsBecause::Enrolment) => "refused",
        (true, MtlsBecause::Policies) => "refused:policies",
        (true, MtlsBecause::UnknownToMesh) => "refused:unknown",
    }
}

fn certificate(pod: &PodStatus) -> String {
    let held = pod.certificate.as_ref();
    held.map_or_else(|| "not asked for".to_owned(), control_plane::state)
}

fn tunnels(out: &mut String, status: &Status) {
    out.push('\n');
    if status.open_tunnels.is_empty() {
        return line(out, "no tunnels are open");
    }
    let mut table = Table::new(["TUNNEL OF", "DIRECTION", "PEER", "#STREAMS", "#AGE", "PEER IDENTITY"]);
    for tunnel in &status.open_tunnels {
        table.row([
            tunnel.pod.clone(),
            direction(tunnel.direction).to_owned(),
            tunnel.peer.to_string(),
            tunnel.streams.to_string(),
            age(tunnel.age_seconds),
            tunnel.peer_identity.clone(),
        ]);
    }
    out.push_str(&table.to_string());
    if status.tunnels_not_listed > 0 {
        let more = status.tunnels_not_listed;
        line(
            out,
            &format!("and {more} more, among them those still in their handshake"),
        );
    }
}

fn verdicts(out: &mut String, status: &Status) {
    out.push('\n');
    if status.verdicts.is_empty() {
        return line(out, "the eBPF programs have decided nothing yet");
    }
    let mut table = Table::new(["VERDICT", "#COUNT"]);
    for (name, count) in &status.verdicts {
        table.row([name.clone(), count.to_string()]);
    }
    out.push_str(&table.to_string());
}

fn failures(out: &mut String, status: &Status) {
    out.push('\n');
    if status.failures.is_empty() {
        return line(out, "no connection has failed");
    }
    let mut table = Table::new(["FAILED AT", "POD", "DIRECTION", "FROM", "TO", "CODE", "REASON"]);
    for failure in status.failures.iter().rev() {
        table.row([
            failure.time.clone(),
            failure.pod.clone(),
            direction(failure.direction).to_owned(),
            failure.source.clone(),
            failure.destination.clone(),
            failure.code.clone(),
            failure.reason.clone(),
        ]);
    }
    out.push_str(&table.to_string());
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    }
}

/// Seconds in the two largest units that fit: `45s`, `3m10s`, `2h05m`, `4d03h`.
pub(super) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// `once`, `2 times`.
pub(super) fn times(count: u64) -> String {
    if count == 1 {
        "once".to_owned()
    } else {
        format!("{count} times")
    }
}

fn bytes(count: u64) -> String {
    let tenths = count.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests;
