//! The `isthmus` binary: nothing to run yet.

fn main() {}
