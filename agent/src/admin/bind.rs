//! The ports and who else may hold them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::{net::TcpListener, time::Instant};

/// A worker that was killed a moment ago may not have let go of its sockets yet.
const PREDECESSOR: Duration = Duration::from_secs(3);
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// Connections the kernel holds for us until we accept them.
const BACKLOG: i32 = 64;

/// A port, what it is for and how to choose another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// None: it is off.
    pub(super) number: Option<u16>,
    pub(super) purpose: &'static str,
    /// As an operator sets it, such as `--admin-port`.
    pub(super) setting: &'static str,
}

/// A port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address} for {purpose}{}", advice(.cause, .address.port(), .setting))]
pub struct BindError {
    address: SocketAddr,
    purpose: &'static str,
    setting: &'static str,
    #[source]
    cause: io::Error,
}

fn advice(cause: &io::Error, port: u16, setting: &str) -> String {
    if cause.kind() == io::ErrorKind::AddrInUse {
        format!(
            ": another process holds the port (does ztunnel or another isthmus still run here? `ss -ltnp sport = :{port}` \
             tells); end it, or choose another with {setting} (0 switches it off)"
        )
    } else {
        format!("; {setting} chooses another port (0 switches it off)")
    }
}

/// Listens on loopback, both families. A node without IPv6 has only the other.
pub(super) async fn loopback(port: Port) -> Result<Vec<TcpListener>, BindError> {
    let Some(number) = port.number else {
        return Ok(Vec::new());
    };
    let mut listeners = vec![bind(port, (Ipv4Addr::LOCALHOST, number)).await?];
    match bind(port, (Ipv6Addr::LOCALHOST, number)).await {
        Ok(listener) => listeners.push(listener),
        Err(error) if lacks_ipv6(&error.cause) => tracing::debug!(?port, "not on IPv6, which this node lacks"),
        Err(error) => return Err(error),
    }
    Ok(listeners)
}

/// Listens on every address.
pub(super) async fn everywhere(port: Port) -> Result<Vec<TcpListener>, BindError> {
    let Some(number) = port.number else {
        return Ok(Vec::new());
    };
    let listener = match bind(port, (Ipv6Addr::UNSPECIFIED, number)).await {
        Err(error) if lacks_ipv6(&error.cause) => bind(port, (Ipv4Addr::UNSPECIFIED, number)).await?,
        bound => bound?,
    };
    Ok(vec![listener])
}

async fn bind(port: Port, address: impl Into<SocketAddr>) -> Result<TcpListener, BindError> {
    let address = address.into();
    let give_up = Instant::now() + PREDECESSOR;
    loop {
        match listen(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            bound => {
                return bound.map_err(|cause| BindError {
                    address,
                    purpose: port.purpose,
                    setting: port.setting,
                    cause,
                });
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` is for both families, whatever the node's default is; `::1` has no other.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: Option<u16>) -> Port {
        Port {
            number,
            purpose: "testing",
            setting: "--test-port",
        }
    }

    #[tokio::test]
    async fn a_port_that_is_off_is_not_listened_on() {
        assert!(loopback(port(None)).await.unwrap().is_empty());
        assert!(everywhere(port(None)).await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_taken_is_an_error_which_says_what_to_do() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let text = loopback(port(Some(number))).await.unwrap_err().to_string();
        for part in [
            "127.0.0.1",
            &number.to_string(),
            "testing",
            "ztunnel",
            "--test-port",
            "0 switches",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_becomes_free_soon_is_waited_for() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let freed = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(taken);
        });
        assert!(!loopback(port(Some(number))).await.unwrap().is_empty());
        freed.await.unwrap();
    }
}
