//! `isthmus check`: what it looks at is broken here, thing by thing, and must be told.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use isthmus_tests::{Agent, Because as _, Lab, Node, Process, Result, agent::AgentOptions, scene::OneNetwork};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

/// Attaches programs of somebody else.
const FOREIGN: &str = include_str!("check/foreign.py");
/// Makes ipsets.
const IPSET: &str = include_str!("check/ipset.py");

/// What a run of `isthmus check` said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    report: Value,
}

impl Said {
    /// Findings of a check.
    fn of(&self, check: &str) -> Vec<&Value> {
        let findings = self.report.get("findings").and_then(Value::as_array);
        findings
            .into_iter()
            .flatten()
            .filter(|finding| finding.get("check").is_some_and(|name| name == check))
            .collect()
    }

    /// The level of a check's worst finding; nothing when it is not told.
    fn level(&self, check: &str) -> &str {
        let levels: Vec<_> = self
            .of(check)
            .iter()
            .filter_map(|finding| finding.get("level")?.as_str())
            .collect();
        ["bad", "warning", "good"]
            .into_iter()
            .find(|level| levels.contains(level))
            .unwrap_or_default()
    }

    fn is_fit(&self) -> bool {
        self.report.get("fit").is_some_and(|fit| fit == true)
    }

    /// Everything a check said, in one text.
    fn text(&self, check: &str) -> String {
        self.of(check).iter().map(|finding| finding.to_string()).collect()
    }

    #[track_caller]
    fn tells(&self, check: &str, level: &str, words: &[&str]) {
        let text = self.text(check);
        assert_eq!(self.level(check), level, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        assert_eq!(self.code, Some(i32::from(!self.is_fit())), "{}", self.report);
    }
}

/// A node without an agent, and the arguments that check it.
struct Bare {
    node: Node,
    lab: Lab,
    root: PathBuf,
}

impl Bare {
    fn new() -> Result<Self> {
        let lab = Lab::new("check")?;
        let node = lab.network("net1")?.node("node1")?;
        let root = lab.dir().join("host");
        fs::create_dir(&root)?;
        Ok(Self { node, lab, root })
    }

    /// `before` is put before the binary, such as `prlimit --nofile=512`.
    fn check(&self, before: &[&str], more: &[&str]) -> Result<Said> {
        check(self.lab.binary(), &self.node, &self.root, before, more)
    }
}

fn check(binary: &Path, node: &Node, root: &Path, before: &[&str], more: &[&str]) -> Result<Said> {
    let mut command = Command::new(before.first().copied().unwrap_or("env"));
    command
        .args(before.iter().skip(1))
        .arg(binary)
        .args(["check", "-o", "json"]);
    let replaced = |name: &str| more.contains(&name);
    let own = [
        ("--node", PathBuf::from(node.name())),
        ("--run-dir", node.run_dir()),
        (
            "--bpffs",
            node.pins().parent().because("pins have a parent")?.to_owned(),
        ),
        ("--node-netns", node.netns().path()),
        ("--host-root", root.to_owned()),
    ];
    for (name, value) in own.iter().filter(|(name, _)| !replaced(name)) {
        command.arg(name).arg(value);
    }
    let output = command.args(more).output().because("running isthmus check")?;
    let report = serde_json::from_slice(&output.stdout).because(format!(
        "reading the report; {}",
        String::from_utf8_lossy(&output.stderr)
    ))?;
    let code = output.status.code();
    Ok(Said { code, report })
}

/// Every check that must be good on this machine. Labs that run beside this one have programs on the same hooks, and the
/// limit of open files is the machine's.
const QUIET: [&str; 16] = [
    "agent",
    "capabilities",
    "bpffs",
    "cgroup",
    "node-netns",
    "node-programs",
    "claim",
    "guard",
    "routing",
    "pod-hooks",
    "sysctls",
    "pins",
    "cni-config",
    "istio-agents",
    "host-rules",
    "pod-rules",
];

/// What trials have left below a directory. Another check may be running: its place goes before its process does.
fn trials(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_left = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.as_deref()
            .and_then(|name| name.strip_prefix("isthmus_check_"))
            .is_some_and(|pid| !Path::new("/proc").join(pid).exists() && path.exists())
    };
    entries.map(|entry| entry.path()).filter(is_left).collect()
}

fn cgroup2() -> Result<PathBuf> {
    let found = Command::new("findmnt")
        .args(["-n", "-t", "cgroup2", "-o", "TARGET"])
        .output()?;
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    Ok(text.lines().next().because("finding cgroup2")?.into())
}

