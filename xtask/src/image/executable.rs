//! A program for an image, or a part of one.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use object::{
    Architecture, Endianness, Object as _, elf,
    read::elf::{ElfFile64, ProgramHeader as _},
};

use crate::Failure;

/// A program that needs no loader and no library, or one that these lie beside, or one of these.
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

    /// Reads one that would not: whoever packs it packs what it needs.
    pub(super) fn read_part(path: &Path) -> Result<Self, Failure> {
        let bytes = fs::read(path).map_err(|cause| Failure::io("reading", path, &cause))?;
        let machine = parse(&bytes).and_then(|file| machine(&file));
        let machine = machine.map_err(|why| Failure::new(format!("{} {why}", path.display())))?;
        Ok(Self { bytes, machine })
    }

    /// Judges a program's bytes.
    fn of(bytes: Vec<u8>) -> Result<Self, String> {
        let file = parse(&bytes)?;
        let needs_loader = file
            .elf_program_headers()
            .iter()
            .any(|header| header.p_type(file.endian()) == elf::PT_INTERP);
        if needs_loader {
            return Err(
                "is linked dynamically, and the image has no libraries; `cargo xtask image` builds it anew".to_owned(),
            );
        }
        let machine = machine(&file)?;
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

fn parse(bytes: &[u8]) -> Result<ElfFile64<'_, Endianness>, String> {
    ElfFile64::parse(bytes).map_err(|cause| format!("is no program for 64-bit Linux: {cause}"))
}

fn machine(file: &ElfFile64<'_, Endianness>) -> Result<&'static str, String> {
    match file.architecture() {
        Architecture::X86_64 => Ok("amd64"),
        Architecture::Aarch64 => Ok("arm64"),
        other => Err(format!("is for {other:?}; images are made for x86-64 and arm64")),
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
