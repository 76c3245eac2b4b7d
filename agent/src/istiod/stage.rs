//! For tests: a server with TLS as istiod has it, on a thread of its own, that can be killed with all its connections.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use futures_util::stream;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::service::Routes;
use tonic::transport::server::{Connected, Server};

use crate::tls;

/// A CA that certifies servers, and whatever a test signs with it.
pub(crate) struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let (params, key) = Self::params(name);
        let certificate = params.self_signed(&key).unwrap();
        Self::of(&certificate, params, key)
    }

    /// Another one, certified by this.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let (params, key) = Self::params(name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self::of(&certificate, params, key)
    }

    fn params(name: &str) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params, KeyPair::generate().unwrap())
    }

    fn of(certificate: &rcgen::Certificate, params: CertificateParams, key: KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// For a server of these names; addresses are names too.
    pub(crate) fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

/// A running server. Dropping it kills it.
pub(crate) struct Stage {
    pub(crate) at: SocketAddr,
    connections: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Stage {
    /// Serves on a free port.
    pub(crate) fn start(routes: Routes, config: Arc<ServerConfig>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), routes, config)
    }

    pub(crate) fn start_at(at: SocketAddr, routes: Routes, config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let at = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let accepted = stream::unfold((listener, config, counted), |(listener, config, counted)| async move {
                    loop {
                        let (tcp, _) = listener.accept().await.unwrap();
                        counted.fetch_add(1, Ordering::SeqCst);
                        if let Ok(tls) = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await {
                            return Some((Ok::<_, io::Error>(Accepted(tls)), (listener, config, counted)));
                        }
                    }
                });
                let accepted = Box::pin(accepted);
                tokio::select! {
                    served = Server::builder().add_routes(routes).serve_with_incoming(accepted) => served.unwrap(),
                    _ = stopped => {}
                }
            });
            // With the runtime end all connections.
            runtime.shutdown_timeout(Duration::ZERO);
        });
        Self {
            at,
            connections,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

struct Accepted(TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
