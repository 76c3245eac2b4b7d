//! How much memory a large mesh takes: `cargo run --release -p isthmus --example mesh_memory [WORKLOADS [SERVICES]]`.
//!
//! Writes a mesh file of so many workloads and services, loads it as the agent does, and prints what the allocator says
//! and what the kernel says, how long loading took, and what look-ups and single changes cost. With `worst` as a third
//! argument each workload has a list of services that no other has.

use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use isthmus::mesh::route::{Experience, Flow, decide};
use isthmus::mesh::workload::{Health, Membership, Protocol};
use isthmus::mesh::{Builder, Draft, Mesh, ServiceKey, Snapshot, file};

use memory::{report, settle};

mod memory;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NAMESPACES: u32 = 100;
const NODES: u32 = 2000;
const CHANGES: u32 = 2000;

/// What is changed, and how.
type Kind = (&'static str, fn(&mut Draft));

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What a mesh to be measured is like.
#[derive(Clone, Copy)]
struct Plan {
    workloads: u32,
    services: u32,
    worst: bool,
}

impl Plan {
    /// Pods of one application are endpoints of its service and of that of the next application.
    fn services_of(self, pod: u32) -> [u32; 2] {
        let app = pod % self.services;
        let other = if self.worst {
            (app + 1 + pod / self.services) % self.services
        } else {
            (app + 1) % self.services
        };
        [app, other]
    }

    fn name(self, pod: u32) -> String {
        let hash = pod.wrapping_mul(0x9e37_79b9);
        format!("app-{}-{:08x}-{:05x}", pod % self.services, hash % 7919, hash >> 12)
    }

    fn key(self, service: u32) -> (String, String) {
        let namespace = format!("ns-{}", service % NAMESPACES);
        let hostname = format!("app-{service}.{namespace}.svc.cluster.local");
        (namespace, hostname)
    }

    fn write(self, path: &Path) -> Outcome<()> {
        let mut out = BufWriter::new(File::create(path)?);
        writeln!(out, "services:")?;
        for service in 0..self.services {
            let (namespace, hostname) = self.key(service);
            let vip = Ipv4Addr::from_bits(0x0a60_0000 + service);
            writeln!(
                out,
                "- {{name: app-{service}, namespace: {namespace}, hostname: {hostname},"
            )?;
            writeln!(out, "   vips: [net1/{vip}], ports: {{80: 8080}}}}")?;
        }
        writeln!(out, "workloads:")?;
        for pod in 0..self.workloads {
            let app = pod % self.services;
            let (node, name) = (pod % NODES, self.name(pod));
            writeln!(
                out,
                "- name: {name}\n  namespace: ns-{}\n  network: net1",
                app % NAMESPACES
            )?;
            writeln!(out, "  workloadIps: [{}, \"{}\"]", v4(pod), v6(pod))?;
            writeln!(
                out,
                "  protocol: HBONE\n  serviceAccount: app-{app}\n  node: node-{node}"
            )?;
            writeln!(
                out,
                "  canonicalName: app-{app}\n  canonicalRevision: v1\n  workloadName: app-{app}"
            )?;
            writeln!(out, "  workloadType: deployment\n  clusterId: Kubernetes")?;
            writeln!(out, "  locality: {{region: eu, zone: eu-{}}}\n  services:", node % 3)?;
            for service in self.services_of(pod) {
                let (namespace, hostname) = self.key(service);
                writeln!(out, "    {namespace}/{hostname}: {{80: 8080}}")?;
            }
        }
        out.flush()?;
        Ok(())
    }

    fn draft(self, pod: u32) -> Draft {
        let app = pod % self.services;
        let namespace = format!("ns-{}", app % NAMESPACES);
        let name = self.name(pod);
        let membership = |service| {
            let (namespace, hostname) = self.key(service);
            let key = ServiceKey {
                namespace: namespace.into(),
                hostname: hostname.into(),
            };
            Membership {
                service: key.into(),
                ports: [(80, 8080)].into_iter().collect(),
            }
        };
        let mut draft = Draft {
            network: "net1".into(),
            addresses: vec![v4(pod), v6(pod)],
            protocol: Protocol::Hbone,
            service_account: format!("app-{app}").into(),
            canonical_name: format!("app-{app}").into(),
            canonical_revision: "v1".into(),
            workload_name: format!("app-{app}").into(),
            workload_type: "deployment".into(),
            services: self.services_of(pod).map(membership).into(),
            ..Draft::new(&format!("Kubernetes//Pod/{namespace}/{name}"), &namespace, &name)
        };
        draft.locality.region = "eu".into();
        draft.locality.zone = format!("eu-{}", pod % NODES % 3).into();
        draft.locality.node = format!("node-{}", pod % NODES).into();
        draft
    }
}

fn v4(pod: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + pod).into()
}

