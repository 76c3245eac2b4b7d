//! Where `unsafe` may stand, beyond the compiler's lint: a new place is a decision, made here with its reason.

use super::{Complaint, source::Token};

/// Prefixes of paths, and why the kernel or a C library must be called directly there.
const PLACES: [(&str, &str); 7] = [
    (
        "ebpf/",
        "programs read kernel memory and call helpers; map keys and values are plain bytes for aya",
    ),
    (
        "agent/src/redirect",
        "socket options, map entries by file descriptor and raw netlink that no safe crate has",
    ),
    (
        "agent/src/pods",
        "entering a network namespace and socket options set inside it",
    ),
    (
        "agent/src/parent",
        "sockets taken over from the parent process by number",
    ),
    ("agent/src/start_code.rs", "madvise(2) on the program's own code"),
    (
        "tests/src/",
        "the lab makes namespaces, packet sockets and odd socket options",
    ),
    (
        "tests/tests/",
        "leaks are tried with socket options that no safe crate offers",
    ),
];

/// Complains of `unsafe` outside [`PLACES`].
pub(super) fn complaints(file: &str, tokens: &[Token]) -> Vec<Complaint> {
    if PLACES.iter().any(|(place, _)| file.starts_with(place)) {
        return Vec::new();
    }
    let complain = |token: &Token| {
        Complaint::at(
            file,
            token.line,
            "`unsafe` has no place here; see PLACES in xtask/src/check/unsafety.rs",
        )
    };
    tokens
        .iter()
        .filter(|token| token.text == "unsafe")
        .map(complain)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::source::tokens, complaints};

    #[test]
    fn unsafe_is_found_outside_its_places() {
        let source = tokens("// unsafe\n#![deny(unsafe_code)]\nfn f() { unsafe { g() } }");
        let found = complaints("agent/src/proxy.rs", &source);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].place, "agent/src/proxy.rs:3");
        assert_eq!(complaints("agent/src/redirect/marks.rs", &source), []);
        assert_eq!(complaints("agent/src/proxy.rs", &tokens("fn f() { g() }")), []);
    }
}
