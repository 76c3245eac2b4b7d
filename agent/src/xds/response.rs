//! Responses as they arrive: gRPC's framing and DeltaDiscoveryResponse (agent/istio/proto/ads.proto), piece by piece.
//!
//! istiod tells of a whole mesh in one message, 40 MB for 100 000 workloads. It is never in memory as a whole: a resource
//! is decoded as soon as its last byte is there, and what is held meanwhile is one resource at most. The state of the
//! parser depends on the bytes alone, not on how they are cut into chunks.

use bytes::{Buf as _, Bytes, BytesMut};
use isthmus_istio::discovery::Resource;
use prost::Message as _;

/// The largest resource that is taken. A service of 1 000 ports has some 10 KB, a policy with 10 000 addresses 300 KB.
pub const MOST_RESOURCE_BYTES: u64 = 4 << 20;

/// The longest name, nonce or type URL. Names of Kubernetes have 253 characters at most; istiod's uids are made of five.
pub const MOST_TEXT_BYTES: u64 = 4 << 10;

/// A piece of a response.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A resource that is there, or is different from now on.
    Resource(Resource),
    /// A resource, or the name of a removed one, that cannot be read: what is wrong with it.
    Unreadable(String),
    /// Of which type the response is. istiod writes it behind the resources.
    Type(String),
    /// The name of a resource that is no more. Written behind the type.
    Removed(String),
    /// The response is complete.
    End {
        /// To be returned when it is acknowledged.
        nonce: String,
        /// Its size.
        bytes: u64,
    },
}

/// What arrives is no sequence of responses; where the next one begins is not known any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// Compression was not asked for.
    #[error("the message is marked as compressed ({flag:#04x}), which was not asked for")]
    Compressed {
        /// The first byte.
        flag: u8,
    },
    /// More than 64 bits.
    #[error("a number of more than 64 bits")]
    Number,
    /// A field that protobuf does not have, or not with this wire type.
    #[error("field {field} with wire type {wire}")]
    Field {
        /// Its number.
        field: u64,
        /// Its wire type.
        wire: u64,
    },
    /// A field ends behind the message.
    #[error("a field ends behind the end of its message")]
    Overrun,
    /// A type or a nonce that nobody needs to send.
    #[error("field {field} of {bytes} bytes, {MOST_TEXT_BYTES} at most")]
    Long {
        /// Its number.
        field: u64,
        /// Its size.
        bytes: u64,
    },
    /// Text that is none.
    #[error("field {field} is not UTF-8")]
    Text {
        /// Its number.
        field: u64,
    },
}

/// Takes bytes, gives events.
#[derive(Debug, Default)]
pub struct Responses {
    /// Not looked at yet.
    chunk: Bytes,
    step: Step,
    /// Bytes of this message still to be looked at.
    left: u64,
    size: u64,
    nonce: String,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum Step {
    /// The five bytes before a message.
    Prefix(BytesMut),
    /// A field's number and wire type, or the end.
    Key(Number),
    /// A number nobody asks for.
    SkipNumber(Number),
    /// The length of a field.
    Length { field: u64, length: Number },
    /// Bytes nobody asks for.
    Skip(u64),
    /// A field that is kept.
    Collect { field: u64, length: usize, begun: BytesMut },
}

/// A number in the making (base 128, least significant first).
#[derive(Clone, Copy, Debug, Default)]
struct Number {
    value: u64,
    bytes: u32,
}

mod field {
    pub(super) const RESOURCES: u64 = 2;
    pub(super) const TYPE_URL: u64 = 4;
    pub(super) const NONCE: u64 = 5;
    pub(super) const REMOVED: u64 = 6;
}

const PREFIX_BYTES: usize = 5;

impl Responses {
    /// More bytes, to be had as events from [`event`](Self::event).
    pub fn feed(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            let mut joined = BytesMut::from(std::mem::take(&mut self.chunk));
            joined.extend_from_slice(&chunk);
            self.chunk = joined.freeze();
        }
    }

    /// The next event; none when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are no responses. There is no way on from there.
    pub fn event(&mut self) -> Result<Option<Event>, Garbage> {
        loop {
            let moved = match &self.step {
                Step::Key(number) if self.left == 0 && number.bytes == 0 => return Ok(Some(self.end())),
                Step::Prefix(_) => self.prefix()?,
                Step::Key(_) | Step::SkipNumber(_) | Step::Length { .. } => self.number()?,
                Step::Skip(_) => self.skip(),
                Step::Collect { .. } => self.collect()?,
            };
            match moved {
                Moved::On(None) => {}
                Moved::On(event) => return Ok(event),
                Moved::Starved => return Ok(None),
            }
        }
    }

    fn end(&mut self) -> Event {
        self.step = Step::default();
        Event::End {
            nonce: std::mem::take(&mut self.nonce),
            bytes: self.size,
        }
    }

    fn prefix(&mut self) -> Result<Moved, Garbage> {
        let Step::Prefix(begun) = &mut self.step else {
            return Ok(Moved::Starved);
        };
        let wanted = PREFIX_BYTES.saturating_sub(begun.len()).min(self.chunk.len());
        begun.extend_from_slice(&self.chunk.split_to(wanted));
        if begun.len() < PREFIX_BYTES {
            return Ok(Moved::Starved);
        }
        let flag = begun.get_u8();
        if flag != 0 {
            return Err(Garbage::Compressed { flag });
        }
        self.size = begun.get_u32().into();
        self.left = self.size;
        self.step = Step::key();
        Ok(Moved::On(None))
    }

