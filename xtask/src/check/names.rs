//! Names that say nothing about what is inside.

use std::path::Path;

use super::{Complaint, source::Token};

const EMPTY_FILES: [&str; 6] = ["utils", "util", "common", "helpers", "types", "misc"];
const EMPTY_ENDINGS: [&str; 3] = ["Manager", "Handler", "Processor"];

/// Complains of files and types with empty names.
pub(super) fn complaints(file: &str, tokens: &[Token]) -> Vec<Complaint> {
    let parts = Path::new(file).with_extension("");
    let mut found: Vec<_> = parts
        .iter()
        .filter(|part| EMPTY_FILES.iter().any(|name| part == name))
        .map(|part| Complaint::about(file, format!("`{}` says nothing; name the noun inside", part.display())))
        .collect();
    for (keyword, name) in tokens.iter().zip(tokens.iter().skip(1)) {
        let names_type = ["struct", "enum", "trait", "type"].contains(&keyword.text.as_str());
        if names_type && EMPTY_ENDINGS.iter().any(|ending| name.text.ends_with(ending)) {
            found.push(Complaint::at(
                file,
                name.line,
                format!("`{}`: say what it is (pool, table, plan)", name.text),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{super::source::tokens, complaints};

    #[test]
    fn empty_names_are_found() {
        assert_eq!(complaints("agent/src/utils.rs", &[]).len(), 1);
        assert_eq!(complaints("agent/src/common/pool.rs", &[]).len(), 1);
        assert_eq!(
            complaints("a.rs", &tokens("struct PoolManager;\nenum Handler {}")).len(),
            2
        );
    }

    #[test]
    fn full_names_are_not() {
        assert_eq!(
            complaints("agent/src/utilisation.rs", &tokens("struct Pool; fn f(h: Handler) {}")),
            []
        );
    }
}
