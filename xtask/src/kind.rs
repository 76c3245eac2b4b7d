//! Two clusters of kind that are one mesh: what `cargo xtask cluster up` makes without Docker, for those who have it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    Failure, Step, Tree, cluster, control_plane, helm,
    image::WORKLOAD,
    setup::{self, Purpose},
    tree::in_path,
};

/// Istio's images. `ISTIO_HUB` and `ISTIO_TAG` name others.
const ISTIO: [(&str, &str); 2] = [("ISTIO_HUB", "docker.io/istio"), ("ISTIO_TAG", "1.31.1")];
const GATEWAY: &str = "istio-eastwestgateway";

/// One of the two.
struct Cluster<'a> {
    tree: &'a Tree,
    number: u8,
    kubeconfig: PathBuf,
}

/// Makes both unless they are there, installs istiod and Isthmus, and answers their kubeconfigs.
pub(crate) fn up(tree: &Tree) -> Result<[PathBuf; 2], Failure> {
    for program in ["docker", "kind", "openssl"] {
        if in_path(program).is_none() {
            return Err(Failure::new(format!(
                "`--kind` needs {program} in PATH; without Docker, `cargo xtask test cluster` asks the same of clusters that it makes itself"
            )));
        }
    }
    setup::prepare(tree, &[Purpose::Build, Purpose::ControlPlane, Purpose::Charts])?;
    cluster::images(tree)?;
    let home = tree.target("kind");
    std::fs::create_dir_all(&home).map_err(|cause| Failure::io("making", &home, &cause))?;
    root(tree, &home)?;
    let clusters = [1, 2].map(|number| Cluster {
        tree,
        number,
        kubeconfig: home.join(format!("cluster{number}.kubeconfig")),
    });
    for cluster in &clusters {
        cluster.create()?;
        cluster.istiod(&home)?;
    }
    let [one, two] = &clusters;
    for (cluster, other) in [(one, two), (two, one)] {
        let secret = other.remote_secret()?;
        cluster.apply(&secret)?;
        cluster.install()?;
    }
    Ok(clusters.map(|cluster| cluster.kubeconfig))
}

