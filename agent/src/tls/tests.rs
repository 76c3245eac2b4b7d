//! Whole handshakes over an in-memory pipe, with application data after them. A refused one must have let no byte of it
//! through in either direction, which [`Meeting::refused`] checks.

mod algorithms;
mod identities;
mod resumption;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, CommonState, HandshakeKind, NamedGroup, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::identity::embedded_ca::{EmbeddedCa, Terms};
use crate::identity::{Certificate, SpiffeId};

const QUESTION: &[u8] = b"question";
const ANSWER: &[u8] = b"answer";

/// How a handshake and an exchange after it went, on each side.
struct Meeting {
    client: Result<Side, TlsFailure>,
    server: Result<Side, TlsFailure>,
}

/// One side of a meeting that went well.
struct Side {
    peer: SpiffeId,
    heard: Vec<u8>,
    group: Option<NamedGroup>,
    suite: Option<rustls::CipherSuite>,
    kind: Option<HandshakeKind>,
    tickets: u32,
}

impl Side {
    fn new(peer: SpiffeId, heard: Vec<u8>, state: &CommonState, tickets: u32) -> Self {
        Self {
            peer,
            heard,
            group: state.negotiated_key_exchange_group().map(|group| group.name()),
            suite: state.negotiated_cipher_suite().map(|suite| suite.suite()),
            kind: state.handshake_kind(),
            tickets,
        }
    }
}

impl Meeting {
    async fn of(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Self {
        let (near, far) = duplex(256 * 1024);
        let (client, server) = tokio::join!(ask(near, client), answer(far, server));
        Self { client, server }
    }

    /// Both sides, after both heard all that was said.
    fn good(self) -> (Side, Side) {
        let (client, server) = (self.client.unwrap(), self.server.unwrap());
        assert_eq!((client.heard.as_slice(), server.heard.as_slice()), (ANSWER, QUESTION));
        (client, server)
    }

    /// What the client and the server say about their failure. Neither has taken a byte of the other's data: a [`Side`]
    /// is made as soon as one is read.
    fn refused(self) -> (TlsFailure, TlsFailure) {
        (
            self.client.err().expect("the client heard nothing"),
            self.server.err().expect("the server heard nothing"),
        )
    }
}

/// The client's side. A failure of the read after the handshake counts only when nothing was heard.
async fn ask(io: DuplexStream, config: Arc<ClientConfig>) -> Result<Side, TlsFailure> {
    let (mut stream, peer) = connect(io, config).await?;
    // A server that refuses us may be gone already; the read tells why.
    stream.write_all(QUESTION).await.ok();
    stream.flush().await.ok();
    let mut heard = Vec::new();
    let outcome = stream.read_to_end(&mut heard).await;
    if heard.is_empty() {
        outcome.map_err(|error| explain(&error))?;
        return Err(TlsFailure::Other {
            reason: "closed without a word".to_owned(),
        });
    }
    let connection = stream.get_ref().1;
    Ok(Side::new(
        peer.id,
        heard,
        connection,
        connection.tls13_tickets_received(),
    ))
}

async fn answer(io: DuplexStream, config: Arc<ServerConfig>) -> Result<Side, TlsFailure> {
    let (mut stream, peer) = accept(io, config).await?;
    let mut heard = Vec::new();
    let outcome = (&mut stream).take(QUESTION.len() as u64).read_to_end(&mut heard).await;
    if heard.is_empty() {
        outcome.map_err(|error| explain(&error))?;
        return Err(TlsFailure::Other {
            reason: "closed without a word".to_owned(),
        });
    }
    stream.write_all(ANSWER).await.map_err(|error| explain(&error))?;
    stream.shutdown().await.map_err(|error| explain(&error))?;
    Ok(Side::new(peer.id, heard, stream.get_ref().1, 0))
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn web() -> SpiffeId {
    id("spiffe://cluster.local/ns/demo/sa/web")
}

fn db() -> SpiffeId {
    id("spiffe://cluster.local/ns/demo/sa/db")
}

fn expecting(ids: &[SpiffeId]) -> Arc<[SpiffeId]> {
    ids.into()
}

fn terms_now() -> Terms {
    Terms::day_from(SystemTime::now())
}

fn expired() -> Terms {
    let end = SystemTime::now() - Duration::from_secs(3600);
    Terms {
        not_before: end - Duration::from_secs(3600),
        not_after: end,
    }
}

fn not_begun() -> Terms {
    let begin = SystemTime::now() + Duration::from_secs(3600);
    Terms {
        not_before: begin,
        not_after: begin + Duration::from_secs(3600),
    }
}

fn certificate(ca: &EmbeddedCa, id: &SpiffeId, terms: Terms) -> Certificate {
    Certificate::from_pem(id.clone(), &ca.issue_pem(id, terms).unwrap()).unwrap()
}

/// A leaf of one CA whose owner trusts another's root.
fn straddling(issuer: &EmbeddedCa, trusted: &EmbeddedCa, id: &SpiffeId) -> Certificate {
    let mut pem = issuer.issue_pem(id, terms_now()).unwrap();
    pem.root = trusted.root_pem().to_owned();
    Certificate::from_pem(id.clone(), &pem).unwrap()
}

/// A leaf with any URIs, as [`Certificate`] would refuse to hold.
fn odd(ca: &EmbeddedCa, uris: &[&str]) -> Credentials {
    let (leaf, key) = ca.sign(uris, terms_now()).unwrap();
    credentials(vec![leaf.into()], &key, ca.root())
}

fn credentials(
    chain: Vec<CertificateDer<'static>>,
    key: &rcgen::KeyPair,
    root: &CertificateDer<'static>,
) -> Credentials {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Credentials::new(chain, key, std::slice::from_ref(root)).unwrap()
}

/// `web` connects to `db`, both of one CA, each having certificates with the given terms.
async fn meet_with_terms(client: Terms, server: Terms) -> Meeting {
    let ca = EmbeddedCa::throwaway();
    let (client, server) = (certificate(&ca, &web(), client), certificate(&ca, &db(), server));
    Meeting::of(client.client_config(expecting(&[db()])), server.server_config()).await
}
