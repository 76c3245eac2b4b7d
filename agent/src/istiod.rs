//! Reaching istiod, for workloads and for certificates: TLS that proves istiod to us, a token that proves us to istiod
//! (wire-facts §1.1).
//!
//! | file | what it knows |
//! |---|---|
//! | `connector` | TCP and TLS to one address, with roots read anew for every connection |
//! | `details` | gRPC's binary details, taken out of answers |
//! | `headers` | what an operator adds to every call |
//! | `roots` | who istiod must be certified by |
//! | `roots_watch` | when a file of them changes |
//! | `token` | who we are, read anew for every call |

mod connector;
mod details;
mod headers;
mod roots;
mod roots_watch;
mod token;

#[cfg(test)]
pub(crate) mod stage;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};

pub use self::{
    connector::ConnectError,
    details::{WithoutDetails, strip},
    headers::Headers,
    roots::{Roots, RootsError, certificates},
    roots_watch::RootsWatch,
    token::{Token, TokenError},
};
use self::{connector::Connector, token::bearer};

/// A connection with a call under way is asked whether it still lives.
const PING_EVERY: Duration = Duration::from_secs(30);
/// And given up when it does not answer.
const PING_PATIENCE: Duration = Duration::from_secs(10);

/// One address of istiod and how to be believed there. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Contact {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    uri: Uri,
    connector: Connector,
    token: Token,
    cluster_id: MetadataValue<Ascii>,
    headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
}

/// What a [`Contact`] is made of.
#[derive(Clone, Debug)]
pub struct ContactParts<'a> {
    /// `https://HOST:PORT`.
    pub address: &'a str,
    /// Who it must be certified by.
    pub roots: &'a Roots,
    /// Another name its certificate may have.
    pub other_name: Option<&'a str>,
    /// What we prove ourselves with.
    pub token: &'a Token,
    /// Our cluster, as istiod knows it.
    pub cluster_id: &'a str,
    /// Headers an operator adds.
    pub headers: &'a Headers,
}

/// Why an address of istiod cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ContactError {
    /// No address.
    #[error("{address:?} is no address of istiod: it must be https://HOST:PORT")]
    Address {
        /// What was given.
        address: String,
    },
    /// Cannot be sent in a header.
    #[error("{name:?} cannot be sent as a header of a call to istiod")]
    Header {
        /// The header's name.
        name: String,
    },
}

impl Contact {
    /// Checks what it can be checked for without a connection.
    ///
    /// # Errors
    /// When the address is none, or a header cannot be sent.
    pub fn new(parts: &ContactParts<'_>) -> Result<Self, ContactError> {
        let refused = || ContactError::Address {
            address: parts.address.to_owned(),
        };
        let uri: Uri = parts.address.parse().map_err(|_| refused())?;
        if uri.scheme_str() != Some("https") {
            return Err(refused());
        }
        let connector = Connector::new(&uri, parts.roots.clone(), parts.other_name).ok_or_else(refused)?;
        let unsendable = |name: &str| ContactError::Header { name: name.to_owned() };
        let cluster_id = parts.cluster_id.parse().map_err(|_| unsendable("clusterid"))?;
        let mut headers = Vec::new();
        for (name, value) in &parts.headers.0 {
            let key = name.to_ascii_lowercase().parse().map_err(|_| unsendable(name))?;
            let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| unsendable(name))?;
            value.set_sensitive(true);
            headers.push((key, value));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                uri,
                connector,
                token: parts.token.clone(),
                cluster_id,
                headers,
            }),
        })
    }

    /// Connects. Roots are read anew, so that a rotated file is used from the next connection on.
    ///
    /// # Errors
    /// When istiod is not reached within 5 s, or is not who it must be.
    pub async fn connect(&self) -> Result<Channel, ConnectError> {
        self.endpoint()
            .connect_with_connector(self.inner.connector.clone())
            .await
            .map_err(ConnectError::of)
    }

    /// The headers of one call: the token as it is now, the cluster, and what the operator adds.
    ///
    /// # Errors
    /// When the token cannot be read, or is empty.
    pub fn headers(&self) -> Result<MetadataMap, TokenError> {
        let mut headers = MetadataMap::new();
        if let Some(bearer) = bearer(&self.inner.token)? {
            headers.insert("authorization", bearer);
        }
        headers.insert("clusterid", self.inner.cluster_id.clone());
        for (name, value) in &self.inner.headers {
            headers.insert(name.clone(), value.clone());
        }
        Ok(headers)
    }

    /// `https://HOST:PORT`.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.inner.uri
    }

    /// Who istiod must be certified by.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        self.inner.connector.roots()
    }

    /// Our cluster, as istiod knows it.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        self.inner.cluster_id.to_str().unwrap_or_default()
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.inner.uri.clone())
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            // istiod takes pings without a call for an attack (gRPC's too_many_pings) and closes the connection.
            .keep_alive_while_idle(false)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(2 << 20)
    }
}
