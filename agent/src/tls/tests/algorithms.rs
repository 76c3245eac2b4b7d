//! Versions, key exchange, ciphers, ALPN and the server name.

use rustls::CipherSuite;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::version::TLS13;

use super::*;
use crate::tls::verify::ServerVerifier;

fn pair() -> (Certificate, Certificate) {
    let ca = EmbeddedCa::throwaway();
    (
        certificate(&ca, &web(), terms_now()),
        certificate(&ca, &db(), terms_now()),
    )
}

/// A client of the same mesh with other algorithms than ours.
fn foreign_client(provider: CryptoProvider) -> (Arc<ClientConfig>, Certificate) {
    let ca = EmbeddedCa::throwaway();
    let own = certificate(&ca, &web(), terms_now());
    let ours = own.client_config(expecting(&[db()]));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(Arc::new(roots), expecting(&[db()]))))
        .with_client_cert_resolver(ours.client_auth_cert_resolver.clone());
    config.alpn_protocols = ours.alpn_protocols.clone();
    (Arc::new(config), certificate(&ca, &db(), terms_now()))
}

fn with_groups(groups: &[&'static dyn SupportedKxGroup]) -> CryptoProvider {
    CryptoProvider {
        kx_groups: groups.to_vec(),
        ..default_provider()
    }
}

#[tokio::test]
async fn ours_to_ours_is_post_quantum() {
    let (client, server) = pair();
    let meeting = Meeting::of(client.client_config(expecting(&[db()])), server.server_config()).await;
    let (at_client, at_server) = meeting.good();
    for side in [at_client, at_server] {
        assert_eq!(side.group, Some(NamedGroup::X25519MLKEM768));
        assert_eq!(side.suite, Some(CipherSuite::TLS13_AES_128_GCM_SHA256));
        assert_eq!(side.kind, Some(HandshakeKind::Full), "and takes no second round trip");
    }
}

#[tokio::test]
async fn classical_clients_are_served() {
    for (group, name) in [
        (kx_group::X25519, NamedGroup::X25519),
        (kx_group::SECP256R1, NamedGroup::secp256r1),
    ] {
        let (client, server) = foreign_client(with_groups(&[group]));
        let (_, at_server) = Meeting::of(client, server.server_config()).await.good();
        assert_eq!(
            (at_server.group, at_server.kind),
            (Some(name), Some(HandshakeKind::Full))
        );
    }
}

#[tokio::test]
async fn classical_servers_are_reached_without_a_second_round_trip() {
    let ca = EmbeddedCa::throwaway();
    let (leaf, key) = ca.sign(&[db().as_str()], terms_now()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root().clone()).unwrap();
    let mut server = ServerConfig::builder_with_provider(Arc::new(with_groups(&[kx_group::X25519])))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.into()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    server.alpn_protocols = vec![ALPN_H2.to_vec()];
    let client = certificate(&ca, &web(), terms_now()).client_config(expecting(&[db()]));
    let (near, far) = duplex(64 * 1024);
    let (client, server) = tokio::join!(connect(near, client), TlsAcceptor::from(Arc::new(server)).accept(far));
    let (client, _) = (client.unwrap(), server.unwrap());
    let state = client.0.get_ref().1;
    assert_eq!(
        state.negotiated_key_exchange_group().unwrap().name(),
        NamedGroup::X25519
    );
    assert_eq!(state.handshake_kind(), Some(HandshakeKind::Full));
}

#[tokio::test]
async fn algorithms_outside_the_list_are_refused() {
    let (client, server) = foreign_client(with_groups(&[kx_group::SECP384R1]));
    Meeting::of(client, server.server_config()).await.refused();
    let only = |suite| CryptoProvider {
        cipher_suites: vec![suite],
        ..default_provider()
    };
    let (client, server) = foreign_client(only(cipher_suite::TLS13_CHACHA20_POLY1305_SHA256));
    Meeting::of(client, server.server_config()).await.refused();
    let (client, server) = foreign_client(only(cipher_suite::TLS13_AES_256_GCM_SHA384));
    let (_, at_server) = Meeting::of(client, server.server_config()).await.good();
    assert_eq!(at_server.suite, Some(CipherSuite::TLS13_AES_256_GCM_SHA384));
}

#[tokio::test]
async fn another_or_no_alpn_is_refused() {
    let (client, server) = pair();
    for protocols in [vec![b"http/1.1".to_vec()], vec![]] {
        let mut odd = ClientConfig::clone(&client.client_config(expecting(&[db()])));
        odd.alpn_protocols = protocols.clone();
        let (_, at_server) = Meeting::of(Arc::new(odd), server.server_config()).await.refused();
        assert!(at_server.to_string().contains("ALPN \"h2\""), "{at_server}");

        let mut odd = ServerConfig::clone(&server.server_config());
        odd.alpn_protocols = protocols;
        let (at_client, _) = Meeting::of(client.client_config(expecting(&[db()])), Arc::new(odd))
            .await
            .refused();
        assert!(at_client.to_string().contains("HBONE endpoint"), "{at_client}");
    }
}

/// A handshake record around a hello of TLS 1.2, which has no `supported_versions`.
fn tls12_hello(message: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap();
    let mut record = vec![22, 3, 3];
    record.extend((length + 4).to_be_bytes());
    record.extend([message, 0]);
    record.extend(length.to_be_bytes());
    record.extend(body);
    record
}

#[tokio::test]
async fn a_tls_1_2_client_is_refused() {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session; ECDHE-ECDSA and -RSA with AES-128-GCM; no compression; X25519 and P-256; ECDSA with P-256; ALPN h2.
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    let extensions = [
        [0, 10, 0, 6, 0, 4, 0, 29, 0, 23].as_slice(),
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 4, 0, 2, 4, 3],
        &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'],
        &[0, 23, 0, 0],
    ]
    .concat();
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);

    let (mut near, far) = duplex(64 * 1024);
    near.write_all(&tls12_hello(1, &body)).await.unwrap();
    let failure = accept(far, pair().1.server_config()).await.err().unwrap();
    assert_eq!(
        failure,
        TlsFailure::Other {
            reason: "the peer does not speak TLS 1.3".to_owned()
        }
    );
    let mut alert = Vec::new();
    near.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert[..1], [21]);
    assert_eq!(alert[3..], [0, 2, 2, 70], "fatal protocol_version and nothing else");
}

