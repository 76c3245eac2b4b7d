//! What came from istiod and its CA: the way to it, certificates, gateways of other networks.

use isthmus_wire::{
    CertificateStatus, IstiodState, IstiodStatus, NetworkGateway, OnDemandStatus, ReceivedStatus, Status,
};

use super::{
    super::table::{Table, printable},
    age, times,
};

/// The way to istiod in one line.
pub(super) fn istiod(istiod: &IstiodStatus) -> String {
    let since = age(istiod.since_seconds);
    let state = match istiod.state {
        IstiodState::Connecting => format!("connecting for {since}"),
        IstiodState::Syncing => format!("connected, waiting for answers for {since}"),
        IstiodState::Synced => format!("in sync for {since}"),
        IstiodState::Waiting => format!(
            "not connected, tried again in {}",
            age(istiod.retry_seconds.unwrap_or_default())
        ),
    };
    let mut parts = vec![format!("{} {state}", printable(&istiod.address))];
    if let Some(connected) = istiod.connected_seconds {
        parts.push(format!("stream open for {}", age(connected)));
    }
    if istiod.reconnects > 0 {
        parts.push(format!("asked anew {}", times(istiod.reconnects)));
    }
    if let Some(OnDemandStatus { names, absent, waiting }) = istiod.on_demand {
        let waiting = match waiting {
            0 => String::new(),
            count => format!(", {count} connections wait"),
        };
        parts.push(format!(
            "on demand: {names} names in use, {absent} of them unknown to it{waiting}"
        ));
    }
    parts.push(received("workloads and services", &istiod.addresses));
    parts.push(received("policies", &istiod.authorizations));
    if let Some(stored) = istiod.stored_mesh_age_seconds {
        parts.push(format!("began with what was stored {} ago", age(stored)));
    }
    if let Some(error) = &istiod.last_error {
        parts.push(format!("last error: {}", printable(error)));
    }
    parts.join(", ")
}

fn received(what: &str, received: &ReceivedStatus) -> String {
    let rejected = match received.rejected.len() {
        0 => String::new(),
        count => format!(", {count} resources not taken"),
    };
    match received.age_seconds {
        None => format!("no answer about {what} yet"),
        Some(at) => {
            let plural = if received.responses == 1 { "" } else { "s" };
            format!(
                "{what} {} ago ({} response{plural}{rejected})",
                age(at),
                received.responses
            )
        }
    }
}

pub(super) fn certificates(out: &mut String, status: &Status) {
    if status.certificates.is_empty() {
        return;
    }
    out.push('\n');
    let mut table = Table::new([
        "CERTIFICATE OF",
        "STATE",
        "VALID FROM",
        "VALID TO",
        "NEXT ASKED FOR",
        "LAST FAILURE",
    ]);
    for held in &status.certificates {
        let told = &held.certificate;
        let text = |moment: &Option<String>| moment.clone().unwrap_or_default();
        table.row([
            held.identity.clone(),
            state(told),
            text(&told.not_before),
            text(&told.not_after),
            told.next_attempt
                .clone()
                .unwrap_or_else(|| "being asked for".to_owned()),
            text(&told.failure),
        ]);
    }
    out.push_str(&table.to_string());
}

/// How long it is good.
pub(super) fn state(certificate: &CertificateStatus) -> String {
    match certificate.remaining_seconds {
        Some(left) if left < 0 => format!("expired {} ago", age(left.unsigned_abs())),
        Some(left) => format!("good for {}", age(left.unsigned_abs())),
        None => "none".to_owned(),
    }
}

pub(super) fn gateways(out: &mut String, status: &Status) {
    if status.gateways.is_empty() {
        return;
    }
    out.push('\n');
    let mut table = Table::new(["GATEWAY OF", "AT", "#PORT", "STATE", "IDENTITY"]);
    for gateway in &status.gateways {
        table.row([
            gateway.network.clone(),
            gateway.gateway.clone(),
            gateway.port.map(|port| port.to_string()).unwrap_or_default(),
            reachable(gateway),
            gateway.identity.clone().unwrap_or_default(),
        ]);
    }
    out.push_str(&table.to_string());
}

fn reachable(gateway: &NetworkGateway) -> String {
    if gateway.identity.is_none() {
        return "unknown to the mesh".to_owned();
    }
    let mut state = Vec::new();
    if !gateway.named {
        state.push("announced, named by no workload");
    }
    if gateway.port == Some(0) {
        state.push("takes no tunnels");
    }
    if !gateway.healthy {
        state.push("not healthy");
    }
    if !gateway.unreachable.is_empty() {
        state.push("passed over: it did not answer lately");
    }
    if state.is_empty() {
        return "in use".to_owned();
    }
    state.join("; ")
}

