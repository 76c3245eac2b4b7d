//! Lists in annotations: items with commas between them, or `*`.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;
use isthmus_wire::MOST_CAPTURE_ITEMS;

/// An interface's name is at most so long (Linux, `IFNAMSIZ` less the zero).
const LONGEST_INTERFACE: usize = 15;

/// What a list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum List<T> {
    /// `*`.
    All,
    /// These; none for an empty list.
    Of(BTreeSet<T>),
}

/// What can stand in a list.
pub(super) trait Item: Ord {
    /// What is said of text that is no item.
    const WRONG: Wrong;

    /// Understands one.
    fn parse(text: &str) -> Option<Self>
    where
        Self: Sized;
}

/// Why a value cannot be understood: what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kubernetes) enum Wrong {
    /// Neither true nor false.
    Switch,
    /// Not ports.
    Ports,
    /// Not ranges of addresses.
    Ranges,
    /// Not interfaces.
    Interfaces,
    /// Longer than there is room for.
    TooLong,
    /// `*` where single items are excluded.
    ExcludesAll,
}

// === impl List ===

impl<T: Item> List<T> {
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        if text.trim() == "*" {
            return Ok(Self::All);
        }
        let parsed = items(text)?.map(T::parse).collect::<Option<_>>();
        parsed.map(Self::Of).ok_or(T::WRONG)
    }
}

/// Names of interfaces, in their order.
pub(super) fn interfaces(text: &str) -> Result<Vec<String>, Wrong> {
    let parsed = items(text)?.map(interface).collect::<Option<_>>();
    parsed.ok_or(Wrong::Interfaces)
}

fn items(text: &str) -> Result<impl Iterator<Item = &str>, Wrong> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    if items.clone().count() > MOST_CAPTURE_ITEMS {
        return Err(Wrong::TooLong);
    }
    Ok(items)
}

/// What the kernel takes as the name of an interface (`dev_valid_name`).
fn interface(text: &str) -> Option<String> {
    let sound = text.len() <= LONGEST_INTERFACE
        && ![".", ".."].contains(&text)
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    sound.then(|| text.to_owned())
}

// === impl Item ===

impl Item for u16 {
    const WRONG: Wrong = Wrong::Ports;

    fn parse(text: &str) -> Option<Self> {
        // `parse` would take a plus sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port != 0)
    }
}

impl Item for IpNet {
    const WRONG: Wrong = Wrong::Ranges;

    fn parse(text: &str) -> Option<Self> {
        // As it is without the bits that do not count: two ways to write a range are one.
        let range: Self = text.parse().ok()?;
        Some(range.trunc())
    }
}

// === impl Wrong ===

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("it must be true or false"),
            Self::Ports => f.write_str("it must be ports from 1 to 65535 with commas between them, or *"),
            Self::Ranges => f.write_str("it must be ranges as 10.0.0.0/8 or fd00::/8 with commas between them, or *"),
            Self::Interfaces => f.write_str("it must be names of interfaces with commas between them"),
            Self::TooLong => write!(f, "it must have {MOST_CAPTURE_ITEMS} items at most"),
            Self::ExcludesAll => f.write_str(
                "it must be a list; where nothing is to be captured, the include annotation is an empty one",
            ),
        }
    }
}
