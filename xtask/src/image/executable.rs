//! A program for an image that holds nothing else.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use object::{
    Architecture, Endianness, Object as _, elf,
    read::elf::{ElfFile64, ProgramHeader as _},
};

use crate::Failure;

/// A program that needs no loader and no library.
#[derive(Debug)]
pub(crate) struct Executable {
    bytes: Vec<u8>,
    machine: &'static str,
}

impl Executable {
    /// Reads one, and refuses one that would not start in an empty image.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = fs::read(path).map_err(|cause| Failure::io("reading", path, &cause))?;
        Self::of(bytes).map_err(|why| Failure::new(format!("{} {why}", path.display())))
    }

    /// Judges a program's bytes.
    fn of(bytes: Vec<u8>) -> Result<Self, String> {
        let file: ElfFile64<'_, Endianness> =
            ElfFile64::parse(bytes.as_slice()).map_err(|cause| format!("is no program for 64-bit Linux: {cause}"))?;
        let needs_loader = file
            .elf_program_headers()
            .iter()
            .any(|header| header.p_type(file.endian()) == elf::PT_INTERP);
        if needs_loader {
            return Err(
                "is linked dynamically, and the image has no libraries; `cargo xtask image` builds it anew".to_owned(),
            );
        }
        let machine = match file.architecture() {
            Architecture::X86_64 => "amd64",
            Architecture::Aarch64 => "arm64",
            other => return Err(format!("is for {other:?}; images are made for x86-64 and arm64")),
        };
        Ok(Self { bytes, machine })
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The machine it is for, as images call it (Go's GOARCH).
    pub(super) fn machine(&self) -> &'static str {
        self.machine
    }

    /// Writes it, executable.
    pub(super) fn place(&self, path: &Path) -> Result<(), Failure> {
        fs::write(path, &self.bytes)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .map_err(|cause| Failure::io("writing", path, &cause))
    }

    /// A stand-in without code.
    #[cfg(test)]
    pub(super) fn pretended(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            machine: "amd64",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Executable;

    /// An ELF header for x86-64 with one program header of this type (elf(5)).
    fn program(kind: u32, machine: u16) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(machine.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 1, 64, 0, 0] {
            bytes.extend(half.to_le_bytes());
        }
        bytes.extend(kind.to_le_bytes());
        bytes.resize(64 + 56, 0);
        bytes
    }

    #[test]
    fn a_program_that_needs_nothing_is_taken() {
        assert_eq!(Executable::of(program(1, 62)).unwrap().machine(), "amd64");
        assert_eq!(Executable::of(program(1, 183)).unwrap().machine(), "arm64");
    }

    #[test]
    fn what_would_not_start_in_an_empty_image_is_refused() {
        let refused = |bytes| Executable::of(bytes).unwrap_err();
        assert!(refused(program(3, 62)).starts_with("is linked dynamically"));
        assert!(refused(program(1, 8)).starts_with("is for Mips"));
        assert!(refused(b"#!/bin/sh\n".to_vec()).starts_with("is no program"));
    }
}
