//! A node that istio-cni had before, and one that is given back to it: what is whose goes when it may, and nothing else does.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use isthmus_tests::{
    Lab, Node, Pod, Result,
    agent::AgentOptions,
    istio_cni::{By, ruleset},
    log::message,
    scene::OneNetwork,
    wait::throughout,
    within,
};

const SOON: Duration = Duration::from_secs(40);
const CALICO: &str =
    r#"{"name":"k8s","cniVersion":"1.0.0","plugins":[{"type":"calico","mtu":1.50},{"type":"portmap"}]}"#;
const BOTH: &str =
    r#"{"name":"k8s","cniVersion":"1.0.0","plugins":[{"type":"calico","mtu":1.50},{"type":"istio-cni"}]}"#;

/// A node of which only the file system and the namespace are there.
struct Bare {
    lab: Lab,
    node: Node,
    root: PathBuf,
    socket: Option<UnixListener>,
}

impl Bare {
    fn new(title: &str) -> Result<Self> {
        let lab = Lab::new(title)?;
        let node = lab.network("net1")?.node("node1")?;
        let root = lab.dir().join("root");
        for directory in ["var/run/istio-cni", "var/run/ztunnel", "etc/cni/net.d", "opt/cni/bin"] {
            fs::create_dir_all(root.join(directory))?;
        }
        for (name, text) in [
            ("10-calico.conflist", BOTH),
            ("02-istio-cni.conflist", BOTH),
            ("99-other.conflist", CALICO),
        ] {
            fs::write(root.join("etc/cni/net.d").join(name), text)?;
        }
        for (path, text) in [
            ("opt/cni/bin/istio-cni", "binary"),
            ("opt/cni/bin/calico", "binary"),
            ("var/run/istio-cni/istio-cni-kubeconfig", "secret"),
            ("var/run/istio-cni/istio-cni.log", "words"),
        ] {
            fs::write(root.join(path), text)?;
        }
        let socket = Some(UnixListener::bind(root.join("var/run/istio-cni/pluginevent.sock"))?);
        drop(UnixListener::bind(root.join("var/run/ztunnel/ztunnel.sock"))?);
        Ok(Self {
            lab,
            node,
            root,
            socket,
        })
    }

