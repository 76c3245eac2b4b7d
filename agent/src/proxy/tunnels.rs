use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::identity::SpiffeId;

/// The open tunnels of one pod or gateway, for whoever asks what there is. Entered once a tunnel, never a stream.
#[derive(Clone, Default)]
pub(crate) struct Tunnels(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Open>,
}

struct Open {
    dialled: bool,
    peer: SocketAddr,
    identity: SpiffeId,
    since: Instant,
    streams: Box<dyn Fn() -> usize + Send>,
}

/// Stands for one open tunnel.
pub(crate) struct Listed {
    table: Arc<Mutex<Table>>,
    key: u64,
}

/// An open tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelInfo {
    /// Whether we dialled it, rather than the peer.
    pub dialled: bool,
    /// The other end.
    pub peer: SocketAddr,
    /// Identity which the other end proved.
    pub identity: SpiffeId,
    /// Streams open now.
    pub streams: usize,
    /// How long it has been open.
    pub age: Duration,
}

impl Tunnels {
    /// A tunnel we dialled. `streams` counts what is open in it, and must not keep the tunnel alive.
    pub(crate) fn dialled(
        &self,
        peer: SocketAddr,
        identity: SpiffeId,
        streams: impl Fn() -> usize + Send + 'static,
    ) -> Listed {
        self.enter(true, peer, identity, Box::new(streams))
    }

    /// A tunnel the peer dialled; `streams` as above.
    pub(crate) fn accepted(
        &self,
        peer: SocketAddr,
        identity: SpiffeId,
        streams: impl Fn() -> usize + Send + 'static,
    ) -> Listed {
        self.enter(false, peer, identity, Box::new(streams))
    }

    fn enter(
        &self,
        dialled: bool,
        peer: SocketAddr,
        identity: SpiffeId,
        streams: Box<dyn Fn() -> usize + Send>,
    ) -> Listed {
        let mut table = lock(&self.0);
        let key = table.next;
        table.next += 1;
        let open = Open {
            dialled,
            peer,
            identity,
            since: Instant::now(),
            streams,
        };
        table.open.insert(key, open);
        Listed {
            table: Arc::clone(&self.0),
            key,
        }
    }

    /// The oldest ones, at most `most`.
    pub(crate) fn list(&self, most: usize) -> Vec<TunnelInfo> {
        let table = lock(&self.0);
        let mut keys: Vec<&u64> = table.open.keys().collect();
        keys.sort_unstable();
        keys.into_iter()
            .take(most)
            .filter_map(|key| table.open.get(key))
            .map(|open| TunnelInfo {
                dialled: open.dialled,
                peer: open.peer,
                identity: open.identity.clone(),
                streams: (open.streams)(),
                age: open.since.elapsed(),
            })
            .collect()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.table).open.remove(&self.key);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(account: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "demo", account).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_listed_as_long_as_its_guard_lives_oldest_first() {
        let tunnels = Tunnels::default();
        let first = tunnels.dialled(([10, 0, 0, 1], 15008).into(), id("server"), || 3);
        tokio::time::advance(Duration::from_secs(5)).await;
        let _second = tunnels.accepted(([10, 0, 0, 2], 40000).into(), id("client"), || 0);
        let listed = tunnels.list(10);
        let told: Vec<_> = listed
            .iter()
            .map(|tunnel| (tunnel.dialled, tunnel.streams, tunnel.age.as_secs()))
            .collect();
        assert_eq!(told, [(true, 3, 5), (false, 0, 0)]);
        assert_eq!(tunnels.list(1), listed.get(..1).unwrap());
        drop(first);
        assert_eq!(
            tunnels.list(10).first().map(|tunnel| tunnel.identity.clone()),
            Some(id("client"))
        );
    }
}