/// A cgroup that goes when it is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(lab: &Lab) -> Result<Self> {
        let path = cgroup2()?.join(lab.name());
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("lab: removing {}: {error}", self.0.display());
        }
    }
}

/// Attaches a program of somebody else until it is dropped.
fn foreign(lab: &Lab, kind: &str, target: &Path, name: &str) -> Result<Process> {
    let mut command = Command::new("python3");
    command.args(["-c", FOREIGN, kind]).arg(target).arg(name);
    let process = lab.start("foreign", command)?;
    process.output().wait_from(0, SOON, |line| line["attached"] == true)?;
    Ok(process)
}

#[test]
fn a_healthy_node_is_fit_and_nothing_of_it_is_changed() -> Result {
    let bare = Bare::new()?;
    let said = bare.check(&[], &[])?;
    // A lab that was killed while it enrolled leaves it on; that is told.
    let is_on = fs::read_to_string("/sys/kernel/rcu_expedited")?.trim() != "0";
    for check in QUIET.into_iter().filter(|check| !is_on || *check != "sysctls") {
        said.tells(check, "good", &[]);
    }
    assert_eq!(said.code, Some(0));
    assert_eq!(trials(&cgroup2()?), Vec::<PathBuf>::new());
    let bpffs = bare.node.pins();
    assert!(
        !bpffs.exists() && !bpffs.parent().is_some_and(Path::exists),
        "nothing was pinned there before"
    );
    Ok(())
}

#[test]
fn the_text_has_a_line_for_each_check_and_the_sum() -> Result {
    let bare = Bare::new()?;
    let mut command = Command::new(bare.lab.binary());
    command
        .arg("check")
        .arg("--bpffs")
        .arg(bare.lab.dir())
        .arg("--run-dir")
        .arg(bare.node.run_dir());
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.lines().any(|line| line.starts_with("✗ bpffs ")), "{text}");
    assert!(text.contains("fix:   mount -t bpf bpf /sys/fs/bpf"), "{text}");
    assert!(
        text.lines()
            .last()
            .is_some_and(|line| line.starts_with("this node is unfit")),
        "{text}"
    );
    Ok(())
}