    /// Exit code and text of `isthmus cleanup --istio-cni`.
    fn cleanup(&self) -> Result<(Option<i32>, String)> {
        let ran = Command::new(self.lab.binary())
            .args(["cleanup", "--istio-cni", "--host-root"])
            .arg(&self.root)
            .arg("--node-netns")
            .arg(self.node.netns().path())
            .output()?;
        let text = [ran.stdout, ran.stderr].concat();
        Ok((ran.status.code(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// Every file with its text, and all rules and sets.
    fn everything(&self) -> Result<String> {
        let mut text = files(&self.root)?;
        text += &ruleset(self.node.netns())?;
        text += &self.node.netns().output("ipset", &["list", "-name"], "")?;
        Ok(text)
    }
}

/// Whether anything of it is among files, rules and sets. Its directories may stay.
fn of_istio_cni(text: &str) -> bool {
    let traces = [
        "ISTIO",
        "istio-inpod",
        "istio-ambient",
        r#""istio-cni""#,
        "bin/istio-cni",
        "-istio-cni",
        "istio-cni.log",
        ".sock",
        "kubeconfig",
    ];
    traces.iter().any(|trace| text.contains(trace))
}

/// Every file below a directory with its text, in order.
fn files(directory: &Path) -> Result<String> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    let line = |path: &PathBuf| format!("{} {}\n", path.display(), fs::read_to_string(path).unwrap_or_default());
    Ok(found.iter().map(line).collect())
}

fn strangers(node: &Node) -> Result<String> {
    for six in ["", "6"] {
        let rules = "*nat\n:POSTROUTING ACCEPT [0:0]\n:KUBE - [0:0]\n-A POSTROUTING -j KUBE\n-A KUBE -p tcp --dport 9 -j ACCEPT\nCOMMIT\n";
        node.netns()
            .output(&format!("ip{six}tables-nft-restore"), &["--noflush"], rules)?;
    }
    node.netns().output("ipset", &["create", "mine", "hash:ip"], "")?;
    ruleset(node.netns())
}

fn taken_over(title: &str, by: By) -> Result {
    let mut bare = Bare::new(title)?;
    let before = strangers(&bare.node)?;
    by.rewrite_probes(bare.node.netns())?;

    // istio-cni lives: nothing is done.
    let all = bare.everything()?;
    let (code, text) = bare.cleanup()?;
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("somebody listens on") && text.contains("pluginevent.sock"),
        "{text}"
    );
    assert_eq!(bare.everything()?, all);

    // It has gone.
    bare.socket = None;
    let (code, text) = bare.cleanup()?;
    assert_eq!(code, Some(0), "{text}");
    for says in [
        "istio-cni from CNI configuration",
        "02-istio-cni.conflist",
        "removed CNI plugin",
        "removed kubeconfig",
        "pluginevent.sock",
        "ztunnel.sock",
        "nothing is left",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert_eq!(ruleset(bare.node.netns())?, before);
    assert_eq!(bare.node.netns().output("ipset", &["list", "-name"], "")?, "mine\n");
    let left = files(&bare.root)?;
    assert!(!of_istio_cni(&left), "{left}");
    assert!(
        left.contains(r#"{"type":"calico","mtu":1.50}"#) && left.contains("bin/calico"),
        "{left}"
    );
    assert_eq!(
        fs::read_to_string(bare.root.join("etc/cni/net.d/99-other.conflist"))?,
        CALICO
    );
    Ok(())
}

#[test]
fn rules_for_probes_in_iptables_and_files_go_once_istio_cni_has_gone() -> Result {
    taken_over("takeover-node-iptables", By::Iptables)
}

#[test]
fn rules_for_probes_in_nftables_go_once_istio_cni_has_gone() -> Result {
    taken_over("takeover-node-native", By::Nftables)
}

#[test]
fn rules_of_iptables_legacy_are_named_with_the_command_that_removes_them() -> Result {
    let mut bare = Bare::new("takeover-node-legacy")?;
    bare.socket = None;
    By::Legacy.rewrite_probes(bare.node.netns())?;
    let (code, text) = bare.cleanup()?;
    assert_eq!(code, Some(1), "{text}");
    for iptables in ["iptables-legacy", "ip6tables-legacy"] {
        let line = text.lines().find(|line| line.contains(&format!("run {iptables} ")));
        let command = line.and_then(|line| line.split(" run ").nth(1)).unwrap_or_default();
        bare.node.netns().output("sh", &["-ec", command], "")?;
    }
    let (code, text) = bare.cleanup()?;
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "nothing to do: no trace of istio-cni was found\n")
    );
    Ok(())
}

#[test]
fn where_its_sockets_cannot_be_seen_nothing_is_done() -> Result {
    let bare = Bare::new("takeover-node-unseen")?;
    fs::remove_dir_all(bare.root.join("var/run/ztunnel"))?;
    let all = bare.everything()?;
    let (code, text) = bare.cleanup()?;
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("cannot be told") && text.contains("var/run/ztunnel"),
        "{text}"
    );
    assert_eq!(bare.everything()?, all);
    Ok(())
}

#[test]
fn an_agent_removes_it_when_told_to_and_not_before_istio_cni_has_gone() -> Result {
    let mut bare = Bare::new("takeover-node-agent")?;
    By::Iptables.rewrite_probes(bare.node.netns())?;
    let all = bare.everything()?;
    let root = bare.root.display().to_string();
    let with = |more: &[&str]| AgentOptions {
        arguments: more.iter().map(|argument| (*argument).to_owned()).collect(),
        ..AgentOptions::default()
    };
    // One that is not told to only finds it.
    bare.socket = None;
    let agent = bare.node.agent_with(with(&["--host-root", &root]))?;
    throughout(Duration::from_secs(12), "nothing is removed", || {
        bare.everything().is_ok_and(|now| now == all)
    })?;
    agent.stop()?;
    drop(agent);

    fs::remove_file(bare.root.join("var/run/istio-cni/pluginevent.sock"))?;
    bare.socket = Some(UnixListener::bind(
        bare.root.join("var/run/istio-cni/pluginevent.sock"),
    )?);
    let agent = bare
        .node
        .agent_with(with(&["--take-over-istio-cni", "--host-root", &root]))?;
    agent.wait_log(0, |line| message(line).contains("traces are still on this node"))?;
    throughout(Duration::from_secs(12), "nothing is removed", || {
        bare.everything().is_ok_and(|now| now == all)
    })?;
    bare.socket = None;
    within(SOON, "all of it is gone", || {
        let now = bare.everything().ok()?;
        (!of_istio_cni(&now)).then_some(())
    })?;
    agent.stop()
}

/// Everything of a pod and of its node that an agent could have touched.
fn state_of(scene: &OneNetwork, pods: &[&Pod], cni: &Path) -> Result<String> {
    let mut text = String::new();
    let node = scene.client.node()?;
    for netns in pods.iter().map(|pod| pod.netns()).chain([node.netns()]) {
        for family in ["-4", "-6"] {
            text += &netns.ip_output(&[family, "rule"])?;
            let routes = netns.ip_output(&[family, "route", "show", "table", "all"])?;
            // What the kernel has learned, and forgets by itself.
            text.extend(
                routes
                    .lines()
                    .filter(|line| !line.contains("cache"))
                    .map(|line| format!("{line}\n")),
            );
        }
        text += &netns.ip_output(&["-d", "link", "show", "lo"])?;
        text += &ruleset(netns)?;
        for link in ["lo", "eth0"] {
            text += &netns.output("sh",
                &[
                    "-c",
                    &format!(
                        "tc qdisc show dev {link}; tc filter show dev {link} egress; tc filter show dev {link} ingress; true"
                    ),
                ],
                "",
            )?;
        }
        text += &netns.output(
            "sh",
            &[
                "-c",
                "ss -Hlnt; cd /proc/sys/net; cat ipv4/tcp_fwmark_accept ipv4/fwmark_reflect ipv6/fwmark_reflect",
            ],
            "",
        )?;
    }
    text += &files(cni)?;
    let pins = node.pins();
    text += &format!("pins {} run {}\n", pins.exists(), node.run_dir().exists());
    Ok(text)
}

fn directories(lab: &Lab) -> [PathBuf; 2] {
    ["bin", "net.d"].map(|name| lab.dir().join("cni").join(name))
}

#[test]
fn a_node_that_is_given_back_is_as_it_was() -> Result {
    let scene = OneNetwork::made_by("given-back", |lab| {
        let [bin, conf] = directories(lab).map(|path| path.display().to_string());
        fs::create_dir_all(&bin)?;
        fs::create_dir_all(&conf)?;
        fs::write(Path::new(&conf).join("10-calico.conflist"), CALICO)?;
        Ok(AgentOptions {
            arguments: ["--cni-install=own", "--cni-bin-dir", &bin, "--cni-conf-dir", &conf]
                .map(str::to_owned)
                .to_vec(),
            ..AgentOptions::default()
        })
    })?;
    let [bin, conf] = directories(&scene.lab);
    let cni = scene.lab.dir().join("cni");
    let [agent, other] = &scene.agents;
    other.stop()?;
    agent.stop()?;
    let cleanup = || -> Result<String> {
        let ran = Command::new(scene.lab.binary())
            .args(["cleanup", "--node", agent.node().name(), "--cni-bin-dir"])
            .arg(&bin)
            .arg("--cni-conf-dir")
            .arg(&conf)
            .arg("--run-dir")
            .arg(agent.node().run_dir())
            .arg("--bpffs")
            .arg(agent.node().pins().parent().unwrap_or(Path::new("/")))
            .output()?;
        let text = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert_eq!(ran.status.code(), Some(0), "{text}");
        Ok(text)
    };
    cleanup()?;
    let pods = [&scene.client, &scene.neighbour];
    let before = state_of(&scene, &pods, &cni)?;
    assert!(before.contains("pins false run false"), "{before}");

    agent.restart()?;
    for pod in pods {
        pod.enrol()?;
    }
    within(SOON, "the plugin is installed", || {
        cni.join("net.d/00-isthmus.conflist").exists().then_some(())
    })?;
    assert_ne!(state_of(&scene, &pods, &cni)?, before);
    agent.stop()?;
    assert_ne!(
        state_of(&scene, &pods, &cni)?,
        before,
        "an agent that only ends leaves pods guarded"
    );
    cleanup()?;
    assert_eq!(state_of(&scene, &pods, &cni)?, before);
    Ok(())
}
