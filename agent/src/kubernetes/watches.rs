//! Following the API server: a list, then what changes, and all over again after an error.

use std::{fmt, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;

use super::{
    api::{words, words_of},
    back_off::BackOff,
    counters::{Counters, Happened},
    store::{News, Of, Store},
};

/// Objects of one answer to a list: an agent is small, and so is what it reads at a time.
const PAGE: u32 = 100;
/// How long a watch may be silent before the server ends it, in seconds; it is taken for dead soon after.
const SILENCE_SECONDS: u32 = 120;
/// The first wait after an error, doubled with each further one, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// One thing to follow.
pub(super) struct Watch<K> {
    pub(super) api: Api<K>,
    pub(super) of: Of,
    /// Only objects with these fields.
    pub(super) fields: Option<String>,
    pub(super) store: Store,
    pub(super) counters: Arc<Counters>,
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    /// Follows for ever. `keep` cuts an object down to its key and what is held of it; `take` is told of that.
    pub(super) async fn follow<T>(
        self,
        keep: impl Fn(&Store, K) -> Option<(String, T)>,
        take: impl Fn(&Store, News<T>),
    ) {
        let mut back_off = BackOff::new(WAITS.0, WAITS.1);
        loop {
            let error = self.until_error(&mut back_off, &keep, &take).await;
            self.counters.watch_failed(self.of);
            let wait = back_off.after_failure(rand::random());
            tracing::warn!(of = ?self.of, error, ?wait, "the API server is not followed; what is known of it stays");
            self.store.failed(self.of, error);
            tokio::time::sleep(wait).await;
        }
    }

    /// After an error all is listed anew: only then it is certain that the server is followed again.
    async fn until_error<T>(
        &self,
        back_off: &mut BackOff,
        keep: &impl Fn(&Store, K) -> Option<(String, T)>,
        take: &impl Fn(&Store, News<T>),
    ) -> String {
        let mut config = watcher::Config::default().page_size(PAGE).timeout(SILENCE_SECONDS);
        if let Some(fields) = &self.fields {
            config = config.fields(fields);
        }
        let mut stream = pin!(watcher::watcher(self.api.clone(), config));
        let mut listed = Vec::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => listed.extend(keep(&self.store, object)),
                Ok(Event::InitDone) => {
                    back_off.reset();
                    tracing::info!(of = ?self.of, count = listed.len(), "the API server is followed");
                    self.counters.happened(Happened::Add, listed.len());
                    take(&self.store, News::All(std::mem::take(&mut listed)));
                }
                Ok(Event::Apply(object)) => {
                    if let Some((key, kept)) = keep(&self.store, object) {
                        self.counters.happened(Happened::Update, 1);
                        take(&self.store, News::Is(key, kept));
                    }
                }
                Ok(Event::Delete(object)) => {
                    if let Some((key, _)) = keep(&self.store, object) {
                        self.counters.happened(Happened::Delete, 1);
                        take(&self.store, News::Gone(key));
                    }
                }
                Err(error) => return told(&error),
            }
        }
        "the watch ended".to_owned()
    }
}

fn told(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(why) => format!("listing: {}", words(why)),
        watcher::Error::WatchStartFailed(why) | watcher::Error::WatchFailed(why) => format!("watching: {}", words(why)),
        watcher::Error::WatchError(status) => format!("watching: {}", words_of(status)),
        other => crate::pods::registry::chain(other),
    }
}
