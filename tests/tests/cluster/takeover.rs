//! A node is taken over from the istio-cni that everybody has, and given back to it, as docs/install.md tells. It is built from the
//! same module as istiod, and installed by its own chart; of ztunnel there is a stand-in.

use std::time::Instant;

use isthmus_tests::{
    Because as _, Capture, Failure, Process, Result,
    fleet::{Kubectl, Machine, Release, Site, is_ready, merge},
    within,
};
use serde_json::{Value, json};

use crate::{
    checks::{SOON, items, pod_address, rolled_out},
    demo::{self, DEMO, PLAIN, PORT},
    load,
    nodes::uninstall,
};

/// Says whose a node is; without, it is istio-cni's.
const LABEL: &str = "example.com/mesh";
const OURS: &str = "isthmus";
const NOBODYS: &str = "between";
const TUNNELS: u16 = 15008;
/// Pods of both DaemonSets. Ours bear the label of istio-cni's too, for istiod.
const ISTIO_CNI: &str = "k8s-app=istio-cni-node,app!=ztunnel";
const AGENT: &str = "app=ztunnel";
const SYSTEM: &str = "--namespace=istio-system";

/// What istio-cni makes on a node, and in a pod.
const ON_NODE: [&str; 7] = [
    "ISTIO_POSTRT",
    "istio-inpod-probes-v4",
    "istio-inpod-probes-v6",
    "/opt/cni/bin/istio-cni",
    "\"istio-cni\"",
    "pluginevent.sock",
    "ztunnel.sock",
];
const IN_POD: [&str; 4] = [
    "ISTIO_PRERT",
    "ISTIO_OUTPUT",
    "fwmark 0x111/0xfff",
    "local default dev lo",
];
/// What we leave: our marks begin so.
const OF_OURS: [&str; 2] = ["isthmus", "0x4953"];

/// One node is ours, the other istio-cni's.
struct Scene<'a> {
    kubectl: &'a Kubectl,
    ours: &'a Machine,
    stock: &'a Machine,
    istio_cni: Release,
    isthmus: Release,
}

pub(crate) fn taken_over_and_given_back(kubectl: &Kubectl, site: &Site) -> Result {
    let [ours, stock, ..] = site.machines() else {
        return Err(Failure::new("it takes two nodes"));
    };
    uninstall(kubectl, site)?;
    let scene = Scene {
        kubectl,
        ours,
        stock,
        // One that is killed is waited for that long.
        istio_cni: Release::istio_cni()?.with(
            &json!({ "terminationGracePeriodSeconds": 5, "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": LABEL, "operator": "NotIn", "values": [OURS, NOBODYS] }] },
            ] },
        } } }),
        ),
        isthmus: site.agent()?.beside_ztunnel((LABEL, OURS)),
    };
    let ztunnel = scene.begin()?;
    scene.take_over(|| {
        drop(ztunnel);
        scene.step("istio-cni leaves, and cleans up after itself", || {
            scene.label(stock, OURS)?;
            scene.gone(ISTIO_CNI)
        })
    })?;
    let ztunnel = scene.give_back()?;
    scene.take_over(|| {
        drop(ztunnel);
        scene.step("istio-cni dies, and leaves all that it had", || scene.dies())?;
        scene.label(stock, OURS)
    })
}

