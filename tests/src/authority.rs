//! Certificate authorities: the embedded one of `isthmus ca`, for agents and for forgers.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::failure::{Because as _, Failure, Result};

/// A directory made by `isthmus ca init`.
#[derive(Debug)]
pub struct Authority {
    binary: PathBuf,
    dir: PathBuf,
}

/// A certificate as `isthmus ca issue` writes it.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf, then intermediates.
    pub chain: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Roots that the peer's certificate must chain to.
    pub root: PathBuf,
}

impl Authority {
    /// A new authority in `dir`, which must not exist.
    pub fn create(binary: &Path, dir: &Path) -> Result<Self> {
        let authority = Self {
            binary: binary.to_owned(),
            dir: dir.to_owned(),
        };
        authority.run(&["init".as_ref(), dir.as_os_str()])?;
        Ok(authority)
    }

    /// What `--embedded-ca` wants.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A certificate for `spiffe://cluster.local/ns/NAMESPACE/sa/ACCOUNT`, valid now.
    pub fn issue(&self, namespace: &str, account: &str) -> Result<Issued> {
        self.issue_for(&spiffe(namespace, account), &[])
    }

    /// A certificate for any identity, with options of `isthmus ca issue`, such as `["--not-after", RFC3339]`.
    pub fn issue_for(&self, identity: &str, options: &[&str]) -> Result<Issued> {
        let stem: String = identity
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let out = self
            .dir
            .with_extension("issued")
            .join(stem + &options.concat().replace([':', '-'], ""));
        std::fs::create_dir_all(&out).because(format!("making {}", out.display()))?;
        let arguments = [
            "issue".as_ref(),
            self.dir.as_os_str(),
            "--identity".as_ref(),
            identity.as_ref(),
        ];
        let rest = ["--out".as_ref(), out.as_os_str()];
        let options = options.iter().map(AsRef::as_ref);
        self.run(&arguments.into_iter().chain(rest).chain(options).collect::<Vec<_>>())?;
        let [chain, key, root] = ["cert-chain.pem", "key.pem", "root-cert.pem"].map(|name| out.join(name));
        Ok(Issued { chain, key, root })
    }

    fn run(&self, arguments: &[&std::ffi::OsStr]) -> Result {
        let output = Command::new(&self.binary)
            .arg("ca")
            .args(arguments)
            .output()
            .because("running isthmus ca")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Failure::new(format!(
            "isthmus ca {arguments:?}: {}: {}",
            output.status,
            said.trim()
        )))
    }
}

/// The identity of a service account of this lab's trust domain.
pub fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}
