//! Turns proto/ into Rust, without a protoc.

use std::error::Error;

const PROTOS: [&str; 4] = [
    "proto/ads.proto",
    "proto/workload.proto",
    "proto/authorization.proto",
    "proto/ca.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(cfg!(feature = "server"))
        // Kept as slices of what came from the network.
        .bytes(".google.protobuf.Any.value")
        // In the order of their keys, so that the same message is the same bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
