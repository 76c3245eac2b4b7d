//! What did not happen, shown by ears that heard it when it did.

use std::{net::SocketAddr, time::Duration};

use isthmus_tests::{Agent, Capture, Echo, Failure, Pod, Result, roundtrip, within};
use serde_json::Value;

use crate::{
    page::Page,
    world::{ECHO, HTTP, World},
};

/// Is in every payload of the enrolled pods.
pub(crate) const SECRET: &str = "isthmus-demo-secret-7f3a91 ";
const CONTROL: &[u8] = b"isthmus-demo-control-5be204";
const BOUND: Duration = Duration::from_secs(10);
/// How many connects are made before and after a worker is killed.
const CONNECTS: u64 = 200;

/// A capture at every listening post.
pub(crate) struct Captures {
    all: Vec<Capture>,
}

impl Captures {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let all = world
            .listening_posts()
            .into_iter()
            .map(Capture::start)
            .collect::<Result<Vec<_>>>()?;
        for capture in &all {
            capture.listen_for(CONTROL);
            capture.listen_for(SECRET.as_bytes());
        }
        Ok(Self { all })
    }

    /// From now on only agents may open connections.
    pub(crate) fn enrolled(&self) {
        self.all.iter().for_each(Capture::forget_syns);
    }

    /// Leaves bulk transfers alone for a while.
    pub(crate) fn ignore_bulk(&self) -> Result {
        self.all.iter().try_for_each(Capture::ignore_bulk)
    }

    /// Hears everything again.
    pub(crate) fn hear_all(&self) -> Result {
        self.all.iter().try_for_each(Capture::hear_all)
    }

    pub(crate) fn posts(&self) -> usize {
        self.all.len()
    }

    /// Waits until every capture has heard what was sent before.
    fn fence(&self, world: &World, mark: &str) -> Result {
        self.all.iter().for_each(|capture| capture.listen_for(mark.as_bytes()));
        let fences = [("shop", "stock"), ("bank", "vault")];
        for (from, to) in fences {
            let to = world.pod(to)?;
            world.pod(from)?.fence(to.ip(), mark.as_bytes())?;
            let over_internet = world.gateways.last().map(isthmus_tests::Gateway::outer);
            if let (Some(outer), "shop") = (over_internet, from) {
                world.pod(from)?.fence(outer, mark.as_bytes())?;
            }
        }
        self.all
            .iter()
            .try_for_each(|capture| capture.wait_for(mark.as_bytes(), BOUND))
    }
}

/// Before enrolment: the marker is heard at every post.
pub(crate) fn positive_control(page: &mut Page, world: &World, captures: &Captures) -> Result {
    let gateway = world
        .gateways
        .last()
        .ok_or_else(|| Failure::new("there is a second gateway"))?;
    let over_internet = SocketAddr::new(gateway.outer(), ECHO);
    let _echo = Echo::start(gateway.netns(), over_internet)?;
    let pairs = [
        ("shop", world.pod("stock")?.at(ECHO)),
        ("bank", world.pod("vault")?.at6(ECHO)),
        ("shop", over_internet),
    ];
    for (client, to) in pairs {
        roundtrip(&mut world.pod(client)?.connect(to)?, CONTROL)?;
    }
    for capture in &captures.all {
        capture.wait_for(CONTROL, BOUND)?;
    }
    page.done(&format!(
        "a marker sent between pods in clear is heard on all {} links",
        captures.posts()
    ));
    Ok(())
}