#[test]
fn without_capabilities_it_says_so_and_what_it_could_not_look_at() -> Result {
    let bare = Bare::new()?;
    let said = bare.check(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"], &[])?;
    said.tells("capabilities", "bad", &["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "root"]);
    said.tells("node-programs", "warning", &["capabilities are missing"]);
    said.tells("hooks", "bad", &["as root"]);
    said.tells("node-netns", "bad", &["CAP_SYS_ADMIN"]);
    // One alone is named alone.
    let said = bare.check(&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"], &[])?;
    said.tells("capabilities", "bad", &["missing: CAP_NET_ADMIN\""]);
    Ok(())
}

#[test]
fn places_that_are_something_else_are_told() -> Result {
    let bare = Bare::new()?;
    let elsewhere = bare.lab.dir().display().to_string();
    let said = bare.check(&[], &["--bpffs", &elsewhere])?;
    said.tells("bpffs", "bad", &["is not on a BPF file system", "mount -t bpf"]);
    said.tells("node-programs", "warning", &["there is no BPF file system"]);

    let said = bare.check(&[], &["--cgroup", &elsewhere])?;
    said.tells("cgroup", "bad", &["is not a cgroup2 hierarchy"]);
    said.tells("hooks", "warning", &["not looked at"]);

    let below = Cgroup::new(&bare.lab)?;
    let said = bare.check(&[], &["--cgroup", &below.0.display().to_string()])?;
    said.tells("cgroup", "bad", &["is not the root"]);

    let said = bare.check(&[], &["--node-netns", "/run/netns/isthmus-is-not-here"])?;
    said.tells(
        "node-netns",
        "bad",
        &["isthmus-is-not-here", "--node-netns /proc/self/ns/net"],
    );
    said.tells("host-rules", "warning", &["not looked at"]);
    Ok(())
}

/// Runs what follows in a mount namespace in which this directory is read-only.
fn read_only(directory: &str) -> String {
    format!("mount --bind {directory} {directory} && mount -o remount,bind,ro {directory} && exec \"$@\"")
}

#[test]
fn what_is_mounted_read_only_is_told_where_it_hurts() -> Result {
    let bare = Bare::new()?;
    let within = |script: &str| bare.check(&["unshare", "--mount", "sh", "-c", script, "sh"], &[]);
    let said = within(&read_only("/sys/fs/bpf"))?;
    said.tells("node-programs", "bad", &["/sys/fs/bpf", "read-only"]);
    said.tells("claim", "warning", &["it needs node-programs"]);
    let said = within(&read_only("/proc/sys"))?;
    said.tells("sysctls", "bad", &["tcp_fwmark_accept", "read-write"]);
    said.tells("routing", "bad", &["tcp_fwmark_accept", "read-only"]);
    said.tells("guard", "good", &[]);
    assert_eq!(trials(&cgroup2()?), Vec::<PathBuf>::new());
    Ok(())
}

#[test]
fn a_program_of_cilium_below_the_root_is_told_with_its_setting() -> Result {
    let bare = Bare::new()?;
    let below = Cgroup::new(&bare.lab)?;
    let path = below.0.display().to_string();
    let attached = foreign(&bare.lab, "cgroup", &below.0, "cil_sock4_connect")?;
    let said = bare.check(&[], &[])?;
    said.tells(
        "hooks",
        "warning",
        &["cil_sock4_conne", &path, "socketLB.hostNamespaceOnly=true"],
    );
    assert_eq!(said.code, Some(0), "a warning is no reason");
    assert_eq!(
        bare.check(&[], &["--strict"])?.code,
        Some(1),
        "unless asked to be strict"
    );
    drop(attached);
    let said = bare.check(&[], &[])?;
    assert!(!said.text("hooks").contains(&path), "{}", said.text("hooks"));
    Ok(())
}

#[test]
fn what_others_left_in_a_pod_is_told() -> Result {
    let bare = Bare::new()?;
    let pod = bare.node.pod("old").start()?;
    let path = pod.netns().path().display().to_string();
    let look = || bare.check(&[], &["--netns", &path]);
    let said = look()?;
    said.tells("pod-rules", "good", &["1 pods"]);
    said.tells("pod-hooks", "good", &["1 pods"]);
    assert!(!said.text("sysctls").contains("ip_local_port_range"));

    pod.netns().sysctl(&[("ipv4/ip_local_port_range", "40000 40100")])?;
    look()?.tells("sysctls", "warning", &[&path, "40000 40100"]);

    let claim = foreign(&bare.lab, "lookup", &pod.netns().path(), "strange_lookup")?;
    look()?.tells("pod-hooks", "warning", &[&path, "strange_lookup"]);
    drop(claim);
    let egress = pod.python(FOREIGN, &["egress", "eth0", "strange_egress"])?;
    egress
        .output()
        .wait_from(0, SOON, |line| line.get("attached").is_some())?;
    look()?.tells("pod-hooks", "warning", &[&path, "strange_egress", "on eth0"]);
    drop(egress);

    pod.netns()
        .ip("rule add fwmark 0x111/0xfff lookup 100 priority 32764\n")?;
    look()?.tells("pod-rules", "bad", &[&path, "fwmark 0x111/0xfff", "kubectl delete pod"]);
    pod.netns().ip("rule del priority 32764\n")?;
    look()?.tells("pod-rules", "good", &[]);
    let nft = "add table ip nat; add chain ip nat ISTIO_OUTPUT";
    pod.run(SOON, "nft", &[nft])?.success()?;
    look()?.tells("pod-rules", "bad", &[&path, "nat ISTIO_OUTPUT"]);

    let gone = bare.check(&[], &["--netns", "/run/netns/isthmus-is-not-here"])?;
    gone.tells("pod-rules", "bad", &["isthmus-is-not-here"]);
    Ok(())
}

#[test]
fn what_istio_left_on_the_host_is_told() -> Result {
    let bare = Bare::new()?;
    let look = || bare.check(&[], &[]);
    look()?.tells("host-rules", "good", &[]);
    let mut ipset = bare.node.netns().command("python3");
    ipset.args(["-c", IPSET, "istio-inpod-probes-v4"]);
    bare.lab.start("ipset", ipset)?.finish(SOON)?.success()?;
    look()?.tells("host-rules", "bad", &["ipset istio-inpod-probes-v4", "169.254.7.127"]);
    let mut nft = bare.node.netns().command("nft");
    nft.arg("add table ip nat; add chain ip nat ISTIO_POSTRT");
    bare.lab.start("nft", nft)?.finish(SOON)?.success()?;
    look()?.tells("host-rules", "bad", &["nat ISTIO_POSTRT, ipset istio-inpod-probes-v4"]);

    let (config, run) = (bare.root.join("etc/cni/net.d"), bare.root.join("var/run/ztunnel"));
    fs::create_dir_all(&config)?;
    fs::write(
        config.join("10-x.conflist"),
        r#"{"plugins":[{"type":"ptp"},{"type":"istio-cni"}]}"#,
    )?;
    look()?.tells("cni-config", "bad", &["10-x.conflist", "no pod of the node can start"]);
    fs::create_dir_all(&run)?;
    let listener = UnixListener::bind(run.join("ztunnel.sock"))?;
    look()?.tells("istio-agents", "bad", &["somebody listens on", "ztunnel.sock"]);
    drop(listener);
    look()?.tells("istio-agents", "warning", &["nobody listens on", "ztunnel.sock"]);
    Ok(())
}

#[test]
fn few_open_files_are_told() -> Result {
    let bare = Bare::new()?;
    let said = bare.check(&["prlimit", "--nofile=512:512"], &[])?;
    said.tells("limits", "bad", &["512", "LimitNOFILE"]);
    let said = bare.check(&["prlimit", "--nofile=4096:4096"], &[])?;
    said.tells("limits", "warning", &["4096"]);
    Ok(())
}

#[test]
fn a_socket_whose_agent_is_silent_is_told() -> Result {
    let bare = Bare::new()?;
    fs::create_dir(bare.node.run_dir())?;
    let listener = UnixListener::bind(bare.node.socket())?;
    // Hangs up on everybody, until the socket is closed.
    let silent = thread::spawn(move || listener.incoming().take(2).for_each(drop));
    bare.check(&[], &[])?.tells("agent", "bad", &["does not answer"]);
    silent.join().expect("it ends");
    bare.check(&[], &[])?.tells("agent", "warning", &["nobody listens"]);
    Ok(())
}

/// Records of an agent's pods.
fn records(agent: &Agent) -> Result<Vec<PathBuf>> {
    let mut found = fs::read_dir(agent.node().run_dir().join("pods"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    found.sort();
    Ok(found)
}

#[test]
fn pins_and_records_that_do_not_fit_are_told() -> Result {
    let scene = OneNetwork::start("check")?;
    let [agent, _] = &scene.agents;
    let root = scene.lab.dir().join("host");
    let look = || check(scene.lab.binary(), agent.node(), &root, &[], &[]);
    let said = look()?;
    said.tells("agent", "good", &["with 2 pods"]);
    // The other node's programs lie beside it, as those of an earlier node name would.
    said.tells("pins", "warning", &["other node names are pinned: node2"]);
    said.tells("pod-rules", "good", &["2 pods"]);
    said.tells("pod-hooks", "good", &[]);

    agent.kill()?;
    let said = look()?;
    said.tells("agent", "warning", &["nobody listens"]);
    said.tells("pins", "warning", &["2 pods are enrolled and no agent runs"]);

    let [first, second] = &records(agent)?[..] else {
        panic!("two records")
    };
    let text = fs::read_to_string(first)?;
    fs::write(first, "{")?;
    look()?.tells("pins", "warning", &["pod_1 pinned, and no record", "cannot be read"]);
    fs::write(first, text)?;

    let generation = fs::read_dir(agent.node().pins())?
        .next()
        .because("a generation")??
        .path();
    let slot = second.file_stem().because("a slot")?.to_string_lossy().into_owned();
    fs::remove_dir_all(generation.join(format!("pod_{slot}")))?;
    look()?.tells("pins", "bad", &["nothing is pinned for demo/neighbour"]);
    fs::remove_file(generation.join("link_connect6"))?;
    look()?.tells("pins", "bad", &["is not whole"]);
    let abandoned = agent.node().pins().with_file_name("isthmus_check_4294967295");
    fs::create_dir(&abandoned)?;
    look()?.tells("pins", "bad", &["isthmus_check_4294967295", "killed"]);
    fs::remove_dir(abandoned)?;
    // An agent mends the rest.
    agent.restart()?;
    let said = look()?;
    said.tells("pins", "warning", &["other node names"]);
    assert!(!said.text("pins").contains("whole") && !said.text("pins").contains("no agent runs"));
    Ok(())
}

#[test]
fn the_limit_told_is_the_running_agents() -> Result {
    let options = AgentOptions {
        open_files: Some(3_000),
        ..AgentOptions::default()
    };
    let lab = Lab::new("check")?;
    let node = lab.network("net1")?.node("node1")?;
    let _agent = node.agent_with(options)?;
    let said = check(lab.binary(), &node, lab.dir(), &[], &[])?;
    said.tells("limits", "warning", &["the agent may open 3000 files"]);
    Ok(())
}
