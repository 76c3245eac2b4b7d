//! What a client asks of an east-west gateway, and where the gateway would connect to.

#![no_main]

use std::{path::Path, sync::LazyLock};

use isthmus::mesh::{Authority, HBONE_PORT, Snapshot, file::parse, gateway::endpoints};
use libfuzzer_sys::fuzz_target;

const MESH: &str = include_str!("../seeds/mesh_file/two-networks.yaml");

fuzz_target!(|text: &str| {
    static SNAPSHOT: LazyLock<Snapshot> =
        LazyLock::new(|| parse(MESH, Path::new("two-networks.yaml")).expect("the seed is a mesh file"));
    let Ok(authority) = text.parse::<Authority>() else {
        return;
    };
    assert_eq!(
        authority.to_string().parse(),
        Ok(authority.clone()),
        "written and read again"
    );
    if let Ok(found) = endpoints(&SNAPSHOT, "network1", &authority, text.len() as u64) {
        assert!(!found.is_empty());
        for endpoint in found {
            assert_eq!(endpoint.port(), HBONE_PORT);
            let known = SNAPSHOT
                .workload_at("network1", endpoint.ip())
                .expect("an endpoint of its own network");
            assert_eq!(&*known.network, "network1");
        }
    }
});
