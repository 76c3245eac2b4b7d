//! Ways out in clear. Each is first shown to lead out of a pod that is not enrolled, then not out of one that is.

use std::{net::SocketAddr, time::Duration};

use isthmus_tests::{
    Because as _, Capture, Echo, Pod, Result, agent::AgentOptions, netns::ip, scene::OneNetwork, within,
};

const ATTEMPT: &str = include_str!("leaks/attempt.py");
const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);
const BOUND: Duration = Duration::from_secs(40);

/// A pod that tries to get out, and a server that nothing but a tunnel may reach: the mesh calls it HBONE, and so that
/// whatever reaches it came in clear, nobody has enrolled it.
struct Prison {
    scene: OneNetwork,
    echo: Echo,
    capture: Capture,
}

impl Prison {
    fn build() -> Result<Self> {
        let scene = OneNetwork::not_enrolled("leaks", &AgentOptions::default())?;
        let echo = scene.server.echo(PORT)?;
        let capture = Capture::start(scene.nodes[0].netns())?;
        Ok(Self { scene, echo, capture })
    }

    fn targets(&self) -> [SocketAddr; 2] {
        [self.scene.server.at(PORT), self.scene.server.at6(PORT)]
    }

    fn inmate(&self) -> &Pod {
        &self.scene.client
    }

    /// Runs one attempt of `attempt.py`; it judges nothing.
    fn attempt(&self, way: &str, to: SocketAddr, more: &[&str]) -> Result {
        let router = if to.is_ipv4() { "10.1.1.1" } else { "fd00:10:1:1::1" };
        let (address, port) = (to.ip().to_string(), to.port().to_string());
        let arguments = [&[way, &address, &port, router], more].concat();
        let ended = self.inmate().python(ATTEMPT, &arguments)?.finish(BOUND)?;
        ended.success().because(format!("attempting {way}"))?;
        Ok(())
    }

    /// Whether the server, on the far side, agreed to a connection since the capture last forgot.
    fn answered(&self, to: SocketAddr) -> bool {
        !self.capture.answers_from(to.ip(), to.port()).is_empty()
    }

    /// Waits until the capture has heard what was sent before, and fails if there was a way out.
    fn nothing_came_out(&self, way: &str, round: &str) -> Result {
        let fence = format!("fence {way} {round}");
        self.capture.listen_for(fence.as_bytes());
        self.inmate().fence(self.scene.server.ip(), fence.as_bytes())?;
        self.capture.wait_for(fence.as_bytes(), SOON)?;
        for to in self.targets() {
            assert_eq!(self.capture.syns_to(to.ip(), PORT).first(), None, "{way} {round}");
            assert!(!self.answered(to), "{way} {round}: {to} answered");
        }
        self.echo.must_not_accept(Duration::from_millis(50))
    }

    /// Both halves of the proof for one way.
    fn holds(&self, way: &str, more: &[&str]) -> Result {
        for to in self.targets() {
            self.attempt(way, to, more)?;
            within(SOON, &format!("{way} leads out to {to} without a guard"), || {
                self.answered(to).then_some(())
            })?;
        }
        while self.echo.must_not_accept(Duration::from_millis(20)).is_err() {}
        self.inmate().enrol()?;
        self.capture.forget_syns();
        for to in self.targets() {
            self.attempt(way, to, more)?;
        }
        self.nothing_came_out(way, "enrolled")?;
        // Nor while nobody is home.
        self.scene.agents[0].kill()?;
        for to in self.targets() {
            self.attempt(way, to, more)?;
        }
        self.nothing_came_out(way, "with the agent dead")
    }
}

#[test]
fn not_by_a_plain_connect() -> Result {
    Prison::build()?.holds("plain", &[])
}

#[test]
fn not_with_a_mark_set_before_connect() -> Result {
    Prison::build()?.holds("mark-before", &[])
}

#[test]
fn not_with_a_mark_set_after_connect() -> Result {
    Prison::build()?.holds("mark-after", &[])
}

#[test]
fn not_bound_to_a_device() -> Result {
    Prison::build()?.holds("device", &[])
}