#[cfg(test)]
mod tests {
    use isthmus_wire::{IdentityStatus, RejectedResource};

    use super::*;

    fn synced() -> IstiodStatus {
        IstiodStatus {
            address: "https://istiod:15012".to_owned(),
            state: IstiodState::Synced,
            since_seconds: 190,
            connected_seconds: Some(200),
            addresses: ReceivedStatus {
                age_seconds: Some(5),
                responses: 12,
                ..ReceivedStatus::default()
            },
            authorizations: ReceivedStatus {
                age_seconds: Some(180),
                responses: 1,
                ..ReceivedStatus::default()
            },
            ..IstiodStatus::default()
        }
    }

    #[test]
    fn a_way_in_sync_is_a_short_line() {
        assert_eq!(
            istiod(&synced()),
            "https://istiod:15012 in sync for 3m10s, stream open for 3m20s, workloads and services 5s ago (12 responses), \
             policies 3m00s ago (1 response)"
        );
    }

    #[test]
    fn what_is_asked_on_demand_is_counted_in_the_line() {
        let mut asking = synced();
        let mut on_demand = OnDemandStatus {
            names: 12,
            absent: 3,
            waiting: 0,
        };
        asking.on_demand = Some(on_demand);
        let line = istiod(&asking);
        assert!(
            line.contains("on demand: 12 names in use, 3 of them unknown to it, workloads"),
            "{line}"
        );
        on_demand.waiting = 2;
        asking.on_demand = Some(on_demand);
        let line = istiod(&asking);
        assert!(line.contains("unknown to it, 2 connections wait, "), "{line}");
    }

    #[test]
    fn what_is_wrong_with_the_way_is_in_its_line() {
        let mut broken = IstiodStatus {
            state: IstiodState::Waiting,
            retry_seconds: Some(7),
            connected_seconds: None,
            reconnects: 3,
            last_error: Some("connection\u{1b} refused".to_owned()),
            stored_mesh_age_seconds: Some(600),
            ..synced()
        };
        broken.addresses.rejected = vec![RejectedResource::default()];
        broken.authorizations = ReceivedStatus::default();
        let line = istiod(&broken);
        for part in [
            "not connected, tried again in 7s",
            "asked anew 3 times",
            "(12 responses, 1 resources not taken)",
            "no answer about policies yet",
            "began with what was stored 10m00s ago",
            "last error: connection\u{fffd} refused",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn certificates_and_gateways_have_a_line_each_and_no_table_where_there_are_none() {
        let mut out = String::new();
        certificates(&mut out, &Status::default());
        gateways(&mut out, &Status::default());
        assert_eq!(out, "");
        let status = Status {
            certificates: vec![IdentityStatus {
                identity: "spiffe://cluster.local/ns/demo/sa/web".to_owned(),
                certificate: CertificateStatus {
                    not_before: Some("2026-11-21T09:00:00Z".to_owned()),
                    not_after: Some("2026-11-22T09:00:00Z".to_owned()),
                    remaining_seconds: Some(80_000),
                    next_attempt: Some("2026-11-21T21:00:00Z".to_owned()),
                    ..CertificateStatus::default()
                },
            }],
            gateways: vec![
                NetworkGateway {
                    network: "net2".to_owned(),
                    gateway: "net2/10.99.0.2".to_owned(),
                    port: Some(15008),
                    named: true,
                    identity: Some("spiffe://cluster.local/ns/istio-system/sa/gateway".to_owned()),
                    healthy: true,
                    unreachable: Vec::new(),
                },
                NetworkGateway {
                    network: "net3".to_owned(),
                    gateway: "net3/10.99.0.3".to_owned(),
                    named: true,
                    ..NetworkGateway::default()
                },
            ],
            ..Status::default()
        };
        certificates(&mut out, &status);
        gateways(&mut out, &status);
        let lines: Vec<String> = out
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "",
                "CERTIFICATE OF STATE VALID FROM VALID TO NEXT ASKED FOR LAST FAILURE",
                "spiffe://cluster.local/ns/demo/sa/web good for 22h13m 2026-11-21T09:00:00Z 2026-11-22T09:00:00Z \
                 2026-11-21T21:00:00Z -",
                "",
                "GATEWAY OF AT PORT STATE IDENTITY",
                "net2 net2/10.99.0.2 15008 in use spiffe://cluster.local/ns/istio-system/sa/gateway",
                "net3 net3/10.99.0.3 - unknown to the mesh -",
            ]
        );
    }
}
