use std::{
    pin::Pin,
    task::{Context, Poll},
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

use super::{
    read_ahead::Activity,
    settings::{PING_AFTER, PING_TIMEOUT},
};

/// Asks a silent peer whether it is there. A tunnel on which anything is read is never asked, so a busy one has no
/// PING behind megabytes of data.
pub(crate) struct Keepalive {
    pings: Option<PingPong>,
    activity: Activity,
    seen: u64,
    asked: bool,
    timer: Pin<Box<Sleep>>,
}

/// The peer did not answer a PING and sent nothing else either.
#[derive(Debug)]
pub(crate) struct Silent;

impl Keepalive {
    pub(crate) fn new(pings: Option<PingPong>, activity: Activity) -> Self {
        let seen = activity.count();
        Self {
            pings,
            activity,
            seen,
            asked: false,
            timer: Box::pin(tokio::time::sleep(PING_AFTER)),
        }
    }

    /// Ready when the peer is gone. Must be polled together with the connection.
    pub(crate) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<Silent> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let count = self.activity.count();
            let wait = if count != self.seen {
                self.seen = count;
                self.asked = false;
                PING_AFTER
            } else if self.asked {
                return Poll::Ready(Silent);
            } else {
                // An error means that an earlier PING is unanswered still or the connection is ending; both show.
                if let Some(pings) = &mut self.pings {
                    drop(pings.send_ping(Ping::opaque()));
                }
                self.asked = true;
                PING_TIMEOUT
            };
            self.timer.as_mut().reset(Instant::now() + wait);
        }
        if self.asked
            && let Some(pings) = &mut self.pings
        {
            // The answer frees the slot for the next PING; that something was read is what tells us of life.
            drop(pings.poll_pong(cx));
        }
        Poll::Pending
    }
}