impl Cluster<'_> {
    fn name(&self) -> String {
        format!("cluster{}", self.number)
    }

    fn kind_name(&self) -> String {
        format!("isthmus-{}", self.name())
    }

    fn create(&self) -> Result<(), Failure> {
        let known = output(Command::new("kind").args(["get", "clusters"]))?;
        if !known.lines().any(|name| name == self.kind_name()) {
            let mut create = Command::new("kind");
            create
                .args(["create", "cluster", "--wait=180s", "--config"])
                .arg(self.tree.path(format!("tests/kind/{}.yaml", self.name())));
            Step::new(format!("making {}", self.kind_name()), create).quiet(self.tree)?;
        }
        let mut export = Command::new("kind");
        export.args(["export", "kubeconfig", "--name", &self.kind_name(), "--kubeconfig"]);
        output(export.arg(&self.kubeconfig))?;
        let version = env!("CARGO_PKG_VERSION");
        for archive in [format!("image/isthmus-{version}.tar"), "image/busybox.tar".to_owned()] {
            let mut load = Command::new("kind");
            load.args(["load", "image-archive", "--name", &self.kind_name()])
                .arg(self.tree.target(archive));
            Step::new("loading an image", load).quiet(self.tree)?;
        }
        Ok(())
    }

    /// Custom resources, the common root, and an istiod for an ambient mesh of several networks.
    fn istiod(&self, home: &Path) -> Result<(), Failure> {
        let (network, name) = (format!("network{}", self.number), self.name());
        self.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: istio-system\n  labels: {{topology.istio.io/network: {network}}}\n"
        ))?;
        let crds = control_plane::home(self.tree)?.join("gateway-crds.yaml");
        output(self.kubectl()?.args(["apply", "--server-side", "-f"]).arg(crds))?;
        let file = |key: &str, name: &str| format!("--from-file={key}={}", home.join(name).display());
        let secret = output(self.kubectl()?.args([
            "create",
            "secret",
            "generic",
            "cacerts",
            "--namespace=istio-system",
            "--dry-run=client",
            "--output=yaml",
            &file("ca-cert.pem", "root.pem"),
            &file("ca-key.pem", "root-key.pem"),
            &file("root-cert.pem", "root.pem"),
            &file("cert-chain.pem", "root.pem"),
        ]))?;
        self.apply(&secret)?;
        let charts = control_plane::module_folder(self.tree, "istio.io/istio")?.join("manifests/charts");
        let [hub, tag] =
            ISTIO.map(|(variable, default)| std::env::var(variable).unwrap_or_else(|_| default.to_owned()));
        self.helm("istio-base", &charts.join("base"), "{}")?;
        self.helm("istiod", &charts.join("istio-control/istio-discovery"), &format!(
            "profile: ambient\n\
             env: {{AMBIENT_ENABLE_MULTI_NETWORK: \"true\"}}\n\
             global: {{hub: {hub}, tag: {tag}, network: {network}, meshID: mesh1, multiCluster: {{clusterName: {name}}}}}\n\
             meshConfig:\n  serviceScopeConfigs:\n    - servicesSelector:\n        matchExpressions:\n          - {{key: istio.io/global, operator: In, values: [\"true\"]}}\n      scope: GLOBAL\n"
        ))
    }

    /// What lets the other istiod read this cluster, at the address that it has among containers.
    fn remote_secret(&self) -> Result<String, Failure> {
        let mut istioctl = Command::new(control_plane::home(self.tree)?.join("istioctl"));
        istioctl
            .args(["create-remote-secret", "--name", &self.name(), "--kubeconfig"])
            .arg(&self.kubeconfig);
        output(istioctl.args(["--server", &format!("https://{}:6443", self.address("control-plane")?)]))
    }

    /// Agents on all nodes, and a gateway that is reached at a node's address, for want of a load balancer.
    fn install(&self) -> Result<(), Failure> {
        let (network, name) = (format!("network{}", self.number), self.name());
        let common = format!("multiCluster: {{clusterName: {name}}}\nimagePullPolicy: Never\n");
        self.helm(
            "isthmus",
            &self.tree.path("deploy/helm/isthmus"),
            &format!("{common}network: {network}\ncleanup: {{pauseImage: {WORKLOAD}}}\n"),
        )?;
        let address = self.address("worker")?;
        self.helm(
            GATEWAY,
            &self.tree.path("deploy/helm/isthmus-gateway"),
            &format!("{common}networkGateway: {network}\nreplicaCount: 1\nservice: {{externalIPs: [{address}]}}\n"),
        )?;
        let status = format!("{{\"status\":{{\"loadBalancer\":{{\"ingress\":[{{\"ip\":\"{address}\"}}]}}}}}}");
        let patch = [
            "patch",
            "service",
            GATEWAY,
            "--namespace=istio-system",
            "--subresource=status",
            "--type=merge",
            "--patch",
        ];
        output(self.kubectl()?.args(patch).arg(status)).map(drop)
    }

    /// Of one of its containers, among containers.
    fn address(&self, role: &str) -> Result<String, Failure> {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let container = format!("{}-{role}", self.kind_name());
        Ok(
            output(Command::new("docker").args(["inspect", "--format", format, &container]))?
                .trim()
                .to_owned(),
        )
    }

    fn helm(&self, release: &str, chart: &Path, values: &str) -> Result<(), Failure> {
        let mut helm = helm::command(self.tree, &[])?;
        helm.args([
            "upgrade",
            "--install",
            "--namespace=istio-system",
            "--wait",
            "--timeout=5m",
            "--values=-",
        ])
        .arg("--kubeconfig")
        .arg(&self.kubeconfig)
        .arg(release)
        .arg(chart);
        tell(&mut helm, values).map(drop)
    }

    fn apply(&self, text: &str) -> Result<(), Failure> {
        tell(
            self.kubectl()?
                .args(["apply", "--server-side", "--force-conflicts", "-f", "-"]),
            text,
        )
        .map(drop)
    }

    fn kubectl(&self) -> Result<Command, Failure> {
        let mut kubectl = Command::new(control_plane::home(self.tree)?.join("kubectl"));
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig);
        Ok(kubectl)
    }
}

/// A root that signs for both.
fn root(tree: &Tree, home: &Path) -> Result<(), Failure> {
    if home.join("root.pem").is_file() {
        return Ok(());
    }
    let mut openssl = Command::new("openssl");
    openssl.current_dir(home).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/O=isthmus",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout",
        "root-key.pem",
        "-out",
        "root.pem",
    ]);
    Step::new("making a root certificate", openssl).quiet(tree)
}

fn output(command: &mut Command) -> Result<String, Failure> {
    tell(command, "")
}

/// What it writes, given this; an error when it fails.
fn tell(command: &mut Command, input: &str) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |cause: std::io::Error| Failure::new(format!("running {program}: {cause}"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing has ended by itself and says why.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(Failure::new(format!(
        "{program}: {}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )))
}
