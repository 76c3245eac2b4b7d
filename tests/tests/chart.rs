//! What the charts make: exactly the rights that the agent needs, each with its reason, and nothing of what was misspelt.

use std::collections::BTreeSet;

use isthmus_tests::{
    Chart, Result,
    chart::{self, Rendered},
};
use serde_json::{Value, json};

/// Every capability, as `isthmus check` and the systemd unit have them.
const CAPABILITIES: [&str; 4] = ["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "DAC_OVERRIDE"];

fn agent() -> Chart {
    Chart::new("isthmus")
}

fn gateway() -> Chart {
    Chart::new("isthmus-gateway")
        .release("istio-eastwestgateway")
        .values("networkGateway: network1")
}

#[test]
fn lint_has_no_complaint() -> Result {
    agent().lint()?;
    gateway().lint()
}

#[test]
fn an_agent_needs_these_objects_and_no_others() -> Result {
    let rendered = agent().with(&["--no-hooks"]).render()?;
    assert_eq!(
        rendered.names(),
        [
            "ClusterRole ztunnel",
            "ClusterRoleBinding ztunnel",
            "DaemonSet ztunnel",
            "ServiceAccount ztunnel",
        ]
    );
    Ok(())
}

#[test]
fn every_capability_has_a_reason_and_there_are_no_others() -> Result {
    let rendered = agent().render()?;
    let container = container(rendered.object("DaemonSet", "ztunnel"));
    let added = strings(&container["securityContext"]["capabilities"]["add"]);
    assert_eq!(added, CAPABILITIES);
    for capability in CAPABILITIES {
        let given: Vec<_> = rendered
            .text
            .lines()
            .filter(|line| {
                line.trim_start()
                    .strip_prefix("- ")
                    .is_some_and(|item| item.split_whitespace().next() == Some(capability))
            })
            .collect();
        assert!(!given.is_empty());
        for line in given {
            let reason = line.split_once('#').map_or("", |(_, reason)| reason.trim());
            assert!(reason.len() > 10, "{capability} has no reason: {line}");
        }
    }
    let unit = chart::file("deploy/systemd/isthmus.service")?;
    let unit = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .unwrap_or_default();
    let unit: BTreeSet<_> = unit
        .split_whitespace()
        .filter_map(|name| name.strip_prefix("CAP_"))
        .collect();
    assert_eq!(unit, CAPABILITIES.into(), "the systemd unit and the chart differ");
    Ok(())
}

#[test]
fn no_container_is_privileged_or_may_write_its_root() -> Result {
    for rendered in [agent().render()?, gateway().render()?] {
        for object in rendered
            .objects()
            .iter()
            .filter(|object| object["spec"]["template"].is_object())
        {
            let spec = &object["spec"]["template"]["spec"];
            assert_ne!(spec["hostPID"], true);
            assert_ne!(spec["hostIPC"], true);
            for container in list(&spec["containers"]).iter().chain(list(&spec["initContainers"])) {
                let context = &container["securityContext"];
                assert_ne!(context["privileged"], true, "{container}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
                assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
                let seccomp = [
                    &context["seccompProfile"]["type"],
                    &spec["securityContext"]["seccompProfile"]["type"],
                ];
                assert!(seccomp.contains(&&json!("RuntimeDefault")), "{container}");
            }
        }
    }
    Ok(())
}

#[test]
fn rights_are_exactly_these() -> Result {
    let rendered = agent().render()?;
    assert_eq!(
        rendered.object("ClusterRole", "ztunnel")["rules"],
        json!([
            { "apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["get", "list", "watch"] },
            { "apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"] },
            { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"] },
        ])
    );
    assert_eq!(
        rendered.object("ClusterRoleBinding", "ztunnel")["subjects"],
        json!([{ "kind": "ServiceAccount", "name": "ztunnel", "namespace": "istio-system" }])
    );
    // Nodes are somebody else's business, until an operator asks for the taint to be taken off.
    let tainted = agent().values("startupTaint: cni.istio.io/not-ready").render()?;
    let rules = list(&tainted.object("ClusterRole", "ztunnel")["rules"]);
    assert_eq!(
        rules.last(),
        Some(&json!({ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"] }))
    );
    assert_eq!(rules.len(), 4);
    let container = container(tainted.object("DaemonSet", "ztunnel"));
    assert_eq!(variable(container, "ISTHMUS_STARTUP_TAINT"), "cni.istio.io/not-ready");
    assert!(!rendered.text.contains("ISTHMUS_STARTUP_TAINT"));
    // A gateway asks istiod and nobody else.
    assert!(gateway().render()?.names().iter().all(|name| !name.contains("Role")));
    Ok(())
}

#[test]
fn the_node_is_writable_only_where_it_must_be() -> Result {
    let rendered = agent().render()?;
    let daemonset = rendered.object("DaemonSet", "ztunnel");
    let hosts: Vec<_> = list(&daemonset["spec"]["template"]["spec"]["volumes"])
        .iter()
        .filter(|volume| volume["hostPath"].is_object())
        .collect();
    let mounts = list(&container(daemonset)["volumeMounts"]);
    let mut seen = Vec::new();
    for volume in &hosts {
        for mount in mounts.iter().filter(|mount| mount["name"] == volume["name"]) {
            let access = if mount["readOnly"] == true { "ro" } else { "rw" };
            let path = volume["hostPath"]["path"].as_str().unwrap_or_default();
            seen.push(format!(
                "{path} {} {access}",
                mount["mountPath"].as_str().unwrap_or_default()
            ));
        }
    }
    seen.sort();
    assert_eq!(
        seen,
        [
            "/etc/cni/net.d /host/etc/cni/net.d rw",
            "/opt/cni/bin /host/opt/cni/bin rw",
            "/proc /host/proc ro",
            "/proc/sys/net /host/proc/sys/net rw",
            "/run/isthmus /run/isthmus rw",
            "/sys/fs/bpf /sys/fs/bpf rw",
            "/sys/fs/cgroup /host/sys/fs/cgroup rw",
            "/sys/kernel/rcu_expedited /sys/kernel/rcu_expedited rw",
            "/var/lib/isthmus /var/lib/isthmus rw",
            "/var/run/netns /var/run/netns ro",
        ]
    );
    let docs = chart::file("docs/install.md")?;
    for line in &seen {
        let path = line.split(' ').next().unwrap_or_default();
        assert!(
            docs.contains(&format!("| `{path}` |")),
            "docs/install.md does not tell what {path} is for"
        );
    }

    let without_cni = agent().values("cniInstall: 'off'").render()?;
    let volumes = &without_cni.object("DaemonSet", "ztunnel")["spec"]["template"]["spec"]["volumes"];
    assert!(
        list(volumes)
            .iter()
            .all(|volume| !volume["name"].as_str().unwrap_or_default().starts_with("cni"))
    );
    Ok(())
}

/// What is told by its sockets must be seen, and only where an operator asked for it.
#[test]
fn taking_over_from_istio_cni_is_asked_for() -> Result {
    let plain = agent().render()?;
    let asked = agent().values("takeOverIstioCni: true\ncniInstall: 'off'").render()?;
    let seen = |rendered: &chart::Rendered| -> Vec<String> {
        let daemonset = rendered.object("DaemonSet", "ztunnel");
        let mounts = list(&container(daemonset)["volumeMounts"]);
        let paths = mounts.iter().filter_map(|mount| mount["mountPath"].as_str());
        paths.map(str::to_owned).collect()
    };
    let wanted = [
        "/host/var/run/istio-cni",
        "/host/var/run/ztunnel",
        "/host/etc/cni/net.d",
        "/host/opt/cni/bin",
    ];
    let (without, with) = (seen(&plain), seen(&asked));
    assert!(
        wanted.iter().all(|path| with.iter().any(|seen| seen == path)),
        "{with:?}"
    );
    assert!(
        !without
            .iter()
            .any(|seen| seen.contains("istio-cni") || seen.contains("run/ztunnel")),
        "{without:?}"
    );
    let told = |rendered: &chart::Rendered| {
        variable(
            container(rendered.object("DaemonSet", "ztunnel")),
            "ISTHMUS_TAKE_OVER_ISTIO_CNI",
        )
        .clone()
    };
    assert_eq!(told(&asked), "true");
    assert!(told(&plain).is_null());
    Ok(())
}

#[test]
fn the_agent_is_what_istiod_and_istioctl_look_for() -> Result {
    let rendered = agent().render()?;
    let daemonset = rendered.object("DaemonSet", "ztunnel");
    assert_eq!(
        daemonset["spec"]["updateStrategy"],
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })
    );
    let template = &daemonset["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["app"], "ztunnel");
    assert_eq!(template["metadata"]["labels"]["k8s-app"], "istio-cni-node");
    assert_eq!(template["metadata"]["labels"]["istio.io/dataplane-mode"], "none");
    assert_eq!(template["metadata"]["annotations"]["prometheus.io/port"], "15020");
    assert_eq!(template["spec"]["serviceAccountName"], "ztunnel");
    assert_eq!(template["spec"]["priorityClassName"], "system-node-critical");
    assert_selected(daemonset);
    let volumes = list(&template["spec"]["volumes"]);
    let token = volumes
        .iter()
        .find(|volume| volume["name"] == "istio-token")
        .unwrap_or(&Value::Null);
    assert_eq!(
        token["projected"]["sources"][0]["serviceAccountToken"]["audience"],
        "istio-ca"
    );
    let roots = volumes
        .iter()
        .find(|volume| volume["name"] == "istiod-ca-cert")
        .unwrap_or(&Value::Null);
    assert_eq!(roots["configMap"]["name"], "istio-ca-root-cert");
    let container = container(daemonset);
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/healthz/ready");
    // They end an agent that waits for others, and with it the connections that it carries.
    for probe in ["startupProbe", "livenessProbe"] {
        assert!(at(container, &format!("/{probe}")).is_null(), "{probe}");
    }
    assert_eq!(variable(container, "XDS_ADDRESS"), "istiod.istio-system.svc:15012");
    assert_eq!(variable(container, "EXCLUDE_NAMESPACES"), "kube-system");
    assert_eq!(variable(container, "ISTIO_META_CLUSTER_ID"), "Kubernetes");
    assert!(variable(container, "NETWORK").is_null());
    Ok(())
}

/// Values as one has them who comes from the charts ztunnel and istio-cni.
#[test]
fn values_of_ztunnel_and_istio_cni_mean_the_same() -> Result {
    let rendered = agent()
        .values(
            "revision: canary\nnetwork: network1\nmeshID: mesh1\nlogLevel: debug\nlogAsJson: true\n\
             hub: registry.example/mesh\ntag: v1\nimagePullSecrets: [key]\n\
             multiCluster: {clusterName: cluster1}\nmeshConfig: {defaultConfig: {proxyMetadata: {ISTIO_META_A: b}}}\n\
             env: {XDS_ROOT_CA: SYSTEM, RUST_LOG: trace, KEEPALIVE_RETRIES: 3}\nterminationGracePeriodSeconds: 60\n\
             excludeNamespaces: [kube-system, tools]\ncniBinDir: /bin\ncniConfDir: /cni\ncniConfFileName: 10-x.conflist\n\
             nodeSelector: {pool: a}\nresources: {requests: {cpu: 1}, limits: {cpu: 2}}\n\
             global: {network: other, anything: of others}",
        )
        .render()?;
    let daemonset = rendered.object("DaemonSet", "ztunnel");
    let container = container(daemonset);
    for (name, value) in [
        ("XDS_ADDRESS", "istiod-canary.istio-system.svc:15012"),
        ("CA_ADDRESS", "istiod-canary.istio-system.svc:15012"),
        ("NETWORK", "network1"),
        ("ISTIO_META_MESH_ID", "mesh1"),
        ("ISTIO_META_CLUSTER_ID", "cluster1"),
        ("ISTIO_META_A", "b"),
        ("XDS_ROOT_CA", "SYSTEM"),
        // A variable of the values comes before the chart's own.
        ("RUST_LOG", "trace"),
        ("KEEPALIVE_RETRIES", "3"),
        ("LOG_FORMAT", "json"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "60"),
        ("EXCLUDE_NAMESPACES", "kube-system,tools"),
        ("CNI_CONF_NAME", "10-x.conflist"),
    ] {
        assert_eq!(variable(container, name), value, "{name}");
    }
    let names: Vec<_> = list(&container["env"])
        .iter()
        .map(|variable| &variable["name"])
        .collect();
    let different: BTreeSet<_> = names.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), different.len(), "a variable is set twice: {names:?}");
    assert_eq!(container["image"], "registry.example/mesh/isthmus:v1");
    assert_eq!(
        rendered.object("ServiceAccount", "ztunnel")["imagePullSecrets"],
        json!([{ "name": "key" }])
    );
    let spec = &daemonset["spec"]["template"]["spec"];
    assert_eq!(
        spec["nodeSelector"],
        json!({ "kubernetes.io/os": "linux", "pool": "a" })
    );
    assert_eq!(spec["terminationGracePeriodSeconds"], 60);
    assert_eq!(host_path(spec, "cni-bin"), "/bin");
    assert_eq!(host_path(spec, "cni-conf"), "/cni");
    Ok(())
}

#[test]
fn a_platform_has_its_own_directories_unless_a_value_says_others() -> Result {
    let rendered = agent()
        .values("global: {platform: openshift}\ncniConfDir: /mine")
        .render()?;
    let spec = &rendered.object("DaemonSet", "ztunnel")["spec"]["template"]["spec"];
    assert_eq!(host_path(spec, "cni-bin"), "/var/lib/cni/bin");
    assert_eq!(host_path(spec, "cni-conf"), "/mine");
    assert_eq!(
        spec["containers"][0]["securityContext"]["seLinuxOptions"]["type"],
        "spc_t"
    );
    assert!(rendered.names().contains(&"RoleBinding ztunnel-scc".to_owned()));
    Ok(())
}

#[test]
fn beside_a_ztunnel_nothing_is_taken_from_it() -> Result {
    let rendered = agent()
        .values("resourceName: isthmus\nserviceAccount: {create: false, name: ztunnel}\nnodeSelector: {mesh: isthmus}")
        .with(&["--no-hooks"])
        .render()?;
    assert_eq!(
        rendered.names(),
        ["ClusterRole isthmus", "ClusterRoleBinding isthmus", "DaemonSet isthmus"]
    );
    let daemonset = rendered.object("DaemonSet", "isthmus");
    assert_eq!(daemonset["spec"]["template"]["spec"]["serviceAccountName"], "ztunnel");
    assert_eq!(
        rendered.object("ClusterRoleBinding", "isthmus")["subjects"][0]["name"],
        "ztunnel"
    );
    // ztunnel's DaemonSet selects app=ztunnel; ours must not select ztunnel's pods.
    assert!(daemonset["spec"]["selector"]["matchLabels"].get("app").is_none());
    assert_selected(daemonset);
    Ok(())
}

#[test]
fn a_kubernetes_without_the_field_is_told_of_apparmor_by_an_annotation() -> Result {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/isthmus";
    let profile = |rendered: &Rendered| {
        let template = rendered.object("DaemonSet", "ztunnel")["spec"]["template"].clone();
        let field = template["spec"]["containers"][0]["securityContext"]["appArmorProfile"]["type"].clone();
        (field, template["metadata"]["annotations"][ANNOTATION].clone())
    };
    let new = agent().with(&["--kube-version", "1.30"]).render()?;
    assert_eq!(profile(&new), (json!("Unconfined"), Value::Null));
    let old = agent().with(&["--kube-version", "1.29"]).render()?;
    assert_eq!(profile(&old), (Value::Null, json!("unconfined")));
    Ok(())
}

#[test]
fn what_is_misspelt_or_of_the_wrong_kind_is_refused_by_name() -> Result {
    for (values, named) in [
        ("cniBinDri: /x", "cniBinDri"),
        ("multiCluster: {clustername: x}", "clustername"),
        ("meshConfig: {trustDomian: x}", "trustDomian"),
        ("cniInstall: maybe", "cniInstall"),
        ("runDir: relative", "runDir"),
        ("startupTaint: 'a=b:NoSchedule'", "startupTaint"),
        ("logLevel: [debug]", "logLevel"),
        ("terminationGracePeriodSeconds: soon", "terminationGracePeriodSeconds"),
        ("global: {platform: gek}", "platform"),
        ("xdsAddress: istiod", "xdsAddress"),
        // Values of others that would be dropped without a word.
        ("peerCaCrl: {enabled: true}", "peerCaCrl"),
        ("repair: {enabled: true}", "repair"),
    ] {
        let refusal = agent().values(values).refused()?;
        assert!(refusal.contains(named), "{values}: {refusal}");
    }
    let refusal = gateway().values("networkGateway: n\nreplicas: 3").refused()?;
    assert!(refusal.contains("replicas"), "{refusal}");
    let refusal = gateway().values("replicaCount: 3").refused()?;
    assert!(refusal.contains("must name the network"), "{refusal}");
    Ok(())
}

#[test]
fn every_value_is_told_of_and_every_one_is_checked() -> Result {
    for chart in ["isthmus", "isthmus-gateway"] {
        let text = chart::file(&format!("deploy/helm/{chart}/values.yaml"))?;
        let values = Rendered::read(text.clone())?.objects()[0].clone();
        let schema: Value = serde_json::from_str(&chart::file(&format!("deploy/helm/{chart}/values.schema.json"))?)?;
        let keys = |value: &Value| -> BTreeSet<String> {
            value
                .as_object()
                .into_iter()
                .flat_map(|object| object.keys().cloned())
                .collect()
        };
        assert_eq!(keys(&values), keys(&schema["properties"]), "{chart}");
        assert_eq!(schema["additionalProperties"], false, "{chart}");
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        let mut told = false;
        for (line, next) in lines.iter().zip(lines.iter().skip(1)) {
            match line.chars().next() {
                Some('#') => told = true,
                Some(' ') => told = false,
                // Rows of one topic may share a comment, or each row below has its own; what is shared with other charts is
                // told of above.
                _ => assert!(
                    told || (next.starts_with(' ') && next.trim_start().starts_with('#'))
                        || line.starts_with("global:"),
                    "{chart}: nothing is said of {line}"
                ),
            }
        }
    }
    Ok(())
}

#[test]
fn what_takes_the_agent_away_is_made_by_uninstalling_alone() -> Result {
    let rendered = agent().render()?;
    let cleanup = rendered.object("DaemonSet", "ztunnel-cleanup");
    assert_eq!(cleanup["metadata"]["annotations"]["helm.sh/hook"], "post-delete");
    let spec = &cleanup["spec"]["template"]["spec"];
    assert_eq!(spec["hostNetwork"], true);
    assert_eq!(spec["initContainers"][0]["args"], json!(["cleanup"]));
    assert_eq!(
        spec["initContainers"][0]["image"],
        rendered.object("DaemonSet", "ztunnel")["spec"]["template"]["spec"]["containers"][0]["image"]
    );
    assert_selected(cleanup);

    let without = agent().values("cleanup: {onUninstall: false}").render()?;
    assert!(!without.names().contains(&"DaemonSet ztunnel-cleanup".to_owned()));
    let plain = agent().with(&["--no-hooks"]).render()?;
    assert!(!plain.names().contains(&"DaemonSet ztunnel-cleanup".to_owned()));
    Ok(())
}

#[test]
fn what_has_no_namespace_can_be_made_by_another() -> Result {
    let cluster = agent().values("resourceScope: cluster").render()?;
    assert_eq!(cluster.names(), ["ClusterRole ztunnel", "ClusterRoleBinding ztunnel"]);
    let namespace = agent()
        .values("resourceScope: namespace")
        .with(&["--no-hooks"])
        .render()?;
    assert_eq!(namespace.names(), ["DaemonSet ztunnel", "ServiceAccount ztunnel"]);
    Ok(())
}

#[test]
fn a_gateway_is_what_istiod_tells_other_networks_of() -> Result {
    const NAME: &str = "istio-eastwestgateway";
    let rendered = gateway().render()?;
    assert_eq!(
        rendered.names(),
        [
            format!("Deployment {NAME}"),
            format!("Gateway {NAME}"),
            format!("PodDisruptionBudget {NAME}"),
            format!("Service {NAME}"),
            format!("ServiceAccount {NAME}"),
        ]
    );
    let object = rendered.object("Gateway", NAME);
    assert_eq!(object["metadata"]["labels"]["topology.istio.io/network"], "network1");
    assert_eq!(
        object["spec"],
        json!({
            "gatewayClassName": "istio-east-west",
            "addresses": [{ "type": "Hostname", "value": format!("{NAME}.istio-system.svc.cluster.local") }],
            "listeners": [{
                "name": "mesh",
                "port": 15008,
                "protocol": "HBONE",
                "tls": { "mode": "Terminate", "options": { "gateway.istio.io/tls-terminate-mode": "ISTIO_MUTUAL" } },
            }],
        })
    );
    let service = rendered.object("Service", NAME);
    assert_eq!(service["metadata"]["labels"]["topology.istio.io/network"], "network1");
    assert_eq!(service["spec"]["ports"][0]["port"], 15008);
    let deployment = rendered.object("Deployment", NAME);
    assert_selected(deployment);
    let pods = &deployment["spec"]["template"];
    let selector = service["spec"]["selector"].as_object().cloned().unwrap_or_default();
    assert!(!selector.is_empty());
    for (key, value) in selector {
        assert_eq!(pods["metadata"]["labels"][&key], value);
    }
    assert_eq!(pods["spec"]["serviceAccountName"], NAME);
    let container = container(deployment);
    assert_eq!(
        variable(container, "ISTHMUS_IDENTITY"),
        "istio-system/istio-eastwestgateway"
    );
    assert_eq!(variable(container, "NETWORK"), "network1");
    assert_eq!(container["securityContext"]["capabilities"], json!({ "drop": ["ALL"] }));
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(pods["spec"]["securityContext"]["runAsNonRoot"], true);
    Ok(())
}

#[test]
fn plain_manifests_are_what_the_chart_makes() -> Result {
    for file in ["isthmus.yaml", "cleanup.yaml"] {
        let text = chart::file(&format!("deploy/manifest/{file}"))?;
        let at = text.find("# helm template ").unwrap_or_default();
        let (command, below) = text[at..].split_once('\n').unwrap_or_default();
        let arguments: Vec<_> = command.split(' ').skip(2).collect();
        let rendered = chart::helm(&arguments, "")?;
        assert!(
            rendered == below,
            "{file} is not what `{command}` makes; run `cargo xtask manifest`"
        );
    }
    Ok(())
}

/// What is at a JSON pointer; null where nothing is.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn container(workload: &Value) -> &Value {
    at(workload, "/spec/template/spec/containers/0")
}

fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    let found = list(at(container, "/env"))
        .iter()
        .find(|variable| at(variable, "/name") == name);
    found.map_or(&Value::Null, |variable| at(variable, "/value"))
}

fn host_path<'a>(spec: &'a Value, volume: &str) -> &'a Value {
    let found = list(at(spec, "/volumes"))
        .iter()
        .find(|found| at(found, "/name") == volume);
    found.map_or(&Value::Null, |volume| at(volume, "/hostPath/path"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn strings(value: &Value) -> Vec<&str> {
    list(value).iter().filter_map(Value::as_str).collect()
}

/// A workload must know its pods.
#[track_caller]
fn assert_selected(workload: &Value) {
    let labels = at(workload, "/spec/template/metadata/labels");
    let selector = at(workload, "/spec/selector/matchLabels").as_object();
    assert!(selector.is_some_and(|selector| !selector.is_empty()));
    for (key, value) in selector.into_iter().flatten() {
        assert_eq!(labels.get(key), Some(value), "{key}");
    }
}
