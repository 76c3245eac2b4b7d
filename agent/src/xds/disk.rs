//! What istiod told, on disk, so that an agent which starts serves before istiod answers and then asks only for what has
//! changed. There are no keys in it.
//!
//! ```text
//! "ISTHMESH"  format: u32  origin: text  count: u64
//! count times  kind: u8    version: text  resource: bytes as istiod would send them
//! crc32 of all before: u32
//! ```
//!
//! Numbers are little-endian; texts and bytes have their length before them as a u32. It is written and read as a stream,
//! resource by resource. A new file takes the old one's place when it is complete and on the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use prost::Message;

use super::decode::Mistake;
use super::encode;
use super::held::{Contents, Held};
use super::kind::Kind;

const MAGIC: [u8; 8] = *b"ISTHMESH";
/// Goes up with every change of what a file means; a file of another format is not read.
const FORMAT: u32 = 1;
/// Most bytes of one resource, or of a text: more than istiod may send in one.
const MOST_BYTES: u32 = 64 * 1024 * 1024;
/// Bytes collected before they are written or summed up.
const BUFFER: usize = 256 * 1024;

/// Where the mesh is stored.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
    origin: String,
}

/// Why nothing was loaded or stored.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file could not be read.
    #[error("reading the stored mesh {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The file could not be written.
    #[error("storing the mesh as {}; a restart will need istiod", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// What is in it is not what was stored, or not for this agent.
    #[error("the stored mesh {} is not used: {problem}", .path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// What came of reading.
enum Failure {
    Io(io::Error),
    Unfit(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Unfit("it ends too early".to_owned()),
            _ => Self::Io(error),
        }
    }
}

impl Disk {
    /// Stores at `path`, whose folder must exist. A file of another `origin`, such as the address of istiod and the
    /// cluster, is not read: it tells of another mesh.
    #[must_use]
    pub fn new(path: PathBuf, origin: &str) -> Self {
        Self {
            path,
            origin: origin.to_owned(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills an empty `held` and publishes that. None when nothing was stored; else how many workloads, services and
    /// policies there were. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, of another format or origin: then nothing of it is taken.
    pub fn load(&self, held: &mut Held) -> Result<Option<[usize; 3]>, DiskError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(self.unread(Failure::Io(cause))),
        };
        match self.read(file, held) {
            Ok(()) => {
                held.loaded();
                Ok(Some(held.sizes()))
            }
            Err(failure) => {
                held.forget_all();
                Err(self.unread(failure))
            }
        }
    }

    /// Writes `contents` in place of what was stored before. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// When the file cannot be written: then the old one stays.
    pub fn store(&self, contents: &Contents) -> Result<(), DiskError> {
        let written = self.write(contents);
        written.map_err(|cause| DiskError::Write {
            path: self.path.clone(),
            cause,
        })
    }

    fn read(&self, file: File, held: &mut Held) -> Result<(), Failure> {
        if !file.metadata()?.is_file() {
            return Err(Failure::Unfit("it is no regular file".to_owned()));
        }
        let mut file = Summed::new(BufReader::with_capacity(BUFFER, file));
        if file.array::<8>()? != MAGIC {
            return Err(Failure::Unfit("it is no mesh that an agent stored".to_owned()));
        }
        let format = file.number()?;
        if format != FORMAT {
            let problem = format!("it is of format {format}, this agent reads format {FORMAT}");
            return Err(Failure::Unfit(problem));
        }
        let mut buffer = Vec::new();
        file.bytes(&mut buffer)?;
        if buffer != self.origin.as_bytes() {
            let (theirs, own) = (String::from_utf8_lossy(&buffer), &self.origin);
            return Err(Failure::Unfit(format!("it is of {theirs:?}, this agent asks {own:?}")));
        }
        let count = u64::from_le_bytes(file.array()?);
        let mut version = Vec::new();
        for at in 0..count {
            let damaged = |problem: String| Failure::Unfit(format!("resource {at} of {count}: {problem}"));
            let [kind] = file.array::<1>()?;
            let kind = Kind::ALL.get(usize::from(kind));
            let kind = *kind.ok_or_else(|| damaged("of no kind this agent knows".to_owned()))?;
            file.bytes(&mut version)?;
            let version = std::str::from_utf8(&version).map_err(|error| damaged(error.to_string()))?;
            file.bytes(&mut buffer)?;
            let taken = held.take(kind, None, version, &buffer);
            taken.map_err(|mistake: Mistake| damaged(mistake.to_string()))?;
        }
        let sum = file.sum();
        if file.number()? != sum {
            return Err(Failure::Unfit("its checksum is wrong: it was damaged".to_owned()));
        }
        match file.inner.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(Failure::Unfit("it goes on after its end".to_owned())),
        }
    }