#[tokio::test]
async fn a_tls_1_2_server_is_refused() {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0xc0, 0x2b, 0]);
    let (mut near, far) = duplex(64 * 1024);
    near.write_all(&tls12_hello(2, &body)).await.unwrap();
    let failure = connect(far, pair().0.client_config(expecting(&[db()])))
        .await
        .err()
        .unwrap();
    assert_eq!(
        failure,
        TlsFailure::Other {
            reason: "the peer does not speak TLS 1.3".to_owned()
        }
    );
}

#[test]
fn the_hello_names_no_server() {
    let config = pair().0.client_config(expecting(&[db()]));
    let hello = |config: Arc<ClientConfig>| {
        // An address would never be sent; a name is, unless it is turned off.
        let name = ServerName::try_from("db.demo.svc").unwrap();
        let mut connection = rustls::ClientConnection::new(config, name).unwrap();
        let mut flight = Vec::new();
        connection.write_tls(&mut flight).unwrap();
        let mut acceptor = Acceptor::default();
        let mut rest = flight.as_slice();
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest).unwrap();
        }
        let accepted = acceptor.accept().map_err(|(error, _)| error).unwrap().unwrap();
        let hello = accepted.client_hello();
        let groups: Vec<NamedGroup> = hello.named_groups().unwrap().to_vec();
        let alpn: Vec<Vec<u8>> = hello.alpn().unwrap().map(<[u8]>::to_vec).collect();
        (hello.server_name().map(str::to_owned), groups, alpn)
    };
    let (name, groups, alpn) = hello(config.clone());
    assert_eq!(name, None);
    assert_eq!(
        groups,
        [NamedGroup::X25519MLKEM768, NamedGroup::X25519, NamedGroup::secp256r1]
    );
    assert_eq!(alpn, [b"h2"]);

    let mut talkative = ClientConfig::clone(&config);
    talkative.enable_sni = true;
    assert_eq!(hello(Arc::new(talkative)).0.as_deref(), Some("db.demo.svc"));
}
