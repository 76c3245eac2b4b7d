//! Who is let in, and what the refused and the refuser are told.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::*;

fn refused_with(failure: &TlsFailure, alert: &str) -> bool {
    matches!(failure, TlsFailure::Refused { reason } if reason.contains(alert))
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let (client, server) = meet_with_terms(terms_now(), terms_now()).await.good();
    assert_eq!((client.peer, server.peer), (db(), web()));
}

#[tokio::test]
async fn any_of_the_expected_will_do() {
    let ca = EmbeddedCa::throwaway();
    let (client, server) = (
        certificate(&ca, &web(), terms_now()),
        certificate(&ca, &db(), terms_now()),
    );
    Meeting::of(client.client_config(expecting(&[web(), db()])), server.server_config())
        .await
        .good();
}

#[tokio::test]
async fn an_unexpected_server_is_refused() {
    let ca = EmbeddedCa::throwaway();
    let (client, server) = (
        certificate(&ca, &web(), terms_now()),
        certificate(&ca, &db(), terms_now()),
    );
    for almost in [
        "spiffe://cluster.local/ns/demo/sa/db2",
        "spiffe://cluster.local/ns/demo2/sa/db",
        "spiffe://cluster.loca/ns/demo/sa/db",
        "spiffe://cluster.local/ns/demo/sa/DB",
    ] {
        let config = client.client_config(expecting(&[id(almost), web()]));
        let (at_client, at_server) = Meeting::of(config, server.server_config()).await.refused();
        assert_eq!(at_client.label(), "peer_wrong_identity");
        assert_eq!(
            at_client.to_string(),
            format!("the peer is {}; expected one of {almost}, {}", db(), web())
        );
        assert!(refused_with(&at_server, "CertificateUnknown"), "{at_server}");
    }
}

#[tokio::test]
async fn nobody_meets_an_empty_list() {
    let ca = EmbeddedCa::throwaway();
    let (client, server) = (
        certificate(&ca, &web(), terms_now()),
        certificate(&ca, &db(), terms_now()),
    );
    let (at_client, _) = Meeting::of(client.client_config(expecting(&[])), server.server_config())
        .await
        .refused();
    assert_eq!(at_client.label(), "peer_wrong_identity");
    assert!(at_client.to_string().starts_with("no identity is known"), "{at_client}");
}

