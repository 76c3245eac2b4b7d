//! Commands that documents tell people to type.

use super::Complaint;

const COMMAND: &str = "cargo xtask ";

/// Complains of `cargo xtask VERB` in a document where no such verb exists. Capital letters stand for any verb.
pub(super) fn complaints(file: &str, text: &str, known: &[String]) -> Vec<Complaint> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices(COMMAND) {
            let after = line.get(at + COMMAND.len()..).unwrap_or_default();
            let end = after
                .find(|c: char| !c.is_ascii_lowercase() && c != '-')
                .unwrap_or(after.len());
            let verb = after.get(..end).unwrap_or_default();
            if !verb.is_empty() && !verb.starts_with('-') && verb != "help" && !known.iter().any(|name| name == verb) {
                found.push(Complaint::at(
                    file,
                    number + 1,
                    format!("there is no `cargo xtask {verb}`"),
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn unknown_verbs_are_found() {
        let known = ["test".to_owned()];
        let found = complaints(
            "README.md",
            "one\n`cargo xtask test` and `cargo xtask tests --now`\n",
            &known,
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "README.md:2: there is no `cargo xtask tests`");
        assert_eq!(
            complaints(
                "README.md",
                "`cargo xtask VERB`, `cargo xtask --help`, cargo xtask",
                &known
            ),
            []
        );
    }
}
