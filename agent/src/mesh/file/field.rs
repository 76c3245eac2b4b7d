//! The name of the field that stands at a place of a YAML text, such as `workloads[2].services["demo/echo"]`.

use serde_saphyr::granit_parser::{Event, Parser};

/// Which of the fields that begin at one place is meant: a list entry and its first key do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The mapping as a whole.
    Whole,
    /// The innermost field.
    Innermost,
}

/// Where in the document the parser is.
enum Level {
    List { next: usize },
    Mapping { key: Option<String>, value_next: bool },
}

/// The field at a line and column, both counted from 1; the last one before it if none begins there. Empty for the
/// document as a whole.
pub(super) fn at(text: &str, line: u64, column: u64, extent: Extent) -> String {
    let wanted = (line, column);
    let mut levels: Vec<Level> = Vec::new();
    let mut found = String::new();
    for parsed in Parser::new_from_str(text) {
        let Ok((event, span)) = parsed else { break };
        let here = (number(span.start.line()), number(span.start.col()) + 1);
        if here > wanted {
            break;
        }
        match event {
            Event::SequenceStart(..) => {
                enter(&mut levels, None);
                levels.push(Level::List { next: 0 });
            }
            Event::MappingStart(..) => {
                enter(&mut levels, None);
                found = path(&levels);
                // The mapping's first key stands at the same place.
                if extent == Extent::Whole && here == wanted {
                    break;
                }
                levels.push(Level::Mapping {
                    key: None,
                    value_next: false,
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                levels.pop();
                continue;
            }
            Event::Scalar(value, ..) => enter(&mut levels, Some(&value)),
            Event::Alias(..) => enter(&mut levels, None),
            _ => continue,
        }
        found = path(match levels.last() {
            // A list that has just begun is itself what stands here.
            Some(Level::List { next: 0 }) => levels.split_last().map(|(_, outer)| outer).unwrap_or_default(),
            // In `{a: 1}` the parser places the mapping where its first key is.
            Some(Level::Mapping { .. }) if extent == Extent::Whole && here == wanted => {
                levels.split_last().map(|(_, outer)| outer).unwrap_or_default()
            }
            _ => &levels,
        });
    }
    found
}

/// A node begins: in a list it is the next entry, in a mapping a key or the value of the last key.
fn enter(levels: &mut [Level], text: Option<&str>) {
    match levels.last_mut() {
        Some(Level::List { next }) => *next += 1,
        Some(Level::Mapping { key, value_next }) => {
            if !*value_next {
                *key = Some(text.unwrap_or("?").to_owned());
            }
            *value_next = !*value_next;
        }
        None => {}
    }
}

fn path(levels: &[Level]) -> String {
    let mut path = String::new();
    for level in levels {
        match level {
            Level::List { next } => path.push_str(&format!("[{}]", next.saturating_sub(1))),
            Level::Mapping { key: Some(key), .. } if is_plain(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
            }
            Level::Mapping { key: Some(key), .. } => {
                // Long keys are cut: this is a name for an error message.
                let short: String = key.chars().take(80).collect();
                path.push_str(&format!("[{short:?}]"));
            }
            Level::Mapping { key: None, .. } => {}
        }
    }
    path
}

fn is_plain(key: &str) -> bool {
    (1..=64).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn number(position: usize) -> u64 {
    u64::try_from(position).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "workloads:
- name: a
  services:
    demo/echo:
      80: 8080
- workloadIps: [10.0.0.1, x]
  name: b
";

    #[test]
    fn fields_are_named_by_their_place() {
        let cases = [
            (1, 1, "workloads"),
            (2, 3, "workloads[0].name"),
            (2, 9, "workloads[0].name"),
            (4, 5, "workloads[0].services[\"demo/echo\"]"),
            (5, 7, "workloads[0].services[\"demo/echo\"].80"),
            (5, 11, "workloads[0].services[\"demo/echo\"].80"),
            (6, 16, "workloads[1].workloadIps"),
            (6, 17, "workloads[1].workloadIps[0]"),
            (6, 27, "workloads[1].workloadIps[1]"),
            (7, 9, "workloads[1].name"),
        ];
        for (line, column, field) in cases {
            assert_eq!(at(TEXT, line, column, Extent::Innermost), field, "{line}:{column}");
        }
    }

    #[test]
    fn an_entry_as_a_whole_is_told_from_its_first_key() {
        assert_eq!(at(TEXT, 2, 3, Extent::Whole), "workloads[0]");
        assert_eq!(at(TEXT, 6, 3, Extent::Whole), "workloads[1]");
        assert_eq!(at(TEXT, 1, 1, Extent::Whole), "");
        assert_eq!(at("a:\n- {b: 1}\n", 2, 4, Extent::Whole), "a[0]");
    }

    #[test]
    fn what_cannot_be_parsed_has_the_last_name_before_it() {
        assert_eq!(at("a:\n- b: {c: 1\n", 3, 1, Extent::Innermost), "a[0].b.c");
        assert_eq!(at("", 1, 1, Extent::Innermost), "");
        assert_eq!(at("]]]", 1, 1, Extent::Innermost), "");
    }
}
