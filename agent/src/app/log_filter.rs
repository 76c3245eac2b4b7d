//! The log, and changing what is in it.

use std::{
    io::{self, IsTerminal as _},
    sync::Arc,
};

use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

use crate::{admin::Logging, cli::LogFormat};

/// Logs to standard error; `RUST_LOG` filters.
pub fn start_log(format: LogFormat) -> Arc<dyn Logging> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let first = filter.to_string();
    let (filter, handle) = reload::Layer::new(filter);
    let log = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Json => log.with(lines.json().flatten_event(true)).init(),
        LogFormat::Plain => log.with(lines.with_ansi(io::stderr().is_terminal())).init(),
    }
    Arc::new(LogFilter { first, handle })
}

/// The filter of the log, which may be replaced.
struct LogFilter {
    first: String,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl Logging for LogFilter {
    fn current(&self) -> String {
        self.handle.with_current(ToString::to_string).unwrap_or_default()
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        self.handle.reload(filter).map_err(|error| error.to_string())
    }

    fn reset(&self) {
        if let Err(error) = self.set(&self.first) {
            tracing::error!(error, "the log filter cannot be reset");
        }
    }
}
