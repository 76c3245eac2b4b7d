//! Data threads. Each runs a current-thread runtime; a pod is served wholly by one of them, so that a connection, its
//! tunnel and its relay never cross threads (design §9: one thread moved more than two that hand over to each other).

pub mod vigil;

use std::{io, num::NonZeroUsize, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// The data threads. They end when this is dropped.
pub struct Shards(Vec<Shard>);

struct Shard {
    handle: Handle,
    /// How many pods it serves: one clone of this for each.
    load: Arc<()>,
    _end: oneshot::Sender<()>,
}

/// A pod's place on a data thread.
#[derive(Clone)]
pub struct Place {
    handle: Handle,
    _load: Arc<()>,
}

impl Place {
    /// Where the pod's tasks run.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Shards {
    /// Starts the threads. Each stays awake for up to `vigil` when more work is about to come (see [`vigil`]).
    pub fn start(count: NonZeroUsize, vigil: Duration) -> io::Result<Self> {
        (0..count.get())
            .map(|number| Shard::start(number, vigil))
            .collect::<io::Result<Vec<_>>>()
            .map(Self)
    }

    /// A place on the thread with the fewest pods.
    pub fn place(&self) -> Option<Place> {
        let shard = self.0.iter().min_by_key(|shard| Arc::strong_count(&shard.load))?;
        Some(Place {
            handle: shard.handle.clone(),
            _load: Arc::clone(&shard.load),
        })
    }
}

impl Shard {
    fn start(number: usize, vigil: Duration) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        thread::Builder::new().name(format!("data-{number}")).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // Resolves with an error when the sender is dropped, which is the signal.
                    _ = ended => {}
                    () = vigil::keep(vigil) => {}
                }
            });
        })?;
        Ok(Self {
            handle,
            load: Arc::new(()),
            _end: end,
        })
    }
}
