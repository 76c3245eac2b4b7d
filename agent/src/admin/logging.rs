//! Changing what is logged while the agent runs, as `istioctl ztunnel-config log` asks for it (wire-facts §9.1).

use http::StatusCode;

use super::{
    query::Query,
    reply::{self, Reply},
};

/// What is logged.
pub trait Logging: Send + Sync {
    /// The filter in force, such as `info,access=debug`.
    fn current(&self) -> String;

    /// Replaces the filter.
    ///
    /// # Errors
    /// When it cannot be read; the filter in force stays.
    fn set(&self, filter: &str) -> Result<(), String>;

    /// Goes back to the filter the agent was started with.
    fn reset(&self);
}

/// `POST /logging`, `POST /logging?level=FILTER`, `POST /logging?reset`; both together reset first.
pub(super) fn answer(logging: &dyn Logging, query: &Query) -> Reply {
    if let Some(stranger) = query.stranger(&["level", "reset"]) {
        return reply::bad(format!("{stranger} is none of: level=FILTER, reset\n"));
    }
    if query.get("reset").is_some() {
        logging.reset();
    }
    if let Some(filter) = query.get("level")
        && let Err(error) = logging.set(filter)
    {
        return reply::bad(format!(
            "{filter:?} is no filter such as info or info,access=debug: {error}\nstill in force: {}\n",
            logging.current()
        ));
    }
    let current = logging.current();
    if query.get("reset").is_some() || query.get("level").is_some() {
        tracing::warn!(filter = current, "the log filter was changed over the admin port");
    }
    reply::text(StatusCode::OK, format!("current log filter: {current}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Fake(Mutex<String>);

    impl Logging for Fake {
        fn current(&self) -> String {
            self.0.lock().unwrap().clone()
        }

        fn set(&self, filter: &str) -> Result<(), String> {
            if filter.contains('!') {
                return Err("a ! in it".to_owned());
            }
            *self.0.lock().unwrap() = filter.to_owned();
            Ok(())
        }

        fn reset(&self) {
            *self.0.lock().unwrap() = "info".to_owned();
        }
    }

    #[test]
    fn the_filter_is_told_set_and_reset_and_a_bad_one_changes_nothing() {
        let logging = Fake(Mutex::new("info".to_owned()));
        let ask = |query: &str| answer(&logging, &Query::parse(query).unwrap()).status();
        assert_eq!(ask(""), StatusCode::OK);
        assert_eq!(logging.current(), "info", "asking changes nothing");
        assert_eq!(ask("level=info%2Caccess%3Ddebug"), StatusCode::OK);
        assert_eq!(logging.current(), "info,access=debug");
        assert_eq!(ask("level=!"), StatusCode::BAD_REQUEST);
        assert_eq!(ask("levle=trace"), StatusCode::BAD_REQUEST);
        assert_eq!(logging.current(), "info,access=debug");
        assert_eq!(ask("reset"), StatusCode::OK);
        assert_eq!(logging.current(), "info");
        assert_eq!(ask("reset&level=debug"), StatusCode::OK);
        assert_eq!(logging.current(), "debug");
    }
}