#[tokio::test]
async fn another_trust_domain_is_not_served() {
    let ca = EmbeddedCa::throwaway();
    let stranger = id("spiffe://other.example/ns/demo/sa/web");
    let (client, server) = (
        certificate(&ca, &stranger, terms_now()),
        certificate(&ca, &db(), terms_now()),
    );
    let meeting = Meeting::of(client.client_config(expecting(&[db()])), server.server_config()).await;
    let (at_client, at_server) = meeting.refused();
    assert_eq!(at_server.label(), "peer_wrong_identity");
    assert_eq!(
        at_server.to_string(),
        format!("the peer is {stranger}, and we only serve trust domain cluster.local")
    );
    assert!(refused_with(&at_client, "CertificateUnknown"), "{at_client}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_both_sides() {
    let (at_client, at_server) = meet_with_terms(expired(), terms_now()).await.refused();
    assert!(
        matches!(
            at_server,
            TlsFailure::PeerExpired {
                seconds: Some(3600..3660)
            }
        ),
        "{at_server:?}"
    );
    assert!(refused_with(&at_client, "CertificateExpired"), "{at_client}");

    let (at_client, at_server) = meet_with_terms(terms_now(), expired()).await.refused();
    assert!(
        matches!(
            at_client,
            TlsFailure::PeerExpired {
                seconds: Some(3600..3660)
            }
        ),
        "{at_client:?}"
    );
    assert!(refused_with(&at_server, "CertificateExpired"), "{at_server}");
}

#[tokio::test]
async fn a_certificate_of_tomorrow_is_refused_on_both_sides() {
    let (at_client, at_server) = meet_with_terms(not_begun(), terms_now()).await.refused();
    assert!(
        matches!(
            at_server,
            TlsFailure::PeerNotYetValid {
                seconds: Some(3540..=3600)
            }
        ),
        "{at_server:?}"
    );
    assert!(refused_with(&at_client, "CertificateExpired"), "{at_client}");

    let (at_client, at_server) = meet_with_terms(terms_now(), not_begun()).await.refused();
    assert!(
        matches!(
            at_client,
            TlsFailure::PeerNotYetValid {
                seconds: Some(3540..=3600)
            }
        ),
        "{at_client:?}"
    );
    assert!(refused_with(&at_server, "CertificateExpired"), "{at_server}");
}

#[tokio::test]
async fn another_root_is_not_trusted_on_either_side() {
    let (ours, theirs) = (EmbeddedCa::throwaway(), EmbeddedCa::throwaway());
    let good = |id| certificate(&ours, &id, terms_now());
    let bad = |id| straddling(&theirs, &ours, &id);

    let meeting = Meeting::of(bad(web()).client_config(expecting(&[db()])), good(db()).server_config()).await;
    let (at_client, at_server) = meeting.refused();
    assert!(
        matches!(&at_server, TlsFailure::PeerUntrusted { reason } if reason.contains("our roots")),
        "{at_server}"
    );
    assert!(refused_with(&at_client, "UnknownCA"), "{at_client}");

    let meeting = Meeting::of(good(web()).client_config(expecting(&[db()])), bad(db()).server_config()).await;
    let (at_client, at_server) = meeting.refused();
    assert!(
        matches!(&at_client, TlsFailure::PeerUntrusted { reason } if reason.contains("our roots")),
        "{at_client}"
    );
    assert!(refused_with(&at_server, "UnknownCA"), "{at_server}");
}

/// A client that has nothing to show.
#[derive(Debug)]
struct EmptyHanded;

impl ResolvesClientCert for EmptyHanded {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let ca = EmbeddedCa::throwaway();
    let mut config = ClientConfig::clone(&certificate(&ca, &web(), terms_now()).client_config(expecting(&[db()])));
    config.client_auth_cert_resolver = Arc::new(EmptyHanded);
    let server = certificate(&ca, &db(), terms_now()).server_config();
    let (at_client, at_server) = Meeting::of(Arc::new(config), server).await.refused();
    assert_eq!(at_server, TlsFailure::PeerMissing);
    assert!(refused_with(&at_client, "CertificateRequired"), "{at_client}");
}

#[tokio::test]
async fn a_certificate_must_name_exactly_one_spiffe_id() {
    let ca = EmbeddedCa::throwaway();
    let good = |id| certificate(&ca, &id, terms_now());
    for (uris, says) in [
        (vec![], "no URI"),
        (vec![web().to_string(), db().to_string()], "2 URIs"),
        (vec![db().to_string(), "https://example.org".to_owned()], "2 URIs"),
        (vec!["https://example.org".to_owned()], "not a workload's SPIFFE ID"),
        (vec!["spiffe://cluster.local/web".to_owned()], "not of the form"),
    ] {
        let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
        let peer = odd(&ca, &uris);

        let client = peer.client_template().unwrap().expecting(expecting(&[db()]));
        let (_, at_server) = Meeting::of(Arc::new(client), good(db()).server_config())
            .await
            .refused();
        assert!(
            at_server.to_string().contains(says) && at_server.label() == "peer_wrong_identity",
            "{at_server}"
        );

        let server = Arc::new(peer.server_config("cluster.local").unwrap());
        let config = good(web()).client_config(expecting(&[db(), web()]));
        let (at_client, _) = Meeting::of(config, server).await.refused();
        assert!(
            at_client.to_string().contains(says) && at_client.label() == "peer_wrong_identity",
            "{at_client}"
        );
    }
}

/// A leaf for one purpose below an intermediate below a root, as clusters with intermediate CAs have them.
fn below_an_intermediate(id: &SpiffeId, purposes: &[ExtendedKeyUsagePurpose]) -> Credentials {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let new_key = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    // One root for both peers: its key is the same each time.
    static ROOT_KEY: std::sync::LazyLock<KeyPair> =
        std::sync::LazyLock::new(|| KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap());
    let root = authority("root").self_signed(&*ROOT_KEY).unwrap();
    let root_issuer = Issuer::new(authority("root"), &*ROOT_KEY);
    let middle_key = new_key();
    let middle = authority("cluster").signed_by(&middle_key, &root_issuer).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    params.extended_key_usages = purposes.to_vec();
    let key = new_key();
    let leaf = params
        .signed_by(&key, &Issuer::new(authority("cluster"), &middle_key))
        .unwrap();
    credentials(vec![leaf.into(), middle.into()], &key, root.der())
}

#[tokio::test]
async fn intermediates_and_purposes_count() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let meet = |client_purpose, server_purpose| async {
        let client = below_an_intermediate(&web(), &[client_purpose]);
        let server = below_an_intermediate(&db(), &[server_purpose]);
        let client = client.client_template().unwrap().expecting(expecting(&[db()]));
        Meeting::of(
            Arc::new(client),
            Arc::new(server.server_config("cluster.local").unwrap()),
        )
        .await
    };
    meet(ClientAuth, ServerAuth).await.good();
    let (_, at_server) = meet(ServerAuth, ServerAuth).await.refused();
    assert_eq!(at_server.label(), "peer_untrusted", "{at_server}");
    let (at_client, _) = meet(ClientAuth, ClientAuth).await.refused();
    assert_eq!(at_client.label(), "peer_untrusted", "{at_client}");
}

#[test]
fn long_lists_are_cut_in_errors() {
    let expected: Arc<[SpiffeId]> = (0..100).map(|n| id(&format!("spiffe://td/ns/a/sa/s{n}"))).collect();
    let text = IdentityRefused::Unexpected { got: web(), expected }.to_string();
    assert!(text.ends_with("spiffe://td/ns/a/sa/s3 and 96 more"), "{text}");
}

#[test]
fn before_the_handshake_nobody_is_known() {
    let config = certificate(&EmbeddedCa::throwaway(), &db(), terms_now()).server_config();
    let connection = rustls::ServerConnection::new(config).unwrap();
    assert_eq!(proved(&connection), Err(PeerIdentityError::NoCertificate));
}

#[test]
fn other_errors_keep_their_text() {
    let error = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset by somebody");
    assert_eq!(
        explain(&error),
        TlsFailure::Other {
            reason: "reset by somebody".to_owned()
        }
    );
}
