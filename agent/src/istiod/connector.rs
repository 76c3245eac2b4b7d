//! TCP and TLS to istiod.

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_service::Service;

use super::roots::{self, Roots, RootsError};
use crate::tls;

/// How long reaching istiod may take, TLS included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connects to one address.
#[derive(Clone)]
pub(super) struct Connector {
    host: Arc<str>,
    port: u16,
    name: ServerName<'static>,
    other_name: Option<ServerName<'static>>,
    roots: Roots,
}

/// Why istiod could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error("istiod at {at} is not reached")]
    Unreachable {
        /// Address.
        at: String,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// No answer.
    #[error("istiod at {at} does not answer within {} s", PATIENCE.as_secs())]
    TimedOut {
        /// Address.
        at: String,
    },
    /// Not who it must be.
    #[error(
        "TLS with istiod at {at} failed (roots and host name are --xds-root-ca, --xds-hostname and their --ca- likes)"
    )]
    Tls {
        /// Address.
        at: String,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// Nobody to trust.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// Whatever the transport says besides.
    #[error("the connection to istiod failed")]
    Transport(#[source] Box<dyn Error + Send + Sync>),
}

impl ConnectError {
    /// The reason behind what the transport says: it wraps the connector's.
    pub(super) fn of(error: tonic::transport::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = error.source();
        while let Some(inner) = cause {
            if let Some(own) = inner.downcast_ref::<Handed>() {
                if let Some(own) = own.take() {
                    return own;
                }
                break;
            }
            cause = inner.source();
        }
        Self::Transport(Box::new(error))
    }
}

/// A [`ConnectError`] on its way through a transport that only lends it.
struct Handed(std::sync::Mutex<Option<ConnectError>>);

impl Handed {
    fn take(&self) -> Option<ConnectError> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => f.write_str(&tls::with_causes(error)),
            None => f.write_str("istiod was not reached"),
        }
    }
}

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f)
    }
}

impl fmt::Display for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f)
    }
}

impl Error for Handed {}

impl Connector {
    /// None when the address has no host, or a name is none.
    pub(super) fn new(uri: &Uri, roots: Roots, other_name: Option<&str>) -> Option<Self> {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let other_name = match other_name {
            None => None,
            Some(name) => Some(ServerName::try_from(name.to_owned()).ok()?),
        };
        Some(Self {
            host: host.into(),
            port: uri.port_u16().unwrap_or(443),
            name: ServerName::try_from(host.to_owned()).ok()?,
            other_name,
            roots,
        })
    }

    pub(super) fn roots(&self) -> &Roots {
        &self.roots
    }

    async fn connect(self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let at = format!("{}:{}", self.host, self.port);
        let reaching = async {
            let config = self.config()?;
            let tcp = TcpStream::connect((&*self.host, self.port))
                .await
                .map_err(|cause| ConnectError::Unreachable { at: at.clone(), cause })?;
            stay_alive(&tcp).map_err(|cause| ConnectError::Unreachable { at: at.clone(), cause })?;
            TlsConnector::from(config)
                .connect(self.name.clone(), tcp)
                .await
                .map_err(|cause| ConnectError::Tls { at: at.clone(), cause })
        };
        match timeout(PATIENCE, reaching).await {
            Ok(reached) => reached,
            Err(_) => Err(ConnectError::TimedOut { at: at.clone() }),
        }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        let mut store = RootCertStore::empty();
        // A platform's store may hold some that nobody can use; a mesh's file may be of such alone.
        if let (0, _) = store.add_parsable_certificates(roots::certificates(&self.roots)?) {
            let origin = self.roots.to_string();
            return Err(RootsError::Unusable { origin }.into());
        }
        let failed = |cause: Box<dyn Error + Send + Sync>| ConnectError::Transport(cause);
        let provider = tls::provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .build()
            .map_err(|error| failed(error.into()))?;
        let verifier = EitherName {
            verifier,
            other: self.other_name.clone(),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(error.into()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// A control plane that vanished without a word is noticed also where it is not spoken to.
fn stay_alive(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(300))
        .with_interval(Duration::from_secs(75))
        .with_retries(9);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = self.clone().connect();
        Box::pin(async move {
            match connecting.await {
                Ok(stream) => Ok(TokioIo::new(stream)),
                Err(error) => Err(Handed(std::sync::Mutex::new(Some(error))).into()),
            }
        })
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The usual check, which a second name may pass where the first does not.
#[derive(Debug)]
struct EitherName {
    verifier: Arc<WebPkiServerVerifier>,
    other: Option<ServerName<'static>>,
}

impl ServerCertVerifier for EitherName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let check = |name: &ServerName<'_>| {
            self.verifier
                .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        match (check(server_name), &self.other) {
            (
                Err(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )),
                Some(other),
            ) => check(other),
            (checked, _) => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
