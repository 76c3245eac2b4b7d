//! What istio-cni makes in a pod and on its node, made as its own programs make it: with iptables (either kind), with nftables, with
//! `ip`. Both families, DNS capture included.

use crate::{failure::Result, netns::Netns};

/// Rules of a pod in IPv4. IPv6 has the same with other addresses.
const POD: &str = include_str!("istio_cni/pod.rules");
/// Its own tables in a pod.
const POD_NATIVE: &str = include_str!("istio_cni/pod.nft");
/// Its own table on a node.
const NODE_NATIVE: &str = include_str!("istio_cni/node.nft");

/// Who writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// iptables-nft.
    Iptables,
    /// iptables-legacy.
    Legacy,
    /// istio-cni itself, with `values.global.nativeNftables`.
    Nftables,
}

impl By {
    /// Captures a pod.
    pub fn capture(self, pod: &Netns) -> Result {
        match self {
            Self::Iptables => restore(pod, "nft", POD)?,
            Self::Legacy => restore(pod, "legacy", POD)?,
            Self::Nftables => run(pod, "nft", &["-f", "-"], POD_NATIVE)?,
        }
        for family in ["-4", "-6"] {
            pod.ip_output(&[family, "route", "add", "local", "default", "dev", "lo", "table", "100"])?;
            let rule = [
                "rule",
                "add",
                "fwmark",
                "0x111/0xfff",
                "priority",
                "32764",
                "table",
                "100",
            ];
            pod.ip_output(&[&[family], rule.as_slice()].concat())?;
        }
        Ok(())
    }

    /// Has the kubelet's probes to these pods rewritten.
    pub fn rewrite_probes(self, node: &Netns) -> Result {
        let kind = match self {
            Self::Nftables => return run(node, "nft", &["-f", "-"], NODE_NATIVE),
            Self::Iptables => "nft",
            Self::Legacy => "legacy",
        };
        for (family, version, address) in [
            ("inet", "4", "169.254.7.127"),
            ("inet6", "6", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"),
        ] {
            let set = format!("istio-inpod-probes-v{version}");
            run(
                node,
                "ipset",
                &["create", &set, "hash:ip", "family", family, "comment"],
                "",
            )?;
            let text = format!(
                "*nat\n:POSTROUTING ACCEPT [0:0]\n:ISTIO_POSTRT - [0:0]\n-I POSTROUTING 1 -j ISTIO_POSTRT\n\
                 -A ISTIO_POSTRT -m owner --socket-exists -p tcp -m set --match-set {set} dst -j SNAT --to-source {address}\nCOMMIT\n"
            );
            run(node, &restorer(version, kind), &["--noflush"], &text)?;
        }
        Ok(())
    }
}

/// Rules as `nft` prints them, without counts.
pub fn ruleset(netns: &Netns) -> Result<String> {
    netns.output("nft", &["-s", "list", "ruleset"], "")
}

fn run(netns: &Netns, program: &str, arguments: &[&str], input: &str) -> Result {
    netns.output(program, arguments, input).map(drop)
}

fn restore(pod: &Netns, kind: &str, text: &str) -> Result {
    run(pod, &restorer("4", kind), &["--noflush"], text)?;
    let text = text
        .replace("127.0.0.1/32", "::1/128")
        .replace("169.254.7.127/32", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128");
    run(pod, &restorer("6", kind), &["--noflush"], &text)
}

fn restorer(version: &str, kind: &str) -> String {
    let six = if version == "6" { "6" } else { "" };
    format!("ip{six}tables-{kind}-restore")
}
