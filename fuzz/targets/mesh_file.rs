//! A mesh file as an operator, or an editor that was interrupted, may leave it.

#![no_main]

use std::path::Path;

use isthmus::mesh::file::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse(text, Path::new("mesh.yaml")) {
        Ok(snapshot) => {
            let [workloads, services, policies] = snapshot.sizes();
            assert!(
                workloads + services + policies <= text.len(),
                "more came out than was written"
            );
        }
        Err(error) => assert!(
            error.to_string().contains("mesh.yaml"),
            "an error does not name its file: {error}"
        ),
    }
});
