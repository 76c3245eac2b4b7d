//! Which build this is.

use serde::Serialize;

/// The keys that ztunnel has, where we know the answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version<'a> {
    name: &'static str,
    version: &'static str,
    git_revision: &'static str,
    rust_version: &'static str,
    build_profile: &'static str,
    build_status: &'static str,
    istio_version: &'a str,
    crypto_provider: &'static str,
}

const UNKNOWN: &str = "unknown";

impl<'a> Version<'a> {
    pub(super) fn of(istio_version: &'a str) -> Self {
        Self {
            name: "isthmus",
            version: env!("CARGO_PKG_VERSION"),
            git_revision: UNKNOWN,
            rust_version: env!("ISTHMUS_RUSTC_VERSION"),
            build_profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            build_status: UNKNOWN,
            istio_version: if istio_version.is_empty() {
                UNKNOWN
            } else {
                istio_version
            },
            crypto_provider: "aws-lc-rs",
        }
    }
}
