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
        let table = fs::read_to_string("/proc/thread-self/net/dev")?;
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

fn link(socket: &Socket, name: &str) -> io::Result<Option<Link>> {
    let kind = kernel_calls::link_type(socket.as_fd(), name)?;
    let link = || -> io::Result<Link> {
        Ok(Link {
            index: kernel_calls::link_index(socket.as_fd(), name)?,
            name: name.to_owned(),
            ethernet: kind == libc::ARPHRD_ETHER,
        })
    };
    (kind != libc::ARPHRD_LOOPBACK).then(link).transpose()
}

/// Names in the kernel's table: two lines of titles, then `NAME: COUNTERS` (proc_pid_net(5)). No name contains a colon.
fn names(table: &str) -> impl Iterator<Item = &str> {
    let lines = table.lines().skip(2);
    lines.filter_map(|line| line.split_once(':').map(|(name, _)| name.trim()))
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
        assert_eq!(names(table).collect::<Vec<_>>(), ["lo", "eth0", "br-0123456789ab"]);
        assert_eq!(names("").count(), 0);
        assert_eq!(names("a\nb\nno colon\n").count(), 0);
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
