use std::env;
use std::os::unix::fs::PermissionsExt;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::tls::spiffe_id_in;

/// A directory of its own, gone at the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isthmus-ca-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self(env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

impl EmbeddedCa {
    /// A CA of its own for a unit test, which leaves no file behind.
    pub(crate) fn throwaway() -> Self {
        Self::create(&Scratch::new().0).unwrap()
    }

    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }
}

fn web() -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", "web").unwrap()
}

#[test]
fn the_key_is_for_its_owner_only() {
    let scratch = Scratch::new();
    EmbeddedCa::create(&scratch.0).unwrap();
    let mode = |file| fs::metadata(scratch.0.join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(KEY_FILE), 0o600);
    assert_eq!(mode(ROOT_FILE) & 0o022, 0);
}

#[test]
fn an_existing_root_or_key_is_never_overwritten() {
    for survivor in [ROOT_FILE, KEY_FILE] {
        let scratch = Scratch::new();
        EmbeddedCa::create(&scratch.0).unwrap();
        let other = if survivor == ROOT_FILE { KEY_FILE } else { ROOT_FILE };
        fs::remove_file(scratch.0.join(other)).unwrap();
        let before = fs::read(scratch.0.join(survivor)).unwrap();
        let error = EmbeddedCa::create(&scratch.0).err().unwrap();
        assert!(
            matches!(&error, EmbeddedCaError::Exists { path } if path.ends_with(survivor)),
            "{error}"
        );
        assert_eq!(fs::read(scratch.0.join(survivor)).unwrap(), before);
        assert!(!scratch.0.join(other).exists());
    }
}

#[test]
fn the_root_lasts_ten_years_and_the_leaf_a_day() {
    let ca = EmbeddedCa::throwaway();
    let year = 365.25 * DAY.as_secs_f64();
    let (_, root) = X509Certificate::from_der(&ca.root).unwrap();
    let root_life = (root.validity().not_after.timestamp() - root.validity().not_before.timestamp()) as f64;
    assert!((root_life / year - 10.0).abs() < 0.01, "{root_life}");
    assert!(root.is_ca());

    let before = SystemTime::now();
    let certificate = ca.issue_now(web()).unwrap();
    let begin = before.duration_since(certificate.not_before()).unwrap();
    assert!(begin >= CLOCK_SLACK && begin < CLOCK_SLACK * 2, "{begin:?}");
    let life = certificate.not_after().duration_since(before).unwrap();
    assert!(life > DAY - CLOCK_SLACK && life <= DAY + CLOCK_SLACK, "{life:?}");
}

#[test]
fn a_leaf_is_an_svid_for_both_ends() {
    let ca = EmbeddedCa::throwaway();
    let (leaf, key) = ca.sign(&[web().as_str()], Terms::day_from(SystemTime::now())).unwrap();
    assert_eq!(spiffe_id_in(leaf.der()).unwrap(), web());
    assert_eq!(key.algorithm(), &PKCS_ECDSA_P256_SHA256);
    let (_, leaf) = X509Certificate::from_der(leaf.der()).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert!(
        names.critical,
        "the subject is empty, so RFC 5280 wants the name critical"
    );
    assert_eq!(leaf.subject().iter().count(), 0);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "digitalSignature and nothing else");
    assert!(!leaf.is_ca());
}

#[test]
fn every_certificate_has_a_key_of_its_own() {
    let ca = EmbeddedCa::throwaway();
    let terms = Terms::day_from(SystemTime::now());
    let (one, two) = (
        ca.issue_pem(&web(), terms).unwrap(),
        ca.issue_pem(&web(), terms).unwrap(),
    );
    assert_ne!(one.key, two.key);
    assert_eq!(one.root, two.root);
}

#[test]
fn several_agents_open_one_directory() {
    let scratch = Scratch::new();
    let first = EmbeddedCa::create(&scratch.0).unwrap();
    let second = EmbeddedCa::open(&scratch.0).unwrap();
    assert_eq!(first.root, second.root);
    second.issue_now(web()).unwrap();
}

#[test]
fn terms_are_free_but_must_be_dates() {
    let ca = EmbeddedCa::throwaway();
    let now = SystemTime::now();
    let past = Terms {
        not_before: now - 2 * DAY,
        not_after: now - DAY,
    };
    let certificate = Certificate::from_pem(web(), &ca.issue_pem(&web(), past).unwrap()).unwrap();
    assert!(certificate.not_after() < now);
    for terms in [
        Terms {
            not_before: now,
            not_after: now - DAY,
        },
        Terms {
            not_before: UNIX_EPOCH - DAY,
            not_after: now,
        },
        Terms {
            not_before: now,
            not_after: now + 10_000 * 366 * DAY,
        },
    ] {
        assert!(
            matches!(ca.issue_pem(&web(), terms), Err(EmbeddedCaError::Terms)),
            "{terms:?}"
        );
    }
}

#[test]
fn a_damaged_directory_says_which_file() {
    let error = |scratch: &Scratch| EmbeddedCa::open(&scratch.0).err().unwrap();
    let made = || {
        let scratch = Scratch::new();
        EmbeddedCa::create(&scratch.0).unwrap();
        scratch
    };

    let missing = Scratch::new();
    assert!(matches!(error(&missing), EmbeddedCaError::File { action: "read", .. }));

    let scratch = made();
    fs::write(scratch.0.join(ROOT_FILE), "hello").unwrap();
    assert!(matches!(error(&scratch), EmbeddedCaError::Root { .. }));

    let scratch = made();
    fs::write(
        scratch.0.join(ROOT_FILE),
        "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    assert!(matches!(error(&scratch), EmbeddedCaError::RootContent { .. }));

    let scratch = made();
    fs::write(scratch.0.join(KEY_FILE), "hello").unwrap();
    assert!(matches!(error(&scratch), EmbeddedCaError::Key { .. }));

    let scratch = made();
    fs::write(scratch.0.join(ROOT_FILE), vec![b'a'; 65 * 1024]).unwrap();
    assert!(matches!(error(&scratch), EmbeddedCaError::TooLarge { .. }));

    let (scratch, other) = (made(), made());
    fs::copy(other.0.join(KEY_FILE), scratch.0.join(KEY_FILE)).unwrap();
    assert!(matches!(error(&scratch), EmbeddedCaError::Mismatch { .. }));
}

#[test]
fn a_root_out_of_its_time_is_refused() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let now = SystemTime::now();
    let root = root_params(&key, now).unwrap().self_signed(&key).unwrap();
    let check = |now| check_root(root.der(), &key, Path::new("dir"), now);
    assert!(check(now).is_ok());
    for wrong in [now - DAY, now + ROOT_LIFE + DAY] {
        assert!(matches!(check(wrong), Err(EmbeddedCaError::RootDates { .. })));
    }
}
