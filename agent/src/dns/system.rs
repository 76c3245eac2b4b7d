use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    ResolveError, TokioResolver,
    config::{LookupIpStrategy, ResolverOpts},
};

use super::{Answer, DnsError, Resolve};

/// How long one server may take before the next is asked.
const SERVER: Duration = Duration::from_secs(2);
/// Answers the resolver itself keeps; what we keep is kept by [`super::Names`].
const OWN_CACHE: usize = 32;

/// Asks the servers which `/etc/resolv.conf` of this process names. It is read when the first name is asked for, and
/// again as long as that fails.
#[derive(Clone, Default)]
pub(super) struct SystemResolver(Arc<Mutex<Option<TokioResolver>>>);

impl SystemResolver {
    fn resolver(&self) -> Result<TokioResolver, ResolveError> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = &*made {
            return Ok(resolver.clone());
        }
        let mut builder = TokioResolver::builder_tokio()?;
        let options: &mut ResolverOpts = builder.options_mut();
        options.timeout = SERVER;
        options.attempts = 1;
        options.cache_size = OWN_CACHE;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        Ok(made.insert(builder.build()).clone())
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, host: Arc<str>) -> Pin<Box<dyn Future<Output = Result<Answer, DnsError>> + Send>> {
        let resolver = self.resolver();
        Box::pin(async move {
            let failed = |error: ResolveError| {
                let host = Arc::clone(&host);
                if error.is_nx_domain() || error.is_no_records_found() {
                    return DnsError::NoAddress { host };
                }
                DnsError::Failed {
                    host,
                    reason: error.to_string().into(),
                }
            };
            // With its last dot a name is complete: no search domain of this node's is tried.
            let complete = format!("{}.", host.trim_end_matches('.'));
            let found = resolver.map_err(&failed)?.lookup_ip(complete).await.map_err(&failed)?;
            Ok(Answer {
                addresses: found.iter().map(|ip| ip.to_canonical()).collect(),
                valid: found.valid_until().saturating_duration_since(Instant::now()),
            })
        })
    }
}
