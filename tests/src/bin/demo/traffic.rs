//! curl, a long upload and a 1-byte ping-pong on every path, and whom each side saw.

use std::{net::SocketAddr, time::Duration};

use isthmus_tests::{Because as _, Failure, Pod, Result, log::field};
use serde_json::Value;

use crate::{
    page::Page,
    proof::{Captures, SECRET},
    world::{ECHO, HTTP, SINK, World},
};

const BOUND: Duration = Duration::from_secs(30);
/// How much of each upload every capture hears; less than its queue holds.
const WATCHED_MEGABYTES: u64 = 24;

struct Path<'a> {
    name: &'static str,
    client: &'a Pod,
    server: &'a Pod,
    /// Where the client goes, in each family: the server's addresses, or a service's.
    ips: [std::net::IpAddr; 2],
    meshed: bool,
}

/// What is known of a path after its traffic.
struct Shown {
    carried: String,
    /// The client, as the server's agent read it from the certificate.
    client: String,
    /// The server, as the client's agent read it from the certificate.
    server: String,
    curl: [String; 2],
    upload: String,
    ping: String,
}

/// Runs all traffic and prints two tables.
pub(crate) fn run(page: &mut Page, world: &World, captures: &Captures, seconds: f64) -> Result {
    let (shop, vault, stock, cart) = (
        world.pod("shop")?,
        world.pod("vault")?,
        world.pod("stock")?,
        world.pod("cart")?,
    );
    let network = shop.node()?.network();
    let paths = [
        Path {
            name: "across networks",
            client: shop,
            server: vault,
            ips: [network.vip(10), network.vip6(10)],
            meshed: true,
        },
        Path {
            name: "across nodes",
            client: shop,
            server: stock,
            ips: [stock.ip(), stock.ip6()],
            meshed: true,
        },
        Path {
            name: "on one node",
            client: shop,
            server: cart,
            ips: [cart.ip(), cart.ip6()],
            meshed: true,
        },
        Path {
            name: "from outside",
            client: &world.laptop,
            server: stock,
            ips: [stock.ip(), stock.ip6()],
            meshed: false,
        },
    ];
    let head = [
        "path",
        "from → to",
        "carried by",
        "curl IPv4",
        "IPv6",
        "upload",
        "1-byte ping-pong",
    ];
    let mut speeds = vec![head.map(str::to_owned).to_vec()];
    let head = [
        "path",
        "client, as the server's agent read it",
        "server, as the client's agent read it",
    ];
    let mut identities = vec![head.map(str::to_owned).to_vec()];
    for path in &paths {
        let shown = path.run(world, captures, seconds).because(path.name)?;
        let ends = format!("{} → {}", path.client.name(), path.server.name());
        let [v4, v6] = shown.curl;
        speeds.push(vec![
            path.name.to_owned(),
            ends,
            shown.carried,
            v4,
            v6,
            shown.upload,
            shown.ping,
        ]);
        identities.push(vec![path.name.to_owned(), shown.client, shown.server]);
    }
    page.table(&speeds);
    page.note("");
    page.table(&identities);
    page.note(&format!(
        "{} links were listened to all the while; of the long uploads only to small frames, so that they run at full \
         speed, and again to {WATCHED_MEGABYTES} MB of each in full",
        captures.posts()
    ));
    Ok(())
}

