//! The links of a network namespace, without rtnetlink.
//!
//! Its listing (`RTM_GETLINK`) takes a lock that the network of the whole node has but once. While 200 pods were started, half
//! of the time of their enrolment was waiting for it there. `/proc/net/dev` and the ioctls of netdevice(7) take none.

use std::{fs, io, os::fd::AsFd as _};

use socket2::{Domain, Socket, Type};

use super::Link;
use crate::redirect::{Netns, kernel_calls};

/// Links but `lo`, by index.
pub(super) fn of(netns: &Netns) -> io::Result<Vec<Link>> {
    netns.run(|| {
        let table = fs::read("/proc/thread-self/net/dev")?;
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        let mut links = Vec::new();
        for name in names(&table) {
            match link(&socket, name) {
                Ok(link) => links.extend(link),
                // It went in between.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        links.sort_by_key(|link| link.index);
        Ok(links)
    })?
}

/// Nothing for `lo`, and for a name that became another link's while it was asked about: that change is told, too.
fn link(socket: &Socket, name: &str) -> io::Result<Option<Link>> {
    let index = kernel_calls::link_index(socket.as_fd(), name)?;
    let kind = kernel_calls::link_type(socket.as_fd(), name)?;
    let is_same = kernel_calls::link_index(socket.as_fd(), name)? == index;
    Ok((is_same && kind != libc::ARPHRD_LOOPBACK).then(|| Link {
        index,
        name: name.to_owned(),
        ethernet: kind == libc::ARPHRD_ETHER,
    }))
}

/// Names in the kernel's table: two lines of titles, then `NAME: COUNTERS` (proc_pid_net(5)). No name contains a colon.
fn names(table: &[u8]) -> impl Iterator<Item = &str> {
    let lines = table.split(|byte| *byte == b'\n').skip(2);
    let names = lines.filter_map(|line| line.get(..line.iter().position(|byte| *byte == b':')?));
    names.filter_map(|name| match str::from_utf8(name.trim_ascii()) {
        Ok(name) => Some(name),
        Err(_) => {
            tracing::warn!(name = %name.escape_ascii(), "a link's name is not UTF-8, and nothing can be attached to it");
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_the_kernels_table() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n    \
                     lo: 2776770   11307    0    0    0     0          0         0  2776770   11307\n  \
                     eth0:1215645    2751    0    0    0     0          0         0  1782404    4324\n\
                     br-0123456789ab: 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(
            names(table.as_bytes()).collect::<Vec<_>>(),
            ["lo", "eth0", "br-0123456789ab"]
        );
        assert_eq!(names(b"").count(), 0);
        assert_eq!(names(b"a\nb\nno colon\n").count(), 0);
        assert_eq!(names(b"a\nb\n\xff: 0\neth0: 0\n").collect::<Vec<_>>(), ["eth0"]);
    }

    #[test]
    fn the_kernel_tells_of_the_loopback_of_this_namespace() {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).unwrap();
        assert_eq!(
            kernel_calls::link_type(socket.as_fd(), "lo").unwrap(),
            libc::ARPHRD_LOOPBACK
        );
        assert_eq!(kernel_calls::link_index(socket.as_fd(), "lo").unwrap(), 1);
        assert_eq!(link(&socket, "lo").unwrap(), None);
        let absent = kernel_calls::link_index(socket.as_fd(), "isthmus-none").unwrap_err();
        assert_eq!(absent.raw_os_error(), Some(libc::ENODEV));
        assert!(kernel_calls::link_index(socket.as_fd(), "a-name-that-is-too-long").is_err());
    }
}
