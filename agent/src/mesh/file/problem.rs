//! What is wrong with a mesh file, before its place has a name.

use std::collections::HashMap;
use std::hash::Hash;

use serde_saphyr::Location;
use serde_saphyr::budget::BudgetBreach;

use super::DEEPEST_NESTING;
use super::claim::Claim;
use super::field::Extent;

/// What is wrong, and where that stands.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) location: Location,
    pub(super) extent: Extent,
    pub(super) text: String,
    /// Where that stands which it contradicts.
    pub(super) other: Option<Other>,
}

/// Where something stands that is contradicted.
#[derive(Debug)]
pub(super) enum Other {
    /// Here.
    At(Location),
    /// Where this was claimed first. Who claims it is known, but not where: places of a hundred thousand workloads are not
    /// kept for the sake of an error.
    Claim(Claim),
}

/// Something wrong with one field.
pub(super) fn fault(location: Location, text: String) -> Problem {
    Problem {
        location,
        extent: Extent::Innermost,
        text,
        other: None,
    }
}

/// Something that does not go with what stands at `other`.
pub(super) fn contradiction(location: Location, text: String, other: Location) -> Problem {
    Problem {
        other: Some(Other::At(other)),
        ..fault(location, text)
    }
}

/// A claim of what somebody else has.
pub(super) fn taken(location: Location, text: String, claim: Claim) -> Problem {
    Problem {
        other: Some(Other::Claim(claim)),
        ..fault(location, text)
    }
}

/// Notes where something that may be there once stands.
pub(super) fn claim<K: Eq + Hash>(
    seen: &mut HashMap<K, Location>,
    key: K,
    location: Location,
    text: impl FnOnce() -> String,
) -> Result<(), Problem> {
    match seen.insert(key, location) {
        None => Ok(()),
        Some(other) => Err(contradiction(location, text(), other)),
    }
}

/// What the parser says, in the words of the format.
pub(super) fn of_parser(error: &serde_saphyr::Error) -> Problem {
    use serde_saphyr::Error;
    let error = error.without_snippet();
    let location = error.location().unwrap_or(Location::UNKNOWN);
    let mut extent = Extent::Innermost;
    let text = match error {
        Error::SerdeMissingField { field, .. } => {
            extent = Extent::Whole;
            format!("the field `{field}` is missing")
        }
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("there is no field `{field}`; expected one of {}", expected.join(", "))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("{variant:?} is not known here; expected one of {}", expected.join(", "))
        }
        Error::DuplicateMappingKey { key, .. } => {
            format!("`{}` is given twice", key.as_deref().unwrap_or("a key"))
        }
        Error::MultipleDocuments { .. } => "a second YAML document begins; expected one".to_owned(),
        Error::Budget { breach, .. } => match breach {
            BudgetBreach::Depth { .. } => format!("nested deeper than {DEEPEST_NESTING} levels"),
            other => format!("larger or more entangled than a mesh file may be ({other:?})"),
        },
        Error::InvalidScalar { ty: "bool", .. } => "expected true or false".to_owned(),
        other => without_place(&other.to_string(), location),
    };
    Problem {
        location,
        extent,
        text,
        other: None,
    }
}

/// The parser's own text ends with the place, which ours begins with.
fn without_place(text: &str, location: Location) -> String {
    let place = format!(" at line {}, column {}", location.line(), location.column());
    text.strip_suffix(&place).unwrap_or(text).to_owned()
}
