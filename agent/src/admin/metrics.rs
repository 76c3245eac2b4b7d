//! The scrape endpoint (wire-facts §8.1).

use std::sync::Arc;

use http::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::{
    reply::{self, Reply},
    server::{Asked, Site},
};

/// How metrics are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// Writes all metrics down as they are now. May take its time: it is called on a thread of its own.
pub type Metrics = Arc<dyn Fn(Format) -> String + Send + Sync>;

/// Scrapes written down at one time; more wait for their turn.
const AT_ONCE: usize = 2;

/// Port 15020.
pub(super) struct MetricsSite {
    metrics: Metrics,
    turns: Arc<Semaphore>,
}

impl MetricsSite {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Site for MetricsSite {
    const PATHS: &'static [(Method, &'static str, &'static str)] = &[
        (
            Method::GET,
            "/metrics",
            "metrics, as OpenMetrics where that is accepted",
        ),
        (Method::GET, "/stats/prometheus", "the same"),
    ];

    async fn answer(&self, asked: Asked) -> Reply {
        let format = Format::wanted(asked.accept.as_deref());
        // The semaphore is never closed. Whoever was cut meanwhile has its turn to the end: that thread cannot be stopped.
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let metrics = Arc::clone(&self.metrics);
        let written = tokio::task::spawn_blocking(move || {
            let text = metrics(format);
            drop(turn);
            text
        });
        match written.await {
            Ok(text) => reply::whole(StatusCode::OK, format.content_type(), text),
            Err(error) => {
                tracing::error!(%error, "writing down the metrics");
                reply::text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the metrics could not be written down; see the log\n",
                )
            }
        }
    }
}

impl Format {
    /// OpenMetrics if the client takes it at least as gladly as text (RFC 9110 §12.5.1).
    fn wanted(accept: Option<&str>) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let quality = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
            match kind {
                "application/openmetrics-text" => open = open.max(quality),
                "text/plain" => text = text.max(quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text;charset=utf-8;version=1.0.0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_given_to_those_who_prefer_it_and_text_to_all_others() {
        // As Prometheus 2 and 3 send it.
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            prometheus,
            "application/openmetrics-text",
            "text/plain, application/openmetrics-text",
        ] {
            assert_eq!(Format::wanted(Some(accept)), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/html,*/*;q=0.8",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
            "application/openmetrics-text;q=0.2,text/plain;q=0.3",
        ] {
            assert_eq!(Format::wanted(Some(accept)), Format::Text, "{accept}");
        }
        assert_eq!(Format::wanted(None), Format::Text);
    }
}
