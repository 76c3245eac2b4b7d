//! No session outlives its connection: a resumed one would skip the certificates.

use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;

use super::*;

/// Meets twice and says what the client got the first time, and how the second handshake went.
async fn twice(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (u32, Option<HandshakeKind>) {
    let (first, _) = Meeting::of(client.clone(), server.clone()).await.good();
    let (second, _) = Meeting::of(client, server).await.good();
    (first.tickets, second.kind)
}

#[tokio::test]
async fn neither_side_resumes() {
    let ca = EmbeddedCa::throwaway();
    let client = certificate(&ca, &web(), terms_now()).client_config(expecting(&[db()]));
    let server = certificate(&ca, &db(), terms_now()).server_config();
    let mut eager = ClientConfig::clone(&client);
    eager.resumption = Resumption::in_memory_sessions(16);
    let eager = Arc::new(eager);
    let mut generous = ServerConfig::clone(&server);
    generous.session_storage = ServerSessionMemoryCache::new(16);
    generous.send_tls13_tickets = 2;
    let generous = Arc::new(generous);

    // First that it would be seen: two that want to resume do.
    assert_eq!(
        twice(eager.clone(), generous.clone()).await,
        (2, Some(HandshakeKind::Resumed))
    );
    assert_eq!(twice(eager, server.clone()).await, (0, Some(HandshakeKind::Full)));
    assert_eq!(twice(client.clone(), generous).await.1, Some(HandshakeKind::Full));
    assert_eq!(twice(client, server).await, (0, Some(HandshakeKind::Full)));
}
