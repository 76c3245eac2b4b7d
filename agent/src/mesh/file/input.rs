//! Reading a file's text piece by piece, as often as need be.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::problem::{self, Problem};
use super::schema::{At, Root, WorkloadEntry};
use super::{DEEPEST_NESTING, LARGEST_FILE, MOST_NODES};

/// Where the text comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Input<'a> {
    /// From memory.
    Text(&'a str),
    /// From a file, of which no more is in memory at a time than a buffer.
    File(&'a File),
}

impl Input<'_> {
    /// Everything but the workloads, of the first `head` bytes or of all.
    pub(super) fn root(self, head: Option<u64>) -> Result<Root, Problem> {
        let parsed = match self {
            Self::Text(text) => {
                let head = head.and_then(|head| text.get(..usize::try_from(head).ok()?));
                serde_saphyr::from_str_with_options(head.unwrap_or(text), options())
            }
            Self::File(file) => {
                let text = from_start(file).take(head.unwrap_or(u64::MAX));
                serde_saphyr::from_reader_with_options(text, options())
            }
        };
        parsed.map_err(|error| problem::of_parser(&error))
    }

    /// The workloads, one by one in their order, until one is refused. With `last` nothing else may come after them.
    pub(super) fn workloads(
        self,
        last: bool,
        take: &mut dyn FnMut(At<WorkloadEntry>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut refused = None;
        let each = Each {
            take,
            refused: &mut refused,
            last,
        };
        let parsed = match self {
            Self::Text(text) => serde_saphyr::with_deserializer_from_str_with_options(text, options(), |parser| {
                parser.deserialize_map(each)
            }),
            Self::File(file) => {
                serde_saphyr::with_deserializer_from_reader_with_options(from_start(file), options(), |parser| {
                    parser.deserialize_map(each)
                })
            }
        };
        match refused {
            Some(problem) => Err(problem),
            None => parsed.map_err(|error| problem::of_parser(&error)),
        }
    }
}

/// One byte more than allowed would be seen before; a file that grows meanwhile is cut, and read again later.
fn from_start(mut file: &File) -> impl Read {
    let limit = u64::try_from(LARGEST_FILE).unwrap_or(u64::MAX);
    // A file that cannot be rewound reads as empty, which is an error of its own.
    let limit = file.seek(SeekFrom::Start(0)).map_or(0, |_| limit);
    file.take(limit)
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST_NESTING,
            max_nodes: MOST_NODES,
            max_events: 2 * MOST_NODES,
            max_documents: 2,
        },
    }
}

/// Hands on each workload of the document, or of the list of them.
struct Each<'a> {
    take: &'a mut dyn FnMut(At<WorkloadEntry>) -> Result<(), Problem>,
    refused: &'a mut Option<Problem>,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for Each<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Each<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<String>()? {
            if seen && self.last {
                return Err(serde::de::Error::custom("workloads are not the last"));
            }
            if key == "workloads" {
                seen = true;
                map.next_value_seed(Each {
                    take: &mut *self.take,
                    refused: &mut *self.refused,
                    last: self.last,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element()? {
            if let Err(problem) = (self.take)(entry) {
                *self.refused = Some(problem);
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
