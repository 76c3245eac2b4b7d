//! What a large mesh costs when istiod tells of it: `cargo run --release -p isthmus --example told_memory [WORKLOADS
//! [SERVICES]]`.
//!
//! Makes resources as istiod sends them, one by one, and gives them to what the xDS client gives them to. Prints what the
//! allocator and the kernel say, how long all of it took, what single updates and batches take, what a new stream costs,
//! and how long the mesh takes to be stored and loaded.

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use isthmus::mesh::{Mesh, Snapshot};
use isthmus::xds::{Disk, Held, Kind};
use isthmus_istio::{discovery, workload as proto};
use prost::Message as _;

use memory::{report, settle};

mod memory;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NAMESPACES: u32 = 100;
const NODES: u32 = 2000;
const CHANGES: u32 = 2000;
/// What the client asks to resume with at most, short of istiod's 4 MiB.
const RESUME_BYTES: usize = 3_500_000;

/// What is changed, and how.
type Change = (&'static str, fn(&mut proto::Workload, u32));

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the mesh to be measured is like.
#[derive(Clone, Copy)]
struct Plan {
    workloads: u32,
    services: u32,
}

impl Plan {
    fn service(self, number: u32) -> discovery::Resource {
        let (namespace, hostname) = key(number);
        let vip = Ipv4Addr::from_bits(0x0a60_0000 + number);
        let message = proto::Service {
            name: format!("app-{number}"),
            addresses: vec![proto::NetworkAddress {
                network: "net1".to_owned(),
                address: vip.octets().to_vec(),
                length: None,
            }],
            ports: vec![port()],
            subject_alt_names: vec![format!("spiffe://cluster.local/ns/{namespace}/sa/app-{number}")],
            canonical: true,
            namespace,
            hostname,
            ..proto::Service::default()
        };
        let name = format!("{}/{}", message.namespace, message.hostname);
        resource(name, number, proto::address::Type::Service(message))
    }

    fn workload(self, pod: u32) -> proto::Workload {
        let app = pod % self.services;
        let namespace = format!("ns-{}", app % NAMESPACES);
        let hash = pod.wrapping_mul(0x9e37_79b9);
        let name = format!("app-{app}-{:08x}-{:05x}", hash % 7919, hash >> 12);
        let node = pod % NODES;
        let services = [app, (app + 1) % self.services].map(|service| {
            let (namespace, hostname) = key(service);
            (
                format!("{namespace}/{hostname}"),
                proto::PortList { ports: vec![port()] },
            )
        });
        proto::Workload {
            uid: format!("Kubernetes//Pod/{namespace}/{name}"),
            addresses: vec![
                Ipv4Addr::from_bits(0x0a00_0000 + pod).octets().to_vec(),
                Ipv6Addr::from_bits((0xfd00_u128 << 112) + u128::from(pod))
                    .octets()
                    .to_vec(),
            ],
            network: "net1".to_owned(),
            tunnel_protocol: proto::TunnelProtocol::Hbone.into(),
            service_account: format!("app-{app}"),
            node: format!("ip-10-0-{}-{}.eu-west-1.compute.internal", node / 250, node % 250),
            canonical_name: format!("app-{app}"),
            canonical_revision: "v1".to_owned(),
            workload_type: proto::WorkloadType::Pod.into(),
            workload_name: format!("app-{app}"),
            cluster_id: "Kubernetes".to_owned(),
            locality: Some(proto::Locality {
                region: "eu-west-1".to_owned(),
                zone: format!(
                    "eu-west-1{}",
                    char::from(b'a' + u8::try_from(node % 3).unwrap_or_default())
                ),
                subzone: String::new(),
            }),
            services: services.into(),
            name,
            namespace,
            ..proto::Workload::default()
        }
    }

    /// A service or a workload.
    fn resource(self, number: u32, version: u32) -> discovery::Resource {
        match number.checked_sub(self.services) {
            None => self.service(number),
            Some(pod) => told(self.workload(pod), version),
        }
    }

    fn total(self) -> u32 {
        self.services + self.workloads
    }
}

fn key(service: u32) -> (String, String) {
    let namespace = format!("ns-{}", service % NAMESPACES);
    let hostname = format!("app-{service}.{namespace}.svc.cluster.local");
    (namespace, hostname)
}

fn port() -> proto::Port {
    proto::Port {
        service_port: 80,
        target_port: 8080,
        app_protocol: 0,
    }
}

fn told(message: proto::Workload, version: u32) -> discovery::Resource {
    resource(message.uid.clone(), version, proto::address::Type::Workload(message))
}

/// As istiod says it, with a version of 16 digits.
fn resource(name: String, version: u32, message: proto::address::Type) -> discovery::Resource {
    let value = proto::Address { r#type: Some(message) }.encode_to_vec();
    discovery::Resource {
        version: format!("{:x}", (u64::from(version) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        name,
        resource: Some(prost_types::Any {
            type_url: Kind::Address.url().to_owned(),
            value,
        }),
        aliases: Vec::new(),
    }
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse());
    let plan = Plan {
        workloads: number(100_000)?,
        services: number(1_000)?.max(1),
    };
    tikv_jemalloc_ctl::background_thread::write(true)?;
    let idle = report("idle", 0, plan.workloads)?;
    let (publisher, mesh) = Mesh::new(Snapshot::empty());
    let mut held = Held::new(publisher);
    // Whole from the beginning, so that every change is published.
    held.release();
    let bytes: usize = (0..plan.total()).map(|n| plan.resource(n, n).encoded_len()).sum();
    println!(
        "{} workloads, {} services, {bytes} bytes",
        plan.workloads, plan.services
    );

    println!("told in {:?}", tell_all(plan, &mut held)?);
    report("just told", idle, plan.workloads)?;
    settle()?;
    report("settled", idle, plan.workloads)?;
    changes(plan, &mut held)?;
    batches(plan, &mut held)?;
    println!("told again, and nothing is new, in {:?}", tell_all(plan, &mut held)?);
    streams(&mut held);
    members(plan, &mut held, &mesh)?;
    report("after that", idle, plan.workloads)?;
    settle()?;
    report("settled", idle, plan.workloads)?;
    disk(&held, plan)
}

/// Gives all to `held`; the time is what that takes, without the making of the resources.
fn tell_all(plan: Plan, held: &mut Held) -> Outcome<Duration> {
    let mut time = Duration::ZERO;
    for number in 0..plan.total() {
        let resource = plan.resource(number, number);
        let start = Instant::now();
        held.upsert(Kind::Address, resource)
            .map_err(|rejected| rejected.reason)?;
        time += start.elapsed();
    }
    let start = Instant::now();
    held.finish(Kind::Address);
    Ok(time + start.elapsed())
}

/// One change, then a snapshot for everybody, again and again.
fn changes(plan: Plan, held: &mut Held) -> Outcome<()> {
    let kinds: [Change; 4] = [
        ("health", |workload, _| workload.status = 1),
        ("nothing but the version", |_, _| {}),
        ("address", |workload, _| {
            workload.addresses.pop();
        }),
        ("name: a pod comes", |workload, step| {
            workload.name.push_str(&step.to_string());
            workload.uid.push_str(&step.to_string());
        }),
    ];
    for (what, change) in kinds {
        let mut each = Vec::new();
        for step in 0..CHANGES {
            let mut workload = plan.workload(step.wrapping_mul(48_271) % plan.workloads);
            change(&mut workload, step);
            let resource = told(workload, step);
            let start = Instant::now();
            held.upsert(Kind::Address, resource)
                .map_err(|rejected| rejected.reason)?;
            held.finish(Kind::Address);
            each.push(start.elapsed());
        }
        say(&format!("a change of {what}"), &mut each);
    }
    let mut each = Vec::new();
    for step in 0..CHANGES {
        let name = plan.workload(step.wrapping_mul(48_271) % plan.workloads).uid + &step.to_string();
        let start = Instant::now();
        held.remove(Kind::Address, &name);
        held.finish(Kind::Address);
        each.push(start.elapsed());
    }
    say("a removal", &mut each);
    Ok(())
}

fn batches(plan: Plan, held: &mut Held) -> Outcome<()> {
    for size in [10_u32, 100, 1000] {
        let mut each = Vec::new();
        for step in 0..20_u32 {
            let resources: Vec<_> = (0..size)
                .map(|n| {
                    let mut workload = plan.workload((step * size + n).wrapping_mul(48_271) % plan.workloads);
                    workload.status = i32::from(step % 2 == 0);
                    told(workload, step)
                })
                .collect();
            let start = Instant::now();
            for resource in resources {
                held.upsert(Kind::Address, resource)
                    .map_err(|rejected| rejected.reason)?;
            }
            held.finish(Kind::Address);
            each.push(start.elapsed() / size);
        }
        say(&format!("a change of health, {size} in a response, each"), &mut each);
    }
    Ok(())
}

fn streams(held: &mut Held) {
    for most in [RESUME_BYTES, usize::MAX] {
        let start = Instant::now();
        let listed = held.open_stream(Kind::Address, most).len();
        println!("a new stream lists {listed} in {:?}", start.elapsed());
    }
}

/// What the kernel's filter costs when one pod comes.
fn members(plan: Plan, held: &mut Held, mesh: &Mesh) -> Outcome<()> {
    let mut each = Vec::new();
    for step in 0..CHANGES {
        let before = mesh.current();
        let mut workload = plan.workload(step.wrapping_mul(48_271) % plan.workloads);
        workload.addresses = vec![vec![11, 0, step.to_be_bytes()[2], step.to_be_bytes()[3]]];
        held.upsert(Kind::Address, told(workload, step))
            .map_err(|rejected| rejected.reason)?;
        held.finish(Kind::Address);
        let now = mesh.current();
        let start = Instant::now();
        let came = now.members_since(&before, 4096).ok_or("too many")?;
        each.push(start.elapsed());
        if came.addresses.len() != 1 {
            return Err("not one new member".into());
        }
    }
    say("finding new members after a change", &mut each);
    Ok(())
}

fn disk(held: &Held, plan: Plan) -> Outcome<()> {
    let path = std::env::temp_dir().join(format!("isthmus-told-{}", std::process::id()));
    let disk = Disk::new(path.clone(), "example");
    let start = Instant::now();
    let contents = held.contents();
    println!("what is held was copied in {:?}", start.elapsed());
    let start = Instant::now();
    disk.store(&contents)?;
    println!("stored in {:?}, {} bytes", start.elapsed(), fs::metadata(&path)?.len());
    let (publisher, mesh) = Mesh::new(Snapshot::empty());
    let mut other = Held::new(publisher);
    let start = Instant::now();
    disk.load(&mut other)?;
    println!("loaded in {:?}", start.elapsed());
    fs::remove_file(&path)?;
    let [workloads, _, _] = mesh.current().sizes();
    (workloads >= plan.workloads as usize)
        .then_some(())
        .ok_or_else(|| "lost on the way".into())
}

fn say(what: &str, each: &mut [Duration]) {
    each.sort_unstable();
    let at = |share: usize| each.get(each.len() * share / 100).copied().unwrap_or_default();
    let most = each.last().copied().unwrap_or_default();
    println!("{what}: p50 {:?}, p99 {:?}, max {most:?}", at(50), at(99));
}
