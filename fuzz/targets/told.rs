//! A resource as istiod, or whoever speaks in its place, may send it.

#![no_main]

use isthmus::mesh::{Mesh, Snapshot};
use isthmus::xds::{
    Held, Kind,
    decode::{self, Entry},
};
use isthmus_istio::discovery::Resource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| {
    let (is_policy, bytes) = input;
    let (kind, read) = if is_policy {
        (
            Kind::Authorization,
            decode::authorization(bytes).map(|policy| policy.key().to_string()),
        )
    } else {
        let read = decode::address(bytes).map(|entry| match entry {
            Entry::Workload(draft) => draft.uid.to_string(),
            Entry::Service(service) => service.key.to_string(),
        });
        (Kind::Address, read)
    };
    let any = prost_types::Any {
        type_url: kind.url().to_owned(),
        value: bytes.to_vec(),
    };
    let resource = Resource {
        name: read.clone().unwrap_or_else(|_| "demo/name".to_owned()),
        version: "1".to_owned(),
        resource: Some(any),
        aliases: Vec::new(),
    };
    let (publisher, mesh) = Mesh::new(Snapshot::empty());
    let mut held = Held::new(publisher);
    // Whole from the beginning, so that every change is published.
    held.release();
    let taken = held.upsert(kind, resource.clone());
    assert_eq!(taken.is_ok(), read.is_ok(), "{taken:?}, but {read:?}");
    if let Err(rejected) = taken {
        assert!(!rejected.reason.is_empty() && rejected.name == "demo/name");
        held.finish(kind);
        return;
    }
    held.finish(kind);
    assert_eq!(mesh.current().sizes().iter().sum::<usize>(), 1);
    // What was taken can be resumed with and removed by its name.
    assert_eq!(
        held.open_stream(kind, usize::MAX),
        [(resource.name.clone(), "1".to_owned())]
    );
    held.remove(kind, &resource.name);
    held.finish(kind);
    assert_eq!(mesh.current().sizes(), [0; 3]);
});
