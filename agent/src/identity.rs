//! Who a workload is: SPIFFE IDs, the certificates which prove them, and where those come from.
//!
//! | file | what it knows |
//! |---|---|
//! | `spiffe_id` | the name of an identity |
//! | `certificate` | one identity's certificate, ready for both ends of a handshake |
//! | `source` | the seam behind which a CA stands |
//! | `certificates` | the certificates in use: asked for once, renewed in time |
//! | `shelf`, `kept` | certificates that outlive this process in memory |
//! | [`istiod_ca`] | istiod's CA |
//! | [`embedded_ca`] | a CA in a directory, for tests and demo |

mod certificate;
mod certificates;
pub mod embedded_ca;
pub mod istiod_ca;
mod kept;
mod shelf;
mod source;
mod spiffe_id;

pub(crate) use certificate::moment;
pub use certificate::{Certificate, IssuedPem, MaterialError};
pub use certificates::{CertificateError, Certificates, Held, Wanted};
pub use kept::{KeptError, LARGEST_KEPT};
pub use shelf::{MOST_KEPT, Vault};
pub use source::{CertificateSource, IssueError};
pub use spiffe_id::{ParseSpiffeIdError, SpiffeId};
