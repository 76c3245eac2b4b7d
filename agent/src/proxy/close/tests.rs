use std::{collections::HashSet, fs, net::SocketAddr, time::Duration};

use http::StatusCode;

use super::*;
use crate::telemetry::ResponseFlag;

fn peer() -> SocketAddr {
    "10.0.0.1:15008".parse().unwrap()
}

fn connect(to: SocketAddr, errno: Errno) -> DialError {
    DialError::Connect {
        to,
        cause: io::Error::from_raw_os_error(errno as i32),
    }
}

#[test]
fn it_reads_as_one_short_line() {
    assert_eq!(
        CloseReason::finished(Who::Server).to_string(),
        "finished server relay: finished"
    );
    let denied =
        CloseReason::new(CloseCode::PolicyDenied, "denied by policy demo/deny").named(Some("demo/deny".into()));
    assert_eq!(
        denied.to_string(),
        "policy-denied agent authorize: denied by policy demo/deny"
    );
    assert!(denied.failed() && !CloseReason::finished(Who::Client).failed());
}

#[test]
fn names_are_kebab_case_and_each_is_there_once() {
    let mut seen = HashSet::new();
    for code in CloseCode::ALL {
        let name = code.name();
        assert!(seen.insert(name), "{name} twice");
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'-' || byte == b'2'),
            "{name}"
        );
    }
}

#[test]
fn a_port_15008_nobody_answers_on_points_at_network_policies() {
    let silent = |to| {
        let within = Duration::from_secs(10);
        CloseReason::of_dial(&DialError::ConnectTimeout { to, within }, Who::Peer)
    };
    let reason = silent(peer());
    assert_eq!(reason.code, CloseCode::HboneTimeout);
    assert_eq!(reason.code.flag(), ResponseFlag::NetworkPolicy);
    assert!(reason.code.hint().contains("NetworkPolicy") && reason.code.hint().contains("15008"));
    assert_eq!(reason.cause.unwrap().to_string(), "ETIMEDOUT");
    assert_eq!(silent("10.0.0.1:80".parse().unwrap()).code, CloseCode::ConnectTimeout);

    let refused = CloseReason::of_dial(&connect(peer(), Errno::ECONNREFUSED), Who::Peer);
    assert_eq!((refused.code, refused.who), (CloseCode::HboneRefused, Who::Peer));
    assert!(refused.code.hint().contains("NetworkPolicy"));
    // An application may listen on that port of another host as well.
    let plain = CloseReason::of_dial(&connect(peer(), Errno::ECONNREFUSED), Who::Server);
    assert_eq!((plain.code, plain.who), (CloseCode::ConnectRefused, Who::Server));
    let other = CloseReason::of_dial(&connect(peer(), Errno::EHOSTUNREACH), Who::Server);
    assert_eq!(
        (other.code, other.cause.unwrap().to_string()),
        (CloseCode::ConnectFailed, "EHOSTUNREACH".to_owned())
    );
}

#[test]
fn a_peers_answer_keeps_its_status() {
    let answer = |status| {
        let cause = OpenError::Refused {
            status: StatusCode::from_u16(status).unwrap(),
        };
        CloseReason::of_dial(&DialError::Open { peer: peer(), cause }, Who::Peer)
    };
    let denied = answer(401);
    assert_eq!(
        (denied.code, denied.phase, denied.cause),
        (CloseCode::PeerDenied, Phase::Authorize, Some(Cause::Status(401)))
    );
    assert_eq!(denied.code.flag(), ResponseFlag::Deny);
    assert_eq!(answer(503).code, CloseCode::PeerRefused);
    assert_eq!(answer(503).code.flag(), ResponseFlag::Connect);
}

#[test]
fn a_failed_handshake_says_which_side_of_trust_is_wrong() {
    let code = |failure: TlsFailure| CloseReason::of_handshake(&failure.into(), String::new()).code;
    let reason = || "test".to_owned();
    for (failure, expected) in [
        (TlsFailure::PeerExpired { seconds: None }, CloseCode::TlsExpired),
        (TlsFailure::PeerMissing, CloseCode::TlsUntrusted),
        (
            TlsFailure::PeerWrongIdentity { reason: reason() },
            CloseCode::TlsWrongIdentity,
        ),
        (TlsFailure::Refused { reason: reason() }, CloseCode::TlsRefused),
        (TlsFailure::Other { reason: reason() }, CloseCode::TlsFailed),
    ] {
        let got = code(failure);
        assert_eq!(got, expected);
        assert_eq!(got.flag(), ResponseFlag::TlsFailure);
    }
    let http2 = HandshakeError::Http2(h2::Reason::PROTOCOL_ERROR.into());
    assert_eq!(
        CloseReason::of_handshake(&http2, String::new()).code.flag(),
        ResponseFlag::H2HandshakeFailure
    );
}

#[test]
fn who_broke_a_relay_is_told_apart() {
    let broken = |side, error| CloseReason::of_relay(&Ended::Broken { side, error }, Who::Client, Who::Server);
    let reset = broken(
        Side::Near,
        LegError::Tcp(io::Error::from_raw_os_error(Errno::ECONNRESET as i32)),
    );
    assert_eq!((reset.code, reset.who), (CloseCode::Reset, Who::Client));
    assert_eq!(reset.cause.unwrap().to_string(), "ECONNRESET");
    let lost = broken(
        Side::Near,
        LegError::Tcp(io::Error::from_raw_os_error(Errno::ETIMEDOUT as i32)),
    );
    assert_eq!(lost.code, CloseCode::ApplicationLost);
    let stream = |reason| broken(Side::Far, LegError::Stream(StreamError::Reset(reason)));
    assert_eq!(stream(APPLICATION_BROKE).who, Who::Server);
    assert_eq!(stream(h2::Reason::CANCEL).who, Who::Peer);
}

#[test]
fn the_page_has_exactly_these_codes() {
    let table: String = CloseCode::ALL
        .iter()
        .map(|code| {
            let hint = if code.hint().is_empty() { "–" } else { code.hint() };
            let by = code.who().word();
            let phase = code.phase().word();
            let flag = code.flag().text();
            format!(
                "| `{}` | {by} | {phase} | `{flag}` | {} | {hint} |\n",
                code.name(),
                code.meaning()
            )
        })
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/access-log.md");
    let page = fs::read_to_string(path).unwrap();
    let rows: String = page
        .lines()
        .skip_while(|line| !line.starts_with("| code |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert!(rows == table, "docs/access-log.md must hold this table:\n{table}");
}
