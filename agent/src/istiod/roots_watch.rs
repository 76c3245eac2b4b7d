//! When a file of roots changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use tokio::time::sleep;

use super::roots::{Roots, certificates};
use crate::file_stamp::Stamp;

/// Time between two looks. A look is one stat(2); a kubelet takes a minute to bring a ConfigMap's change here.
const INTERVAL: Duration = Duration::from_secs(2);

/// Follows a file of roots: rewritten, renamed into place, or behind a symbolic link that is swapped, as in a volume of a
/// ConfigMap.
#[derive(Debug)]
pub struct RootsWatch {
    path: PathBuf,
    seen: Option<Stamp>,
    /// What it held when it last was good.
    known: Option<Vec<CertificateDer<'static>>>,
}

impl RootsWatch {
    /// None where the roots are no file, and so do not change.
    #[must_use]
    pub fn new(roots: &Roots) -> Option<Self> {
        let Roots::File(path) = roots else { return None };
        Some(Self {
            path: path.clone(),
            seen: look(path).ok(),
            known: certificates(roots).ok(),
        })
    }

    /// Waits until it holds other certificates than when this was made, or last returned. What cannot be read or parsed
    /// is waited out: it is half-written, or a mistake that connecting tells of.
    pub async fn changed(&mut self) {
        loop {
            sleep(INTERVAL).await;
            let seen = look(&self.path).ok();
            if seen.is_none() || seen == self.seen {
                continue;
            }
            let Ok(now) = certificates(&Roots::File(self.path.clone())) else {
                continue;
            };
            self.seen = seen;
            let before = self.known.replace(now);
            if before != self.known {
                return;
            }
        }
    }
}

fn look(path: &Path) -> io::Result<Stamp> {
    fs::metadata(path).map(|found| Stamp::from(&found))
}