    fn write(&self, contents: &Contents) -> io::Result<()> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let unfinished = self.path.with_file_name(name);
        // What an agent that was killed left may have other permissions.
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        let mut out = Summed::new(BufWriter::with_capacity(BUFFER, file));
        self.write_to(&mut out, contents)?;
        let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn write_to<W: Write>(&self, out: &mut Summed<W>, contents: &Contents) -> io::Result<()> {
        let Contents { mesh, told } = contents;
        out.write(&MAGIC)?;
        out.write(&FORMAT.to_le_bytes())?;
        out.write_bytes(self.origin.as_bytes())?;
        let workloads = || {
            mesh.numbered_workloads()
                .filter(|(slot, _)| told.workloads.is_held(*slot))
        };
        let services = || {
            mesh.numbered_services()
                .filter(|(slot, _)| told.services.is_held(*slot))
        };
        let policies = || {
            let named = told.policies.iter();
            named.filter_map(|(name, noted)| Some((mesh.policy(name)?, noted)))
        };
        let count = workloads().count() + services().count() + policies().count();
        out.write(&u64::try_from(count).unwrap_or(u64::MAX).to_le_bytes())?;
        let mut buffer = Vec::new();
        // Services first, so that no endpoint waits for one; it would not matter.
        for (slot, service) in services() {
            let version = told.services.version(slot);
            out.record(Kind::Address, &version, &encode::service(service), &mut buffer)?;
        }
        for (slot, workload) in workloads() {
            let version = told.workloads.version(slot);
            out.record(Kind::Address, &version, &encode::workload(workload), &mut buffer)?;
        }
        for (policy, noted) in policies() {
            out.record(
                Kind::Authorization,
                &noted.version,
                &encode::policy(policy),
                &mut buffer,
            )?;
        }
        let sum = out.sum();
        out.write(&sum.to_le_bytes())
    }

    fn unread(&self, failure: Failure) -> DiskError {
        let path = self.path.clone();
        match failure {
            Failure::Io(cause) => DiskError::Read { path, cause },
            Failure::Unfit(problem) => DiskError::Unfit { path, problem },
        }
    }
}

/// A stream, and the checksum of what went through it.
struct Summed<T> {
    inner: T,
    sum: crc32fast::Hasher,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            sum: crc32fast::Hasher::new(),
        }
    }

    fn sum(&self) -> u32 {
        self.sum.clone().finalize()
    }
}

impl<R: Read> Summed<R> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        self.inner.read_exact(&mut array)?;
        self.sum.update(&array);
        Ok(array)
    }

    fn number(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Memory is taken as bytes come: a wrong length asks for no more than there is.
    fn bytes(&mut self, into: &mut Vec<u8>) -> Result<(), Failure> {
        let length = self.number()?;
        if length > MOST_BYTES {
            return Err(Failure::Unfit(format!("{length} bytes in one piece: it was damaged")));
        }
        into.clear();
        let read = self.inner.by_ref().take(length.into()).read_to_end(into)?;
        if u32::try_from(read) != Ok(length) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.sum.update(into);
        Ok(())
    }
}

impl<W: Write> Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MOST_BYTES);
        let length = length.ok_or_else(|| io::Error::other("a resource is too large to be stored"))?;
        self.write(&length.to_le_bytes())?;
        self.write(bytes)
    }

    fn record(&mut self, kind: Kind, version: &str, message: &impl Message, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        message.encode(buffer).map_err(io::Error::other)?;
        let number = Kind::ALL.iter().position(|other| *other == kind).unwrap_or_default();
        self.write(&[u8::try_from(number).unwrap_or(u8::MAX)])?;
        self.write_bytes(version.as_bytes())?;
        self.write_bytes(buffer)
    }
}

#[cfg(test)]
mod tests;
