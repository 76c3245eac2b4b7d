use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};

use crate::hbone;

/// Numbers that an operator may change. The defaults are ztunnel's (wire-facts.md §3.4, §3.5, §3.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Of tunnels, both ends.
    pub tunnels: hbone::Settings,
    /// Of TCP connections that carry traffic.
    pub sockets: SocketOptions,
    /// Of tunnels we dial.
    pub pool: PoolLimits,
    /// Whether a peer is told who the destination is, and believed what it says of itself.
    pub response_baggage: bool,
}

/// What a pod's pool of tunnels keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Streams opened on one tunnel, if the peer allows as many.
    pub streams: usize,
    /// How long a tunnel without streams is kept.
    pub idle: Duration,
}

/// How a dead peer is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Whether the kernel probes silent peers.
    pub keepalive: bool,
    /// Silence before the first probe.
    pub keepalive_time: Duration,
    /// Time between two probes.
    pub keepalive_interval: Duration,
    /// Unanswered probes that end the connection.
    pub keepalive_retries: u32,
    /// Whether unacknowledged bytes end it after as long as all probes take (`TCP_USER_TIMEOUT`, tcp(7)).
    pub user_timeout: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            tunnels: hbone::Settings::default(),
            sockets: SocketOptions::default(),
            pool: PoolLimits::default(),
            response_baggage: true,
        }
    }
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            streams: hbone::MOST_STREAMS,
            idle: Duration::from_secs(300),
        }
    }
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            keepalive: true,
            keepalive_time: Duration::from_secs(180),
            keepalive_interval: Duration::from_secs(180),
            keepalive_retries: 9,
            user_timeout: false,
        }
    }
}

impl SocketOptions {
    /// Options of every TCP socket that carries traffic: these, and no waiting for full segments.
    pub(crate) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        if self.keepalive {
            let keepalive = TcpKeepalive::new()
                .with_time(self.keepalive_time)
                .with_interval(self.keepalive_interval)
                .with_retries(self.keepalive_retries);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if self.user_timeout {
            let probing = self.keepalive_interval.saturating_mul(self.keepalive_retries);
            socket.set_tcp_user_timeout(Some(self.keepalive_time.saturating_add(probing)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> socket2::Socket {
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap()
    }

    #[test]
    fn chosen_options_reach_the_socket() {
        let options = SocketOptions {
            keepalive_time: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(7),
            keepalive_retries: 3,
            user_timeout: true,
            ..SocketOptions::default()
        };
        let socket = socket();
        options.apply(&SockRef::from(&socket)).unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(81)));
    }

    #[test]
    fn without_keepalive_nothing_is_probed_and_by_default_there_is_no_user_timeout() {
        let off = SocketOptions {
            keepalive: false,
            ..SocketOptions::default()
        };
        let socket = socket();
        off.apply(&SockRef::from(&socket)).unwrap();
        assert!(!socket.keepalive().unwrap());
        assert!(socket.tcp_nodelay().unwrap());
        SocketOptions::default().apply(&SockRef::from(&socket)).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }
}