fn v6(pod: u32) -> IpAddr {
    std::net::Ipv6Addr::from_bits((0xfd00_u128 << 112) + u128::from(pod)).into()
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse());
    let (workloads, services) = (number(100_000)?, number(1_000)?);
    let worst = arguments.next().is_some_and(|word| word == "worst");
    let plan = Plan {
        workloads,
        services,
        worst,
    };
    let path = std::env::temp_dir().join(format!("isthmus-mesh-{}.yaml", std::process::id()));
    plan.write(&path)?;
    println!(
        "{workloads} workloads, {services} services, {} bytes of YAML",
        fs::metadata(&path)?.len()
    );
    let measured = measure(plan, &path);
    fs::remove_file(&path)?;
    measured
}

fn measure(plan: Plan, path: &Path) -> Outcome<()> {
    let idle = report("idle", 0, plan.workloads)?;
    let mut builder = Builder::new();
    let start = Instant::now();
    file::load(&File::open(path)?, path, &mut builder)?;
    println!("loaded in {:?}", start.elapsed());
    report("just loaded", idle, plan.workloads)?;
    let (publisher, mesh) = Mesh::new(builder.build());
    settle()?;
    report("settled", idle, plan.workloads)?;
    lookups(plan, &mesh.current())?;
    changes(plan, &mut builder, &publisher)?;

    let start = Instant::now();
    file::load(&File::open(path)?, path, &mut builder)?;
    publisher.publish(builder.build());
    println!("loaded again, the same file, in {:?}", start.elapsed());
    report("after that", idle, plan.workloads)?;
    settle()?;
    report("settled", idle, plan.workloads)?;

    let text = fs::read_to_string(path)?;
    let start = Instant::now();
    drop(file::parse(&text, path)?);
    println!("parsed from memory in {:?}", start.elapsed());
    drop(text);

    let start = Instant::now();
    let mut other = Builder::new();
    (0..plan.workloads).for_each(|pod| other.add_workload(plan.draft(pod)));
    println!("the workloads built without a file in {:?}", start.elapsed());
    Ok(())
}

fn lookups(plan: Plan, mesh: &Snapshot) -> Outcome<()> {
    let mut row = 1_u32;
    let mut any = || {
        row = row.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (row >> 4) % plan.workloads
    };
    let source = mesh.workload_at("net1", v4(0)).ok_or("no workload")?;
    let rounds = 200_000;
    time("a workload by address", rounds, || {
        mesh.workload_at("net1", v4(any())).is_some()
    });
    time("a pod by name", rounds, || {
        let pod = any();
        mesh.workload_of_pod(
            &format!("ns-{}", pod % plan.services % NAMESPACES),
            &plan.name(pod),
            None,
        )
        .is_some()
    });
    time("a route to an address", rounds, || {
        let flow = Flow {
            source: &source,
            destination: SocketAddr::new(v4(any()), 80),
            entropy: 7,
            experience: Experience::default(),
        };
        matches!(
            decide(mesh, &flow),
            isthmus::mesh::route::Route::Hbone { .. } | isthmus::mesh::route::Route::Local { .. }
        )
    });
    time("a route to a service", 20_000, || {
        let vip = Ipv4Addr::from_bits(0x0a60_0000 + any() % plan.services);
        let flow = Flow {
            source: &source,
            destination: SocketAddr::new(vip.into(), 80),
            entropy: u64::from(any()),
            experience: Experience::default(),
        };
        matches!(
            decide(mesh, &flow),
            isthmus::mesh::route::Route::Hbone { .. } | isthmus::mesh::route::Route::Local { .. }
        )
    });
    Ok(())
}

fn time(what: &str, rounds: u32, mut once: impl FnMut() -> bool) {
    let start = Instant::now();
    let found = (0..rounds).filter(|_| black_box(once())).count();
    println!(
        "{what}: {:?} each ({found} of {rounds} found)",
        start.elapsed() / rounds
    );
}

/// One change, then a snapshot for everybody, again and again.
fn changes(plan: Plan, builder: &mut Builder, publisher: &isthmus::mesh::Publisher) -> Outcome<()> {
    let kinds: [Kind; 3] = [
        ("health", |draft| draft.status = Health::Unhealthy),
        ("address", |draft| {
            draft.addresses = draft.addresses.iter().take(1).copied().collect();
        }),
        ("services", |draft| {
            draft.services = draft.services.drain(..).take(1).collect();
        }),
    ];
    for (what, change) in kinds {
        let mut each = Vec::new();
        for step in 0..CHANGES {
            let mut draft = plan.draft(step.wrapping_mul(48_271) % plan.workloads);
            change(&mut draft);
            let start = Instant::now();
            builder.add_workload(draft);
            publisher.publish(builder.build());
            each.push(start.elapsed());
        }
        each.sort_unstable();
        let at = |share: usize| each.get(each.len() * share / 100).copied().unwrap_or_default();
        println!(
            "a change of {what} and its snapshot: p50 {:?}, p99 {:?}, max {:?}",
            at(50),
            at(99),
            each.last().copied().unwrap_or_default()
        );
    }
    Ok(())
}
