//! All metrics as text, for Prometheus or OpenMetrics.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{
    labels::Labels,
    metric::{Kind, Metric},
    traffic::ResponseFlag,
};

/// Which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// All metrics of the process, from sources that are asked when the text is made.
#[derive(Default)]
pub struct Exposition {
    sources: Mutex<Vec<Arc<Source>>>,
}

type Source = dyn Fn(&mut Families) + Send + Sync;

/// What sources tell: a copy, of which the text is made when nobody is kept waiting any more.
#[derive(Debug, Default)]
pub struct Families(Vec<Family>);

#[derive(Debug)]
struct Family {
    metric: &'static Metric,
    samples: Vec<(Shown, Value)>,
}

/// Labels of one sample.
#[derive(Debug)]
pub(super) enum Shown {
    Pairs(Vec<(&'static str, Arc<str>)>),
    Traffic(Arc<Labels>, ResponseFlag),
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Whole(u64),
    Real(f64),
}

impl Format {
    /// The format to answer with, by the header `Accept`: OpenMetrics for those who name it.
    #[must_use]
    pub fn of_accept(accept: Option<&str>) -> Self {
        if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The header `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text;charset=utf-8;version=1.0.0",
        }
    }
}

impl Exposition {
    /// Asks `source` whenever the text is made. It must be quick and take no lock that is held for long.
    pub fn add(&self, source: impl Fn(&mut Families) + Send + Sync + 'static) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.push(Arc::new(source));
    }

    /// The text as of now. No lock is held while it is made.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut families = Families::default();
        for source in &sources {
            source(&mut families);
        }
        let mut registry = Registry::default();
        registry.register_collector(Box::new(families));
        let mut rendered = String::new();
        if text::encode(&mut rendered, &registry).is_err() {
            // Writing to a String does not fail, and neither do the encoders of whole numbers and texts.
            tracing::error!("the text of the metrics is incomplete");
        }
        match format {
            Format::OpenMetrics => rendered,
            Format::Prometheus => plain(&rendered),
        }
    }
}

/// OpenMetrics names a counter's family without `_total` and ends the text with a mark; the older format does neither.
fn plain(rendered: &str) -> String {
    let mut text = String::with_capacity(rendered.len());
    let mut lines = rendered.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (Some(what), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let kind = if what == "TYPE" {
            Some(line)
        } else {
            lines.peek().copied()
        };
        let total = if kind.is_some_and(|line| line.ends_with(" counter\n")) {
            "_total"
        } else {
            ""
        };
        for part in ["# ", what, " ", name, total, " ", rest] {
            text.push_str(part);
        }
    }
    text
}

impl Families {
    /// A metric without labels.
    pub fn value(&mut self, metric: &'static Metric, value: u64) {
        self.push(metric, Shown::Pairs(Vec::new()), Value::Whole(value));
    }

    /// A metric that counts seconds.
    pub fn seconds(&mut self, metric: &'static Metric, value: f64) {
        self.push(metric, Shown::Pairs(Vec::new()), Value::Real(value));
    }

    /// A metric with labels.
    pub fn labelled(
        &mut self,
        metric: &'static Metric,
        labels: impl IntoIterator<Item = (&'static str, Arc<str>)>,
        value: u64,
    ) {
        self.push(metric, Shown::Pairs(labels.into_iter().collect()), Value::Whole(value));
    }

    pub(super) fn shown(&mut self, metric: &'static Metric, labels: Shown, value: u64) {
        self.push(metric, labels, Value::Whole(value));
    }

    fn push(&mut self, metric: &'static Metric, labels: Shown, value: Value) {
        let family = match self.0.iter_mut().find(|family| family.metric.name == metric.name) {
            Some(family) => family,
            None => {
                let samples = Vec::new();
                self.0.push_mut(Family { metric, samples })
            }
        };
        family.samples.push((labels, value));
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { metric, samples } in &self.0 {
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut encoder = encoder.encode_descriptor(name, metric.help, None, kind)?;
            for (labels, value) in samples {
                match labels {
                    Shown::Pairs(pairs) if pairs.is_empty() => write_sample(metric.kind, &mut encoder, *value)?,
                    labels => write_sample(metric.kind, &mut encoder.encode_family(labels)?, *value)?,
                }
            }
        }
        Ok(())
    }
}

fn write_sample(kind: Kind, encoder: &mut MetricEncoder<'_>, value: Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Whole(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (Kind::Counter, Value::Real(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (Kind::Gauge, Value::Whole(value)) => encoder.encode_gauge(&value),
        (Kind::Gauge, Value::Real(value)) => encoder.encode_gauge(&value),
    }
}

impl EncodeLabelSet for Shown {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        match self {
            Self::Pairs(pairs) => {
                for (name, value) in pairs {
                    (*name, &**value).encode(encoder.encode_label())?;
                }
                Ok(())
            }
            Self::Traffic(labels, flag) => {
                let mut written = Ok(());
                labels.each(flag.text(), |name, value| {
                    if written.is_ok() {
                        written = (name, value).encode(encoder.encode_label());
                    }
                });
                written
            }
        }
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}
