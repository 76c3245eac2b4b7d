//! The mesh's shared root, an intermediate for each cluster, and what an apiserver needs.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::{
    authority::Issued,
    failure::{Because as _, Result},
};

/// A root, and its key in memory.
#[derive(Debug)]
pub struct Roots {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A cluster's CA below the mesh's root: the directory that istiod reads as `ROOT_CA_DIR`.
#[derive(Debug)]
pub struct Intermediate {
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Roots {
    /// A new root.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let params = authority(name, "root");
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// The root in PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// An intermediate, with its files in `dir`, which is made: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem.
    pub fn intermediate(&self, cluster: &str, dir: &Path) -> Result<Intermediate> {
        let key = KeyPair::generate()?;
        let params = authority(cluster, "intermediate");
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        fs::create_dir_all(dir).because(format!("making {}", dir.display()))?;
        let files = [
            ("ca-cert.pem", certificate.clone()),
            ("ca-key.pem", key.serialize_pem()),
            ("cert-chain.pem", certificate + &self.pem()),
            ("root-cert.pem", self.pem()),
        ];
        for (name, text) in files {
            write(&dir.join(name), &text)?;
        }
        Ok(Intermediate {
            issuer: Issuer::new(params, key),
            dir: dir.to_owned(),
        })
    }

    /// A server's certificate below this root: certificate and key in PEM.
    pub(super) fn server(&self, names: &[&str], ips: &[IpAddr]) -> Result<[String; 2]> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params
            .subject_alt_names
            .extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok([certificate.pem(), key.serialize_pem()])
    }
}

impl Intermediate {
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file with the mesh's root.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root-cert.pem")
    }

    /// A certificate of the mesh that istiod did not issue but could have: for peers that are no agents.
    pub fn issue(&self, identity: &str) -> Result<Issued> {
        let stem: String = identity
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let out = self.dir.with_extension("issued").join(stem);
        fs::create_dir_all(&out).because(format!("making {}", out.display()))?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&key, &self.issuer)?.pem();
        let above = fs::read_to_string(self.dir.join("ca-cert.pem"))?;
        let [chain, key_file] = ["cert-chain.pem", "key.pem"].map(|name| out.join(name));
        write(&chain, &(leaf + &above))?;
        write(&key_file, &key.serialize_pem())?;
        Ok(Issued {
            chain,
            key: key_file,
            root: self.root(),
        })
    }
}

fn authority(name: &str, kind: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{kind} of {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

pub(super) fn write(path: &Path, text: &str) -> Result {
    fs::write(path, text).because(format!("writing {}", path.display()))
}
