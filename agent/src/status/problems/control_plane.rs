//! What may be wrong with istiod, its CA and the gateways of other networks.

use isthmus_wire::{CertificateStatus, IstiodState, IstiodStatus, Status};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Problem, age, problem};

/// A stream ends every half hour and is opened again at once; what takes longer than this is no mere change of streams.
const OUT_OF_SYNC_IS_NEWS_SECONDS: u64 = 30;
/// Share of a certificate's life below which it is grave that it cannot be renewed, in percent.
const LATE_PERCENT: i128 = 25;

pub(super) fn istiod(istiod: &IstiodStatus, status: &Status) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(out_of_sync(istiod, status));
    let kept = "what was known of them before stays, all others were taken";
    let stricter = "what was known of them before stays, a stricter one stands in for one that is new";
    for (what, received, holds) in [
        ("workloads and services", &istiod.addresses, kept),
        ("policies", &istiod.authorizations, stricter),
    ] {
        if let Some(last) = received.rejected.last() {
            let count = received.rejected.len();
            found.push(problem(
                format!(
                    "{count} {what} of istiod were not taken, the last: {}: {}",
                    last.name, last.reason
                ),
                format!("{holds}; look at these objects, and at whether istiod is newer than this agent"),
            ));
        }
    }
    found
}

fn out_of_sync(istiod: &IstiodStatus, status: &Status) -> Option<Problem> {
    let since = istiod.out_of_sync_seconds?;
    let nothing = status.mesh_age_seconds.is_none();
    if since < OUT_OF_SYNC_IS_NEWS_SECONDS && !(nothing && istiod.last_error.is_some()) {
        return None;
    }
    let address = &istiod.address;
    let why = istiod
        .last_error
        .as_deref()
        .unwrap_or("no error was seen; it does not answer");
    let what = match istiod.state {
        IstiodState::Syncing if istiod.last_error.is_none() => {
            format!(
                "istiod at {address} was asked for the mesh and has not answered everything since {}",
                age(since)
            )
        }
        _ => format!("istiod at {address} has not been reached for {}: {why}", age(since)),
    };
    let serving = match (istiod.addresses.age_seconds, istiod.stored_mesh_age_seconds) {
        (Some(last), _) => format!("what it told last, {} ago, serves on", age(last)),
        (None, Some(stored)) => format!("what an earlier agent stored {} ago serves", age(stored)),
        (None, None) if nothing => "nothing is known of the mesh, and pods' connections are refused".to_owned(),
        (None, None) => "what is known of the mesh serves on".to_owned(),
    };
    Some(problem(
        what,
        format!("{serving}; docs/istiod.md tells what to look at for each error"),
    ))
}

/// What is wrong with a certificate, if anything is; `whose` as in \`pod demo/client\`.
pub(super) fn certificate(whose: &str, held: &CertificateStatus) -> Option<Problem> {
    let why = held.failure.as_deref().unwrap_or("it was not renewed in time");
    let is_over = held.remaining_seconds.is_some_and(|left| left < 0);
    if is_over {
        let ended = age(held.remaining_seconds.unwrap_or_default().unsigned_abs());
        return Some(problem(
            format!("the certificate of {whose} expired {ended} ago: {why}"),
            "its tunnels fail; look at the CA and at this node's clock",
        ));
    }
    let failure = held.failure.as_ref()?;
    let Some(left) = held.remaining_seconds else {
        return Some(problem(
            format!("no new certificate for {whose}: {failure}"),
            "its tunnels fail; look at the CA",
        ));
    };
    let good = age(left.unsigned_abs());
    if is_late(held, left) {
        return Some(problem(
            format!("the certificate of {whose} ends in {good} and cannot be renewed: {failure}"),
            "less than a quarter of its life is left; when it ends its tunnels fail. Look at the CA",
        ));
    }
    Some(problem(
        format!("no new certificate for {whose}: {failure}"),
        format!("look at the CA; the one it has is good for {good}"),
    ))
}

/// Is less than a quarter of its life left?
fn is_late(held: &CertificateStatus, remaining_seconds: i64) -> bool {
    let moment = |text: &Option<String>| OffsetDateTime::parse(text.as_deref()?, &Rfc3339).ok();
    let (Some(first), Some(last)) = (moment(&held.not_before), moment(&held.not_after)) else {
        return false;
    };
    let life = i128::from((last - first).whole_seconds());
    i128::from(remaining_seconds) * 100 < life * LATE_PERCENT
}

/// A gateway has no pods; its own certificate is judged as theirs are.
pub(super) fn certificates_of_no_pod(status: &Status) -> impl Iterator<Item = Problem> {
    let of_pod = |identity: &str| {
        status
            .pods
            .values()
            .any(|pod| pod.identity.as_deref() == Some(identity))
    };
    let others = status.certificates.iter().filter(move |held| !of_pod(&held.identity));
    others.filter_map(|held| certificate(&held.identity, &held.certificate))
}

/// Networks which cannot be entered, as far as was seen lately.
pub(super) fn gateways(status: &Status) -> Vec<Problem> {
    let elsewhere = status
        .gateways
        .iter()
        .filter(|gateway| gateway.network != status.network);
    let silent = elsewhere.filter(|gateway| !gateway.unreachable.is_empty());
    silent
        .map(|gateway| {
            problem(
                format!("the gateway {} of network {} did not answer lately", gateway.gateway, gateway.network),
                "connections go through other gateways of that network where there are any; look at it, and at what filters \
                 between the networks",
            )
        })
        .collect()
}
