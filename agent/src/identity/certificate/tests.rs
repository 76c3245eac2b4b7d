use super::*;
use crate::identity::embedded_ca::{EmbeddedCa, Terms};

fn id(service_account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", service_account).unwrap()
}

fn pem(ca: &EmbeddedCa, service_account: &str) -> IssuedPem {
    ca.issue_pem(&id(service_account), Terms::day_from(SystemTime::now()))
        .unwrap()
}

#[test]
fn a_certificate_knows_its_owner_and_dates() {
    let terms = Terms {
        not_before: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
        not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(3_000_000_000),
    };
    let pem = EmbeddedCa::throwaway().issue_pem(&id("web"), terms).unwrap();
    let certificate = Certificate::from_pem(id("web"), &pem).unwrap();
    assert_eq!(certificate.id(), &id("web"));
    assert_eq!(
        (certificate.not_before(), certificate.not_after()),
        (terms.not_before, terms.not_after)
    );
}

#[test]
fn another_identity_is_refused() {
    let pem = pem(&EmbeddedCa::throwaway(), "web");
    let error = Certificate::from_pem(id("db"), &pem).unwrap_err();
    assert!(matches!(error, MaterialError::WrongIdentity { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "the certificate is for spiffe://cluster.local/ns/demo/sa/web, asked for was spiffe://cluster.local/ns/demo/sa/db"
    );
}

#[test]
fn a_foreign_key_is_refused() {
    let ca = EmbeddedCa::throwaway();
    let mixed = IssuedPem {
        key: pem(&ca, "web").key,
        ..pem(&ca, "web")
    };
    let error = Certificate::from_pem(id("web"), &mixed).unwrap_err();
    assert!(
        matches!(error, MaterialError::Credentials(CredentialsError::Mismatch(_))),
        "{error}"
    );
}

#[test]
fn damaged_texts_are_refused_by_name() {
    let ca = EmbeddedCa::throwaway();
    let made = || pem(&ca, "web");
    let refusal = |pem| Certificate::from_pem(id("web"), &pem).unwrap_err();

    let error = refusal(IssuedPem {
        cert_chain: String::new(),
        ..made()
    });
    assert!(
        matches!(
            error,
            MaterialError::Pem {
                part: "certificate chain",
                ..
            }
        ),
        "{error}"
    );
    let error = refusal(IssuedPem {
        root: String::new(),
        ..made()
    });
    assert!(matches!(error, MaterialError::Pem { part: "root", .. }), "{error}");
    let error = refusal(IssuedPem {
        root: made().root.repeat(MOST_CERTIFICATES + 1),
        ..made()
    });
    assert!(matches!(error, MaterialError::TooMany { part: "root" }), "{error}");
    let error = refusal(IssuedPem {
        key: "-----BEGIN PRIVATE KEY-----\nsecret\n".to_owned(),
        ..made()
    });
    assert!(matches!(error, MaterialError::KeyPem), "{error}");
    assert!(!format!("{error:?} {error}").contains("secret"));
    let garbage = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n".to_owned();
    let error = refusal(IssuedPem {
        cert_chain: garbage.clone(),
        ..made()
    });
    assert!(
        matches!(error, MaterialError::Unnamed(PeerIdentityError::Unreadable)),
        "{error}"
    );
    let error = refusal(IssuedPem {
        root: made().root + &garbage,
        ..made()
    });
    assert!(
        matches!(
            error,
            MaterialError::Credentials(CredentialsError::Root { index: 1, count: 2, .. })
        ),
        "{error}"
    );
}

#[test]
fn several_roots_are_taken() {
    let (ca, other) = (EmbeddedCa::throwaway(), EmbeddedCa::throwaway());
    let bundle = IssuedPem {
        root: format!("{}{}", other.root_pem(), ca.root_pem()),
        ..pem(&ca, "web")
    };
    assert!(Certificate::from_pem(id("web"), &bundle).is_ok());
}

#[test]
fn keys_are_not_printed() {
    let pem = pem(&EmbeddedCa::throwaway(), "web");
    let secret = pem.key.lines().nth(1).unwrap().to_owned();
    let certificate = Certificate::from_pem(id("web"), &pem).unwrap();
    let printed = format!("{pem:?} {certificate:?}");
    assert!(printed.contains("BEGIN CERTIFICATE") && printed.contains("demo/sa/web"));
    assert!(!printed.contains(&secret) && !printed.contains("PRIVATE KEY"));
}
