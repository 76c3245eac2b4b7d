//! A program of this machine with all that it loads.

use std::{path::Path, process::Command};

use super::executable::Executable;
use crate::Failure;

/// Reads a program, its libraries and their loader, each with its place in an image: that of the program is told, the others
/// lie where they lie here, since the program names the loader and the loader searches by itself.
pub(super) fn read(path: &Path, place: &str) -> Result<Vec<(String, Executable)>, Failure> {
    let told = Command::new("ldd").arg(path).output();
    let told = told.map_err(|cause| Failure::new(format!("starting ldd: {cause}")))?;
    let told = String::from_utf8_lossy(&told.stdout);
    let mut parts = vec![(place.to_owned(), Executable::read_part(path)?)];
    for library in libraries(&told) {
        let part = Executable::read_part(Path::new(library))?;
        parts.push((library.trim_start_matches('/').to_owned(), part));
    }
    if parts.len() == 1 {
        return Err(Failure::new(format!(
            "ldd names no library of {}: {}",
            path.display(),
            told.trim()
        )));
    }
    Ok(parts)
}

/// Paths in what `ldd` tells: `NAME => PATH (ADDRESS)`, and `PATH (ADDRESS)` of the loader.
fn libraries(told: &str) -> impl Iterator<Item = &str> {
    told.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::libraries;

    #[test]
    fn libraries_are_those_that_ldd_has_found() {
        let told = "\tlinux-vdso.so.1 (0x00007f85)\n\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f85)\n\
                    \tlibgone.so.1 => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f85)\n";
        let found: Vec<_> = libraries(told).collect();
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]
        );
    }
}