impl Path<'_> {
    fn run(&self, world: &World, captures: &Captures, seconds: f64) -> Result<Shown> {
        let curl = [self.curl(0)?, self.curl(1)?];
        let (carried, client, server) = if self.meshed {
            self.identities(world)?
        } else {
            self.plain(world)?
        };
        let [v4, _] = self.ips;
        let seconds = seconds.to_string();
        // Whoever comes from outside sends in clear, and so has no secrets.
        let mark = if self.meshed { SECRET } else { "nothing secret " };
        let to = SocketAddr::new(v4, SINK).to_string();
        let watched = WATCHED_MEGABYTES.to_string();
        self.client.measure(
            BOUND,
            &[
                "upload",
                &to,
                "--seconds",
                "10",
                "--megabytes",
                &watched,
                "--mark",
                mark,
            ],
        )?;
        captures.ignore_bulk()?;
        let upload = self
            .client
            .measure(BOUND, &["upload", &to, "--seconds", &seconds, "--mark", mark])?;
        captures.hear_all()?;
        let to = SocketAddr::new(v4, ECHO).to_string();
        let ping = self
            .client
            .measure(BOUND, &["ping", &to, "--seconds", "1", "--mark", mark])?;
        let number = |report: &Value, key: &str| report.get(key).and_then(Value::as_f64).unwrap_or_default();
        let (bytes, span) = (number(&upload, "bytes"), number(&upload, "seconds"));
        let upload = format!(
            "{:.2} GB in {span:.1} s, {:.1} Gbit/s",
            bytes / 1e9,
            bytes * 8e-9 / span
        );
        let (p50, p99) = (number(&ping, "p50_us"), number(&ping, "p99_us"));
        let ping = format!("{} trips, p50 {p50:.0} µs, p99 {p99:.0} µs", number(&ping, "trips"));
        Ok(Shown {
            carried,
            client,
            server,
            curl,
            upload,
            ping,
        })
    }

    /// Fetches a page over IPv4 (0) or IPv6 (1); answers the time it took.
    fn curl(&self, family: usize) -> Result<String> {
        let ip = *self.ips.get(family).because("there are two families")?;
        let url = format!("http://{}/", SocketAddr::new(ip, HTTP));
        let secret = format!("X-Secret: {}", if self.meshed { SECRET } else { "none" });
        let format = "%{http_code} %{time_total} %{remote_ip}";
        let page = if self.meshed { "" } else { "no-such-page" };
        let url = url + page;
        let arguments = ["-sS", "-m", "10", "-o", "/dev/null", "-w", format, "-H", &secret, &url];
        let ended = self.client.run(BOUND, "curl", &arguments)?.success()?;
        let mut words = ended.output.split(' ');
        let wanted = if self.meshed { "200" } else { "404" };
        if words.next() != Some(wanted) {
            return Err(Failure::new(format!(
                "curl {url} answered {:?} instead of {wanted}",
                ended.output
            )));
        }
        let seconds: f64 = words
            .next()
            .and_then(|word| word.parse().ok())
            .because("curl tells its time")?;
        if words.next() != Some(&ip.to_string()) {
            return Err(Failure::new(format!(
                "curl asked for {ip} and was told it spoke to {:?}",
                ended.output
            )));
        }
        Ok(format!("{:.1} ms", seconds * 1e3))
    }

    /// What both agents wrote of the newest curl.
    fn identities(&self, world: &World) -> Result<(String, String, String)> {
        let (sending, receiving) = (world.agent_of(self.client)?, world.agent_of(self.server)?);
        let inbound = receiving.wait_access(0, "inbound", |line| {
            field(line, "src.identity") == self.client.identity() && field(line, "dst.workload") == self.server.name()
        })?;
        let outbound = sending.wait_access(0, "outbound", |line| {
            field(line, "dst.identity") == self.server.identity() && field(line, "src.workload") == self.client.name()
        })?;
        let through = field(&outbound, "dst.hbone_addr");
        let gateway = world
            .gateways
            .iter()
            .find(|gateway| through.starts_with(&gateway.outer().to_string()));
        let carried = gateway.map_or_else(|| "HBONE".to_owned(), |it| format!("double HBONE, {}", it.name()));
        Ok((
            carried,
            field(&inbound, "src.identity"),
            field(&outbound, "dst.identity"),
        ))
    }

    /// What the receiving agent counts of a client outside the mesh.
    fn plain(&self, world: &World) -> Result<(String, String, String)> {
        let status = world.agent_of(self.server)?.status()?;
        let opened = status
            .pods
            .get(&self.server.uid())
            .map_or(0, |pod| pod.plaintext.opened);
        if opened < 2 {
            return Err(Failure::new(format!(
                "the agent counts {opened} plaintext connections after two"
            )));
        }
        Ok((
            "plain TCP, admitted".to_owned(),
            "none".to_owned(),
            "none (no agent there)".to_owned(),
        ))
    }
}
