//! Name and tag of an image.

use std::{fmt, str::FromStr};

/// As registries and runtimes take it: `[HOST[:PORT]/]PATH:TAG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    path: String,
    tag: String,
}

impl Name {
    /// In full, as containerd keeps it: a name without a registry is one of Docker Hub's.
    pub(super) fn full(&self) -> String {
        let first = self.path.split('/').next().unwrap_or_default();
        let has_host = self.path.contains('/') && (first.contains(['.', ':']) || first == "localhost");
        match (has_host, self.path.contains('/')) {
            (true, _) => self.to_string(),
            (false, true) => format!("docker.io/{self}"),
            (false, false) => format!("docker.io/library/{self}"),
        }
    }

    /// What the image is called without whose it is.
    pub(super) fn last(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The tag alone.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.path, self.tag)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} must be NAME:TAG, as registry.example/mesh/isthmus:1.2");
        let (path, tag) = text.rsplit_once(':').ok_or_else(wanted)?;
        let is_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
        let is_tag = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_good = !path.is_empty()
            && path.split('/').all(|part| !part.is_empty())
            && path.chars().all(is_path)
            && (1..=128).contains(&tag.len())
            && tag.chars().all(is_tag);
        if !is_good {
            return Err(wanted());
        }
        Ok(Self {
            path: path.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn a_name_is_told_in_full() {
        for (short, full) in [
            ("isthmus:0.1.0", "docker.io/library/isthmus:0.1.0"),
            ("mesh/isthmus:1", "docker.io/mesh/isthmus:1"),
            ("localhost/isthmus:1", "localhost/isthmus:1"),
            ("localhost:5000/isthmus:1", "localhost:5000/isthmus:1"),
            (
                "registry.example/mesh/isthmus:v1_2",
                "registry.example/mesh/isthmus:v1_2",
            ),
        ] {
            let name: Name = short.parse().unwrap();
            assert_eq!(name.to_string(), short);
            assert_eq!(name.full(), full);
        }
    }

    #[test]
    fn what_no_registry_takes_is_refused() {
        for wrong in [
            "isthmus",
            "isthmus:",
            ":1",
            "Isthmus:1",
            "a//b:1",
            "/a:1",
            "a b:1",
            "host:5000/isthmus",
        ] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
    }
}
