//! Bytes in a piece of memory that can be handed from process to process: a sealed memfd, which nobody can alter, and
//! which only root can open.

use std::{
    fs::{File, Permissions},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, PermissionsExt as _},
    },
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

/// What makes the bytes final.
const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_SEAL);

/// Puts bytes into memory of their own. It lives as long as a descriptor of it does.
///
/// # Errors
/// When the kernel refuses.
pub fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = memfd_create(c"isthmus", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memory);
    // It has a name under /proc of whoever holds it.
    file.set_permissions(Permissions::from_mode(0o400))?;
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file.into())
}

/// What [`seal`] put there.
///
/// # Errors
/// When it is not sealed memory, or has more than `most` bytes.
pub fn unseal(memory: OwnedFd, most: usize) -> io::Result<Vec<u8>> {
    let seals = SealFlag::from_bits_truncate(fcntl(&memory, FcntlArg::F_GET_SEALS)?);
    let file = File::from(memory);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if !seals.contains(SEALS) || length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not what was sealed"));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn sealed_bytes_come_back_and_cannot_be_altered() {
        let memory = seal(b"a key").unwrap();
        let file = File::from(memory.try_clone().unwrap());
        assert!(file.write_at(b"b", 0).is_err());
        assert!(file.set_len(0).is_err() && file.set_len(100).is_err());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o400);
        let flags = fcntl(&memory, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, 1, "{} is not inherited", memory.as_raw_fd());
        assert_eq!(unseal(memory, 5).unwrap(), b"a key");
    }

    #[test]
    fn what_is_too_large_or_not_sealed_is_refused() {
        assert!(unseal(seal(b"123456").unwrap(), 5).is_err());
        let open = memfd_create(c"open", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(unseal(open, 5).is_err());
        assert!(unseal(File::open("/dev/null").unwrap().into(), 5).is_err());
    }
}
