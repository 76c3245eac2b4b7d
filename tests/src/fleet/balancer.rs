//! The edge that a cloud would have: a load balancer with an address on the internet, from which port 15008 is translated to a
//! pod's, and outwards one address for all pods. No network routes to the other.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::kubectl::Kubectl;
use crate::{failure::Result, netns::Netns, network::Network};

const SOON: Duration = Duration::from_secs(90);

/// A load balancer with one address, on the network's router.
#[derive(Debug)]
pub(super) struct Balancer {
    router: Arc<Netns>,
    address: IpAddr,
}

impl Balancer {
    /// One that leads nowhere yet.
    pub(super) fn new(network: &Network) -> Result<Self> {
        let address = Ipv4Addr::new(198, 51, 100, 120 + network.index());
        network.wire().ip(&format!("addr add {address}/24 dev inet0\n"))?;
        Ok(Self {
            router: Arc::clone(network.wire()),
            address: address.into(),
        })
    }

    /// Waits for ready endpoints of a Service, leads there, and writes the address into the Service's status.
    pub(super) fn lead(&self, kubectl: &Kubectl, (namespace, service): (&str, &str)) -> Result {
        let slices = format!("--selector=kubernetes.io/service-name={service}");
        let wanted = ["endpointslices", "--namespace", namespace, slices.as_str()];
        let endpoints = kubectl.until(&wanted, SOON, |list| {
            let found = ready(list);
            (!found.is_empty()).then_some(found)
        })?;
        self.translate(&endpoints)?;
        let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": self.address }] } } });
        let patch = status.to_string();
        let patch = [
            "patch",
            "service",
            service,
            "--namespace",
            namespace,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch,
        ];
        kubectl.run(&patch).map(drop)
    }

    fn translate(&self, endpoints: &[String]) -> Result {
        let count = endpoints.len();
        let each: Vec<String> = endpoints
            .iter()
            .enumerate()
            .map(|(at, ip)| format!("{at} : {ip}"))
            .collect();
        let rules = format!(
            "table ip balancer\ndelete table ip balancer\ntable ip balancer {{\nchain in {{\n\
             type nat hook prerouting priority dstnat;\n\
             ip daddr {} tcp dport 15008 dnat to numgen inc mod {count} map {{ {} }}\n}}\n\
             chain out {{\ntype nat hook postrouting priority srcnat;\noifname inet0 masquerade\n}}\n}}\n",
            self.address,
            each.join(", ")
        );
        self.router.output("nft", &["-f", "-"], &rules).map(drop)
    }
}

/// Addresses of ready endpoints in a list of EndpointSlices.
fn ready(list: &Value) -> Vec<String> {
    let all = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let endpoints = all(list.get("items"))
        .into_iter()
        .flat_map(|slice| all(slice.get("endpoints")));
    endpoints
        .filter(|endpoint| endpoint.pointer("/conditions/ready") == Some(&Value::Bool(true)))
        .flat_map(|endpoint| all(endpoint.get("addresses")))
        .filter_map(|address| Some(address.as_str()?.to_owned()))
        .collect()
}