#[test]
fn not_by_mptcp() -> Result {
    Prison::build()?.holds("mptcp", &[])
}

#[test]
fn not_by_fast_open() -> Result {
    Prison::build()?.holds("fast-open", &[])
}

#[test]
fn not_by_a_mapped_address() -> Result {
    Prison::build()?.holds("mapped", &[])
}

#[test]
fn not_from_a_packet_socket() -> Result {
    Prison::build()?.holds("packet", &[])
}

#[test]
fn not_from_a_packet_socket_past_the_queueing_disciplines() -> Result {
    Prison::build()?.holds("packet-bypass", &[])
}

#[test]
fn not_from_a_raw_socket() -> Result {
    Prison::build()?.holds("raw", &[])
}

#[test]
fn not_in_fragments() -> Result {
    Prison::build()?.holds("packet-fragments", &[])?;
    Prison::build()?.holds("raw-fragments", &[])
}

#[test]
fn not_by_taking_out_the_rules() -> Result {
    Prison::build()?.holds("rules", &[])
}

#[test]
fn not_by_rewriting_packets() -> Result {
    Prison::build()?.holds("nft", &[])
}

#[test]
fn not_from_a_namespace_the_pod_forwards_for() -> Result {
    Prison::build()?.holds("child", &[])
}

#[test]
fn not_over_a_second_link_that_comes_after_enrolment() -> Result {
    let prison = Prison::build()?;
    let [node, _] = &prison.scene.nodes;
    let second = |name: &str, last: u8| -> Result {
        ip(
            &[],
            &format!(
                "link add late{last} netns {} type veth peer name {name} netns {}\n",
                node.netns().name(),
                prison.inmate().netns().name()
            ),
        )?;
        node.netns()
            .ip(&format!("link set late{last} master br0\nlink set late{last} up\n"))?;
        // The ways to the server lead over the new link alone.
        prison.inmate().netns().ip(&format!(
            "link set {name} up\naddr add 10.1.1.{last}/24 dev {name}\naddr add fd00:10:1:1::{last}/64 dev {name} nodad\n\
             route replace 10.1.2.0/24 via 10.1.1.1 dev {name}\n\
             route replace fd00:10:1:2::/64 via fd00:10:1:1::1 dev {name}\n"
        ))
    };
    second("eth1", 201)?;
    for to in prison.targets() {
        for way in ["plain", "device"] {
            prison.attempt(way, to, &["eth1"])?;
        }
        within(SOON, "it leads out without a guard", || {
            prison.answered(to).then_some(())
        })?;
    }
    while prison.echo.must_not_accept(Duration::from_millis(20)).is_err() {}
    prison.inmate().enrol()?;
    prison.capture.forget_syns();
    for to in prison.targets() {
        for way in ["plain", "device"] {
            prison.attempt(way, to, &["eth1"])?;
        }
    }
    prison.nothing_came_out("second link", "there before")?;
    let links = || prison.inmate().status().ok().flatten().map_or(0, |pod| pod.links.len());
    let before = links();
    second("eth2", 202)?;
    within(SOON, "the new link is guarded", || (links() > before).then_some(()))?;
    for to in prison.targets() {
        for way in ["plain", "device", "mark-after"] {
            prison.attempt(way, to, &["eth2"])?;
        }
    }
    prison.nothing_came_out("second link", "that came later")
}

#[test]
fn what_is_dropped_is_counted_by_name() -> Result {
    let prison = Prison::build()?;
    prison.inmate().enrol()?;
    let [agent, _] = &prison.scene.agents;
    let before = agent.status()?.verdicts;
    for to in prison.targets() {
        prison.attempt("packet", to, &[])?;
    }
    let after = agent.status()?.verdicts;
    let grown: Vec<_> = after
        .iter()
        .filter(|(name, count)| before.get(*name) != Some(count))
        .collect();
    assert!(
        grown.iter().any(|(name, _)| name.contains("guard")),
        "{before:?}, then {after:?}"
    );
    Ok(())
}