impl Scene<'_> {
    /// Both side by side, with a pod on each node, of which istio-cni has one.
    fn begin(&self) -> Result<Process> {
        self.step("both are installed", || {
            self.label(self.ours, OURS)?;
            self.stock.load_istio_cni()?;
            self.istio_cni.install(self.kubectl)?;
            let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "ztunnel", "namespace": "istio-system" } });
            self.kubectl.apply(&[account])?;
            self.isthmus.install(self.kubectl)
        })?;
        let ztunnel = self.ztunnel()?;
        self.step("a pod of each", || {
            self.kubectl.apply(&[
                self.server(DEMO, "near", self.ours),
                self.server(DEMO, "had", self.stock),
            ])?;
            rolled_out(self.kubectl, DEMO, "near")?;
            rolled_out(self.kubectl, DEMO, "had")
        })?;
        self.is_istio_cnis()?;
        Ok(ztunnel)
    }

    /// The node becomes ours while its pods run.
    fn take_over(&self, leaves: impl FnOnce() -> Result) -> Result {
        let (near, had) = (self.address("near")?, self.address("had")?);
        let [at_ours, at_stock] = [Capture::start(self.ours.netns())?, Capture::start(self.stock.netns())?];
        let pod = self.pod("had")?;
        let ((), asked) = load::during(self.kubectl, &[pod], &near, || {
            leaves()?;
            self.step("Isthmus comes", || self.served(AGENT))?;
            self.step("what istio-cni left goes", || {
                self.without(&ON_NODE, || self.traces())?;
                self.without(&IN_POD, || self.inside(&had))
            })
        })?;
        println!("  {asked:?}");
        for (from, to) in [("had", &near), ("near", &had)] {
            self.answers(from, to)?;
        }
        for (capture, to) in [(&at_stock, &near), (&at_ours, &had)] {
            let to = to.parse().because("an address")?;
            assert!(!capture.syns_to(to, TUNNELS).is_empty(), "no tunnel to {to} was opened");
            assert_eq!(capture.syns_to(to, PORT), [], "in clear to {to}");
        }
        let pods = ["pods", "--namespace", DEMO, "--selector=app=had"];
        let restarts = self.kubectl.until(&pods, SOON, |pods| {
            let pod = items(pods).into_iter().find(is_ready)?;
            pod.pointer("/status/containerStatuses/0/restartCount").cloned()
        })?;
        assert_eq!(restarts, json!(0), "its kubelet never gave it up");
        self.step("another pod starts there", || {
            self.kubectl.apply(&[self.server(PLAIN, "another", self.stock)])?;
            rolled_out(self.kubectl, PLAIN, "another")
        })?;
        self.kubectl
            .run(&["delete", "deployment", "another", "--namespace", PLAIN])
            .map(drop)
    }

    /// It is killed before it could clean up, as by a node that loses power. So did older ones leave when their DaemonSet stayed: then
    /// its plugin has a credential that ended with its pod, and lets no pod start but those that are called as its own, as ours is.
    fn dies(&self) -> Result {
        self.stock.run(&["pkill", "-STOP", "-x", "install-cni"])?;
        self.label(self.stock, NOBODYS)?;
        self.gone(ISTIO_CNI)?;
        // The API server believes a token for a while after the pod that it is bound to has gone.
        within(SOON, "its plugin is not believed any more", || {
            let status = self.stock.run(&["bash", "-c", include_str!("credential.sh")]);
            status.is_ok_and(|status| status == "401").then_some(())
        })?;
        self.is_istio_cnis()
    }

    /// The node becomes istio-cni's again.
    fn give_back(&self) -> Result<Process> {
        let name = self.stock.name();
        self.step("Isthmus leaves", || {
            self.kubectl.run_patiently(&[
                "drain",
                name,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--timeout=90s",
            ])?;
            self.label(self.stock, NOBODYS)?;
            self.gone(AGENT)
        })?;
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/image/isthmus");
        self.stock.run(&[program, "cleanup"])?;
        let ztunnel = self.ztunnel()?;
        self.step("istio-cni comes", || {
            self.kubectl.run(&["label", "node", name, &format!("{LABEL}-")])?;
            self.served(ISTIO_CNI)?;
            self.kubectl.run(&["uncordon", name])?;
            rolled_out(self.kubectl, DEMO, "had")
        })?;
        self.is_istio_cnis()?;
        let had = self.address("had")?;
        self.without(&OF_OURS, || Ok(self.traces()? + &self.inside(&had)?))?;
        Ok(ztunnel)
    }

    /// istio-cni's traces are where they are looked for later.
    fn is_istio_cnis(&self) -> Result {
        let had = self.address("had")?;
        for (traces, text) in [(&ON_NODE[..], self.traces()?), (&IN_POD, self.inside(&had)?)] {
            for trace in traces {
                assert!(text.contains(trace), "{trace} is not in {text}");
            }
        }
        Ok(())
    }

    fn without(&self, traces: &[&str], look: impl Fn() -> Result<String>) -> Result {
        let mut last = String::new();
        let gone = within(SOON, "all of it is gone", || {
            let looked = look();
            let is_gone = matches!(&looked, Ok(text) if !traces.iter().any(|trace| text.contains(trace)));
            last = looked.unwrap_or_else(|failure| failure.to_string());
            is_gone.then_some(())
        });
        gone.because(format!("any of {traces:?} in {last}"))
    }

    fn traces(&self) -> Result<String> {
        self.stock.run(&["bash", "-c", include_str!("traces.sh")])
    }

    fn inside(&self, address: &str) -> Result<String> {
        self.stock
            .run(&["bash", "-c", include_str!("inside.sh"), "bash", address])
    }

    fn ztunnel(&self) -> Result<Process> {
        self.stock.python("ztunnel", include_str!("ztunnel.py"))
    }

    fn label(&self, machine: &Machine, whose: &str) -> Result {
        let label = format!("{LABEL}={whose}");
        self.kubectl
            .run(&["label", "node", machine.name(), "--overwrite", &label])
            .map(drop)
    }

    /// Pods of a DaemonSet on the node that changes hands.
    fn agents(&self, selector: &str) -> [String; 4] {
        let node = self.stock.name();
        [
            "pods".to_owned(),
            SYSTEM.to_owned(),
            format!("--selector={selector}"),
            format!("--field-selector=spec.nodeName={node}"),
        ]
    }

    fn gone(&self, selector: &str) -> Result {
        let agents = self.agents(selector);
        let agents = agents.each_ref().map(String::as_str);
        self.kubectl
            .until(&agents, SOON, |pods| items(pods).is_empty().then_some(()))
    }

    fn served(&self, selector: &str) -> Result {
        let agents = self.agents(selector);
        let agents = agents.each_ref().map(String::as_str);
        self.kubectl
            .until(&agents, SOON, |pods| items(pods).iter().any(is_ready).then_some(()))
    }

    fn server(&self, namespace: &str, name: &str, machine: &Machine) -> Value {
        let mut spec = demo::server("default", name, "");
        // As patient as Kubernetes is by itself: while nobody serves the pod, probes fail.
        if let Some(probe) = spec.pointer_mut("/containers/0/livenessProbe") {
            merge(probe, &json!({ "periodSeconds": 10, "failureThreshold": 3 }));
        }
        merge(
            &mut spec,
            &json!({ "nodeSelector": { "kubernetes.io/hostname": machine.name() } }),
        );
        demo::deployment(namespace, name, 1, &spec)
    }

    fn address(&self, app: &str) -> Result<String> {
        pod_address(self.kubectl, DEMO, app)
    }

    fn pod(&self, app: &str) -> Result<String> {
        let selector = format!("--selector=app={app}");
        let pods = self.kubectl.get(&["pods", "--namespace", DEMO, &selector])?;
        let name = items(&pods)
            .first()
            .and_then(|pod| Some(pod.pointer("/metadata/name")?.as_str()?.to_owned()));
        name.because(format!("there is a pod {app}"))
    }

    fn answers(&self, from: &str, to: &str) -> Result {
        let place = format!("deploy/{from}");
        let ask = demo::ask(to);
        within(SOON, &format!("{from} is answered"), || {
            self.kubectl.exec(DEMO, &place, &demo::sh(&ask)).ok().map(drop)
        })
    }

    /// What a developer would look at first.
    fn last_words(&self) -> String {
        let asked = [
            &["get", "pods", "--all-namespaces", "--output=wide"][..],
            &["events", "--all-namespaces", "--types=Warning"],
            &[
                "logs",
                SYSTEM,
                "--selector=k8s-app=istio-cni-node",
                "--tail=15",
                "--prefix",
            ],
        ];
        let said = asked.map(|arguments| {
            self.kubectl
                .run(arguments)
                .unwrap_or_else(|failure| failure.to_string())
        });
        said.join("\n")
    }

    fn step(&self, what: &str, step: impl FnOnce() -> Result) -> Result {
        let begin = Instant::now();
        if let Err(failure) = step() {
            return Err(Failure::new(format!("{what}: {failure}\n{}", self.last_words())));
        }
        println!("  {what}: {:.1} s", begin.elapsed().as_secs_f64());
        Ok(())
    }
}
