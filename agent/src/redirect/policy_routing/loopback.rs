//! How much one packet on a pod's `lo` may carry.
//!
//! Whatever a pod says and hears passes `lo` twice where it passed no loopback before: to the agent and from it. What that
//! costs is mostly per packet, and the packets of `lo` never meet a wire. Four times as much in each ("BIG TCP", Linux 5.19,
//! for IPv4 6.3) takes a third of it away.

use isthmus_abi::LOOPBACK_IFINDEX;
use netlink_packet_route::link::LinkAttribute;
use rtnetlink::LinkUnspec;

use super::PodRouting;

/// Bytes of TCP in one packet, at most.
const BIG: u32 = 256 << 10;
/// What the kernel begins with.
const USUAL: u32 = 65_536;

impl PodRouting {
    /// Lets packets on `lo` be big. A kernel that cannot leaves them as they are: nothing depends on it but speed.
    pub async fn widen_loopback(&self) {
        self.size_loopback(BIG).await;
    }

    /// Lets packets on `lo` be as big as usual.
    pub(super) async fn narrow_loopback(&self) {
        self.size_loopback(USUAL).await;
    }

    async fn size_loopback(&self, bytes: u32) {
        let change = LinkUnspec::new_with_index(LOOPBACK_IFINDEX)
            .append_extra_attribute(LinkAttribute::GsoMaxSize(bytes))
            .append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(bytes))
            .build();
        if let Err(error) = self.handle.link().set(change).execute().await {
            tracing::debug!(%error, bytes, "packets on the pod's lo stay as large as they are");
        }
    }
}