    /// A byte of a key, a length or a number that is skipped.
    fn number(&mut self) -> Result<Moved, Garbage> {
        if self.left == 0 {
            return Err(Garbage::Overrun);
        }
        let Some(byte) = self.chunk.first().copied() else {
            return Ok(Moved::Starved);
        };
        self.chunk.advance(1);
        self.left -= 1;
        let mut event = None;
        match &mut self.step {
            Step::Key(key) => {
                if let Some(key) = key.push(byte)? {
                    self.step = Step::field(key >> 3, key & 7)?;
                    if matches!(self.step, Step::Skip(bytes) if bytes > self.left) {
                        return Err(Garbage::Overrun);
                    }
                }
            }
            Step::SkipNumber(number) => {
                if number.push(byte)?.is_some() {
                    self.step = Step::key();
                }
            }
            Step::Length { field, length } => {
                let field = *field;
                if let Some(length) = length.push(byte)? {
                    if length > self.left {
                        return Err(Garbage::Overrun);
                    }
                    (self.step, event) = Step::contents(field, length)?;
                }
            }
            Step::Prefix(_) | Step::Skip(_) | Step::Collect { .. } => {}
        }
        Ok(Moved::On(event))
    }

    fn skip(&mut self) -> Moved {
        let Step::Skip(wanted) = &mut self.step else {
            return Moved::Starved;
        };
        let there = usize::try_from(*wanted).unwrap_or(usize::MAX).min(self.chunk.len());
        self.chunk.advance(there);
        self.left = self.left.saturating_sub(there as u64);
        *wanted -= there as u64;
        if *wanted > 0 {
            return Moved::Starved;
        }
        self.step = Step::key();
        Moved::On(None)
    }

    fn collect(&mut self) -> Result<Moved, Garbage> {
        let Step::Collect { field, length, begun } = &mut self.step else {
            return Ok(Moved::Starved);
        };
        let wanted = length.saturating_sub(begun.len()).min(self.chunk.len());
        let piece = self.chunk.split_to(wanted);
        self.left = self.left.saturating_sub(wanted as u64);
        let contents = if begun.is_empty() && piece.len() == *length {
            piece
        } else {
            begun.extend_from_slice(&piece);
            if begun.len() < *length {
                return Ok(Moved::Starved);
            }
            std::mem::take(begun).freeze()
        };
        let field = *field;
        self.step = Step::key();
        Ok(Moved::On(self.collected(field, contents)?))
    }

    fn collected(&mut self, field: u64, contents: Bytes) -> Result<Option<Event>, Garbage> {
        if field == field::RESOURCES {
            return Ok(Some(match Resource::decode(contents) {
                Ok(resource) => Event::Resource(resource),
                Err(error) => Event::Unreadable(format!("a resource that cannot be read: {error}")),
            }));
        }
        let text = String::from_utf8(contents.into());
        Ok(match (field, text) {
            (field::REMOVED, Ok(name)) => Some(Event::Removed(name)),
            (field::REMOVED, Err(_)) => Some(Event::Unreadable("a removed name that is not UTF-8".to_owned())),
            (field::TYPE_URL, Ok(url)) => Some(Event::Type(url)),
            (_, Ok(nonce)) => {
                self.nonce = nonce;
                None
            }
            (field, Err(_)) => return Err(Garbage::Text { field }),
        })
    }
}

/// What a step came to.
enum Moved {
    /// To the next step, perhaps with news.
    On(Option<Event>),
    /// More bytes are needed.
    Starved,
}

impl Default for Step {
    fn default() -> Self {
        Self::Prefix(BytesMut::new())
    }
}

impl Step {
    fn key() -> Self {
        Self::Key(Number::default())
    }

    /// What follows the key of a field.
    fn field(field: u64, wire: u64) -> Result<Self, Garbage> {
        let known = matches!(
            field,
            field::RESOURCES | field::TYPE_URL | field::NONCE | field::REMOVED
        );
        // Numbers of fields have 29 bits.
        if field == 0 || field >= 1 << 29 || (known && wire != 2) {
            return Err(Garbage::Field { field, wire });
        }
        Ok(match wire {
            0 => Self::SkipNumber(Number::default()),
            1 => Self::Skip(8),
            2 => Self::Length {
                field,
                length: Number::default(),
            },
            5 => Self::Skip(4),
            _ => return Err(Garbage::Field { field, wire }),
        })
    }

    /// What follows the length of a field.
    fn contents(field: u64, length: u64) -> Result<(Self, Option<Event>), Garbage> {
        let most = match field {
            field::RESOURCES => MOST_RESOURCE_BYTES,
            field::TYPE_URL | field::NONCE | field::REMOVED => MOST_TEXT_BYTES,
            _ => return Ok((Self::Skip(length), None)),
        };
        let collect = |length| Self::Collect {
            field,
            length,
            begun: BytesMut::new(),
        };
        match (usize::try_from(length), field) {
            (Ok(fitting), _) if length <= most => Ok((collect(fitting), None)),
            (_, field::RESOURCES) => {
                let what = format!("a resource of {length} bytes, {most} at most");
                Ok((Self::Skip(length), Some(Event::Unreadable(what))))
            }
            (_, field::REMOVED) => {
                let what = format!("a removed name of {length} bytes, {most} at most");
                Ok((Self::Skip(length), Some(Event::Unreadable(what))))
            }
            _ => Err(Garbage::Long { field, bytes: length }),
        }
    }
}

impl Number {
    /// The number, when this was its last byte.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, Garbage> {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if self.bytes > 9 || (self.bytes == 9 && bits > 1) {
            return Err(Garbage::Number);
        }
        self.value |= bits << (7 * self.bytes);
        self.bytes += 1;
        if byte & 0x80 == 0 {
            return Ok(Some(self.value));
        }
        if self.bytes > 9 {
            return Err(Garbage::Number);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