/// The secret is nowhere, and no enrolled pod opened a connection but to a tunnel's port.
pub(crate) fn nothing_in_clear(page: &mut Page, world: &World, captures: &Captures, of: &str) -> Result {
    captures.fence(world, &format!("isthmus-demo-fence {of}"))?;
    let (mut frames, mut bytes, mut lost) = (0, 0, 0);
    for capture in &captures.all {
        if capture.saw(SECRET.as_bytes()) {
            let count = capture.count(SECRET.as_bytes());
            return Err(Failure::new(format!(
                "the secret was in {count} frames heard at {}",
                capture.name()
            )));
        }
        let own =
            |syn: &isthmus_tests::capture::Segment| world.pods().iter().any(|pod| pod.ips().contains(&syn.source));
        if let Some(syn) = capture
            .syns()
            .iter()
            .find(|syn| own(syn) && syn.destination_port != 15008)
        {
            return Err(Failure::new(format!(
                "a pod opened a connection in clear, heard at {}: {syn:?}",
                capture.name()
            )));
        }
        frames += capture.frames();
        bytes += capture.bytes();
        lost += capture.lost();
    }
    let gigabytes = bytes as f64 / 1e9;
    page.done(&format!(
        "{of}: the secret is in none of {frames} frames ({gigabytes:.1} GB) on {} links, {lost} frames unheard; \
         every SYN of a pod went to port 15008",
        captures.posts()
    ));
    Ok(())
}

/// A pod that demands mutual TLS does not answer a machine outside the mesh, and does answer its peers.
pub(crate) fn plaintext_refused(page: &mut Page, world: &World) -> Result {
    let mail = world.pod("mail")?;
    if world
        .laptop
        .connect_within(mail.at(ECHO), Duration::from_secs(2))
        .is_ok()
    {
        return Err(Failure::new("mail demands mutual TLS and took a connection in clear"));
    }
    roundtrip(&mut world.pod("shop")?.connect(mail.at(ECHO))?, SECRET.as_bytes())?;
    page.done("mail demands mutual TLS: the laptop's plain connection is refused, shop's is served");
    Ok(())
}

/// An agent's worker dies in the middle of traffic.
pub(crate) fn worker_killed(page: &mut Page, world: &World, captures: &Captures) -> Result {
    let (shop, stock) = (world.pod("shop")?, world.pod("stock")?);
    let agent = world.agent_of(shop)?;
    let to = stock.at(ECHO).to_string();
    let before = agent.status()?;
    let mut flow = shop.peer(&["ping", &to, "--seconds", "60", "--mark", SECRET])?;
    let mut churn = shop.peer(&["churn", &to, "--parallel", "4", "--pause-ms", "2"])?;
    connects_grow(agent, CONNECTS)?;
    let killed = agent.kill_worker()?;
    let after = within(BOUND, "the parent starts another worker", || {
        agent.status().ok().filter(|status| status.worker_pid != killed)
    })?;
    connects_grow(agent, CONNECTS)?;
    fetch(shop, stock)?;
    let across = SocketAddr::new(shop.node()?.network().vip(10), ECHO);
    roundtrip(&mut shop.connect(across)?, SECRET.as_bytes())?;
    churn.close_input();
    let report = churn.report(Duration::from_secs(30))?;
    let number = |key: &str| report.get(key).and_then(Value::as_u64).unwrap_or_default();
    if number("unconnected") > 0 || after.worker_restarts <= before.worker_restarts {
        return Err(Failure::new(format!(
            "new connections failed when the worker was killed: {report}"
        )));
    }
    let flow = flow.finish(BOUND)?;
    if flow.status.success() {
        return Err(Failure::new("a flow outlived the worker that carried it"));
    }
    captures.fence(world, "isthmus-demo-fence killed")?;
    page.done(&format!(
        "worker {killed} of node1 killed mid-flow, {} took over: of {} connects none failed, {} were cut open, the \
         slowest took {:.0} ms",
        after.worker_pid,
        number("done") + number("broken"),
        number("broken") + 1,
        report.get("longest_ms").and_then(Value::as_f64).unwrap_or_default()
    ));
    Ok(())
}

/// Waits until the agent's programs have redirected so many more connects.
fn connects_grow(agent: &Agent, by: u64) -> Result {
    let redirected = || {
        let status = agent.status().ok()?;
        status.verdicts.get("connect_redirected").copied()
    };
    let begin = redirected().unwrap_or_default();
    within(BOUND, "connects are redirected", || {
        redirected().filter(|now| *now >= begin + by)
    })?;
    Ok(())
}

fn fetch(client: &Pod, server: &Pod) -> Result {
    let url = format!("http://{}/", server.at(HTTP));
    client
        .run(BOUND, "curl", &["-sSf", "-m", "10", "-o", "/dev/null", &url])?
        .success()?;
    Ok(())
}
