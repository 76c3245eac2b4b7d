use std::{collections::BTreeSet, fs, path::Path};

use super::*;
use crate::{cni::Mode, istiod::Token};

/// Wire-facts §9.5, name by name.
const ZTUNNELS: &[&str] = &[
    "ENABLE_PROXY",
    "PROXY_MODE",
    "PROXY_WORKLOAD_INFO",
    "NETWORK",
    "NODE_NAME",
    "CLUSTER_ID",
    "ISTIO_META_CLUSTER_ID",
    "CLUSTER_DOMAIN",
    "XDS_ADDRESS",
    "CA_ADDRESS",
    "XDS_ROOT_CA",
    "CA_ROOT_CA",
    "ALT_XDS_HOSTNAME",
    "ALT_CA_HOSTNAME",
    "XDS_HEADER_*",
    "CA_HEADER_*",
    "AUTH_TOKEN",
    "XDS_ON_DEMAND",
    "LOCAL_XDS_PATH",
    "LOCAL_XDS",
    "PREFERED_SERVICE_NAMESPACE",
    "SECRET_TTL",
    "FAKE_CA",
    "CRL_PATH",
    "TRUST_DOMAIN",
    "POD_NAME",
    "POD_NAMESPACE",
    "SERVICE_ACCOUNT",
    "INSTANCE_IP",
    "ISTIO_META_*",
    "ISTIO_METAJSON_*",
    "PROXY_CONFIG",
    "INPOD_UDS",
    "INPOD_PORT_REUSE",
    "PACKET_MARK",
    "ENABLE_ORIG_SRC",
    "IPV6_ENABLED",
    "KEEPALIVE_ENABLED",
    "KEEPALIVE_TIME",
    "KEEPALIVE_INTERVAL",
    "KEEPALIVE_RETRIES",
    "USER_TIMEOUT_ENABLED",
    "HTTP2_STREAM_WINDOW_SIZE",
    "HTTP2_CONNECTION_WINDOW_SIZE",
    "HTTP2_FRAME_SIZE",
    "POOL_MAX_STREAMS_PER_CONNECTION",
    "POOL_UNUSED_RELEASE_TIMEOUT",
    "CONNECTION_TERMINATION_DEADLINE",
    "TERMINATION_GRACE_PERIOD_SECONDS",
    "ZTUNNEL_WORKER_THREADS",
    "ZTUNNEL_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_REQUEST",
    "LOCALHOST_APP_TUNNEL",
    "ENABLE_RESPONSE_BAGGAGE",
    "AUTHZ_POLICY_INFO_LOGGING",
    "UNSTABLE_ENABLE_SOCKS5",
    "TLS12_ENABLED",
    "COMPLIANCE_POLICY",
    "LOG_FORMAT",
    "RUST_LOG",
    "INPOD_ENABLED",
];

const ENOUGH: &[(&str, &str)] = &[
    ("NODE_NAME", "node1"),
    ("LOCAL_XDS_PATH", "mesh.yaml"),
    ("ISTHMUS_EMBEDDED_CA", "ca"),
    ("PATH", "/usr/bin"),
];

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

fn run(flags: &str, variables: &[(&str, &str)]) -> Result<NodeConfig, Vec<String>> {
    match NodeConfig::read(words(flags), environment(&[ENOUGH, variables].concat())) {
        Ok(Order::Serve(config)) => Ok(*config),
        Ok(Order::Say(text)) => panic!("{text}"),
        Err(mistakes) => Err(lines(&mistakes)),
    }
}

fn gateway(flags: &str, variables: &[(&str, &str)]) -> Result<GatewayConfig, Vec<String>> {
    match GatewayConfig::read(words(flags), environment(&[ENOUGH, variables].concat())) {
        Ok(Order::Serve(config)) => Ok(*config),
        Ok(Order::Say(text)) => panic!("{text}"),
        Err(mistakes) => Err(lines(&mistakes)),
    }
}

fn lines(mistakes: &Mistakes) -> Vec<String> {
    let text = mistakes.to_string();
    assert_eq!(text.lines().count(), mistakes.iter().count(), "one in a line: {text}");
    text.lines().map(str::to_owned).collect()
}

/// The only mistake, which must name `place`.
fn mistake<C: std::fmt::Debug>(read: Result<C, Vec<String>>, place: &str) -> String {
    let mistakes = read.expect_err(place);
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].starts_with(place), "{mistakes:?}");
    mistakes[0].clone()
}

fn printed(config: &Config) -> serde_json::Value {
    serde_json::from_str(&config.printed.text(Format::Json).unwrap()).unwrap()
}

/// A value that the setting can have and that is not its default.
fn another_value(setting: &Setting) -> &'static str {
    match (setting.flag, setting.kind) {
        ("tunnel-window", _) => "20000000",
        ("stream-window", _) => "100000",
        ("frame-size", _) => "20000",
        ("identity", _) => "demo/gateway",
        ("instance-ip", _) => "10.0.0.9",
        ("vigil", _) => "77us",
        ("enablement-selector", _) => r#"[{"podSelector":{}}]"#,
        ("exclude-namespaces", _) => "demo,other",
        (_, Kind::Text) => "another",
        (_, Kind::Path | Kind::Secret | Kind::Roots) => "/another/path",
        (_, Kind::Moment { .. }) => "77s",
        (_, Kind::Bytes { .. } | Kind::Count { .. }) => "7",
        (_, Kind::Switch) => match setting.default {
            Fallback::Value("true") => "false",
            _ => "true",
        },
        (_, Kind::Port) => "1234",
        (_, Kind::OneOf(words)) => words
            .iter()
            .find(|word| Fallback::Value(word) != setting.default)
            .unwrap(),
        (_, Kind::Address) => "127.0.0.1:1234",
        (_, Kind::Endpoint) => "https://another:1234",
        (_, Kind::Cpus) => "3.0",
        (_, Kind::Threads) => "3",
        (_, Kind::Filter) => "warn",
    }
}

#[test]
fn the_defaults_are_ztunnels() {
    let config = run("", &[]).unwrap();
    assert_eq!(config.common.tuning, Tuning::default());
    assert_eq!(config.common.drain_deadline, Duration::from_secs(5));
    assert_eq!(config.common.secret_ttl, Duration::from_secs(24 * 3600));
    assert_eq!(
        config.common.istiod.xds_address.as_deref(),
        Some("https://localhost:15012")
    );
    assert_eq!(config.threads, Threads::Auto);
    assert!(config.leave_non_mesh && config.common.ipv6 && !config.common.post_quantum_only);
    let ports = Ports {
        admin: Some(15000),
        stats: Some(15020),
        readiness: Some(15021),
    };
    assert_eq!(config.common.ports, ports);
    assert_eq!(config.common.notes, []);
}

#[test]
fn every_setting_can_be_given_both_ways_and_is_printed_with_its_place() {
    for verb in [Verb::Run, Verb::Gateway] {
        for setting in settings_of(verb) {
            let value = another_value(setting);
            let print = |flags: &str, variables: &[(&str, &str)]| {
                let identity: &[(&str, &str)] = &[("ISTHMUS_IDENTITY", "istio-system/gateway")];
                let config = match verb {
                    Verb::Run => run(flags, variables).map(|config| config.common),
                    Verb::Gateway => {
                        let known = variables.iter().any(|(name, _)| *name == "ISTHMUS_IDENTITY");
                        let rest = if known { &[] } else { identity };
                        gateway(flags, &[variables, rest].concat()).map(|config| config.common)
                    }
                };
                printed(&config.unwrap_or_else(|mistakes| panic!("{mistakes:?}")))["settings"][setting.flag].clone()
            };
            let by_flag = print(&format!("--{}={value}", setting.flag), &[]);
            let by_variable = print("", &[(setting.variable, value)]);
            let by_default = print("", &[]);
            assert_eq!(by_flag["from"], "flag", "{}", setting.flag);
            assert_eq!(by_variable["from"], setting.variable);
            assert_eq!(by_flag["value"], by_variable["value"], "{}", setting.flag);
            assert_ne!(by_flag["value"], by_default["value"], "{}", setting.flag);
            // The flag comes first.
            let both = print(
                &format!("--{}={value}", setting.flag),
                &[(setting.variable, "nonsense, and not looked at")],
            );
            assert_eq!(both, by_flag);
        }
    }
}

#[test]
fn a_startup_taint_is_told_by_its_key_alone() {
    let taint = |text: &str| {
        let read = run("--kubernetes", &[("ISTHMUS_STARTUP_TAINT", text)]);
        read.map(|config| config.kubernetes.and_then(|settings| settings.startup_taint))
    };
    assert_eq!(taint("").unwrap(), None);
    for key in ["cni.istio.io/not-ready", "not-ready", "example.com/A_b.c"] {
        assert_eq!(taint(key).unwrap().as_deref(), Some(key));
    }
    let long = "x".repeat(64);
    for wrong in ["a=b", "a:NoSchedule", "a/b/c", "/a", "a/", "-a", "a b", long.as_str()] {
        assert!(taint(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_printed_covers_every_setting() {
    let all = |verb| {
        settings_of(verb)
            .map(|setting| setting.flag)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let shown = |config: &Config| {
        printed(config)["settings"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let node = run("", &[]).unwrap();
    assert_eq!(shown(&node.common), all(Verb::Run).into_iter().collect::<Vec<_>>());
    let gateway = gateway("--identity a/b", &[]).unwrap();
    assert_eq!(
        shown(&gateway.common),
        all(Verb::Gateway).into_iter().collect::<Vec<_>>()
    );
}

#[test]
fn every_variable_of_ztunnel_does_what_its_row_says() {
    for name in ZTUNNELS {
        let row = VARIABLES.iter().find(|row| row.name == *name);
        let row = row.unwrap_or_else(|| panic!("{name} has no row"));
        match row.treatment {
            Treatment::Sets(flag) => {
                let setting = settings::setting(flag).unwrap();
                let value = another_value(setting);
                let config = run("", &[(name, value)]).unwrap();
                assert_eq!(printed(&config.common)["settings"][flag]["from"], *name);
            }
            // Each has a test of its own.
            Treatment::Mapped(_) => {}
            Treatment::Ignored(why) => {
                for value in ["true", "anything"] {
                    let config = run("", &[(name, value)]).unwrap();
                    let note = Note::Ignored {
                        variable: (*name).to_owned(),
                        why,
                    };
                    assert_eq!(config.common.notes, [note]);
                }
            }
            Treatment::Only(values, why) => {
                for value in values {
                    run("", &[(name, value)]).unwrap();
                    run("", &[(name, &value.to_uppercase())]).unwrap();
                }
                assert!(mistake(run("", &[(name, "another")]), name).contains(why));
            }
            Treatment::Refused(why) => assert!(mistake(run("", &[(name, "x")]), name).contains(why)),
        }
        // Kubernetes' manifests have many an empty variable.
        if !name.ends_with('*') {
            let empty = run("--node n --mesh m", &[(name, "")]).unwrap();
            assert_eq!(empty.common.notes, [], "{name}");
        }
    }
    assert!(run("", &[("TLS12_ENABLED", "0"), ("ENABLE_PROXY", "1")]).is_ok());
}

#[test]
fn the_drain_deadline_follows_kubernetes_grace_period_unless_it_is_given_itself() {
    let deadline = |variables: &[(&str, &str)]| run("", variables).unwrap().common.drain_deadline.as_secs();
    for (seconds, expected) in [("0", 1), ("1", 1), ("2", 1), ("10", 9), ("11", 6), ("30", 25)] {
        assert_eq!(
            deadline(&[("TERMINATION_GRACE_PERIOD_SECONDS", seconds)]),
            expected,
            "{seconds}"
        );
    }
    let both = [
        ("TERMINATION_GRACE_PERIOD_SECONDS", "30"),
        ("CONNECTION_TERMINATION_DEADLINE", "7s"),
    ];
    assert_eq!(deadline(&both), 7);
    for wrong in ["30s", "-1", "99999"] {
        mistake(
            run("", &[("TERMINATION_GRACE_PERIOD_SECONDS", wrong)]),
            "TERMINATION_GRACE_PERIOD_SECONDS",
        );
    }
}

#[test]
fn the_cni_plugin_is_installed_in_kubernetes_unless_said_otherwise() {
    let install = |flags: &str, variables: &[(&str, &str)]| run(flags, variables).unwrap().cni.install;
    let in_cluster = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    assert_eq!(install("", &[]), None);
    assert_eq!(install("", &[in_cluster]), Some(Mode::Own));
    assert_eq!(install("--cni-install off", &[in_cluster]), None);
    let owned = |value| ("ISTIO_OWNED_CNI_CONFIG", value);
    assert_eq!(install("", &[in_cluster, owned("false")]), Some(Mode::Chained));
    assert_eq!(install("", &[in_cluster, owned("true")]), Some(Mode::Own));
    let ours = ("ISTHMUS_CNI_INSTALL", "own");
    assert_eq!(install("", &[owned("false"), ours]), Some(Mode::Own));
    mistake(run("", &[owned("perhaps")]), "ISTIO_OWNED_CNI_CONFIG");
    mistake(run("", &[("CHAINED_CNI_PLUGIN", "false")]), "CHAINED_CNI_PLUGIN");
    assert!(run("", &[("CHAINED_CNI_PLUGIN", "true")]).is_ok());
    mistake(run("", &[("CNI_CONF_NAME", "../x.conf")]), "CNI_CONF_NAME");
    let config = run(
        "",
        &[
            ("CNI_CONF_NAME", "10-a.conf"),
            ("MOUNTED_CNI_NET_DIR", "/host/etc/cni/net.d"),
        ],
    )
    .unwrap();
    assert_eq!(config.cni.primary.as_deref(), Some("10-a.conf"));
    assert_eq!(
        config.cni.configurations.as_deref(),
        Some(Path::new("/host/etc/cni/net.d"))
    );
    assert_eq!((config.cni.binaries, config.cni.when_away), (None, "fail"));
}

#[test]
fn families_become_headers_and_metadata_and_secrets_are_never_shown() {
    let config = run(
        "-o json",
        &[
            ("XDS_HEADER_X-Tenant", "s3cret"),
            ("CA_HEADER_authorization", "s3cret"),
            ("ISTIO_META_ENABLE_HBONE", "true"),
            ("ISTIO_META_CLUSTER_ID", "c1"),
            ("ISTIO_METAJSON_LABELS", r#"{"app": "z"}"#),
            ("AUTH_TOKEN", "s3cret.s3cret"),
            ("CLUSTER_ID", "another"),
        ],
    )
    .unwrap();
    let istiod = &config.common.istiod;
    assert_eq!(istiod.xds_headers.0["x-tenant"], "s3cret");
    assert_eq!(istiod.ca_headers.0["authorization"], "s3cret");
    assert_eq!(istiod.metadata["ENABLE_HBONE"], "true");
    assert_eq!(istiod.metadata["LABELS"]["app"], "z");
    assert_eq!(istiod.metadata["CLUSTER_ID"], "c1");
    assert_eq!(config.common.cluster_id, "c1");
    assert_eq!(istiod.token, Token::Literal("s3cret.s3cret".to_owned()));
    for format in [Format::Json, Format::Yaml] {
        let text = config.common.printed.text(format).unwrap();
        assert!(!text.contains("s3cret") && text.contains("x-tenant"), "{text}");
    }
    assert!(!format!("{config:?}").contains("s3cret"));
    for (name, value) in [
        ("XDS_HEADER_a b", "x"),
        ("CA_HEADER_x", "s3cret\n"),
        ("ISTIO_METAJSON_X", "{"),
    ] {
        assert!(!mistake(run("", &[(name, value)]), name).contains("s3cret"));
    }
}

#[test]
fn proxy_config_fills_in_what_nothing_else_says() {
    let yaml = "{discoveryAddress: other:15012, proxyAdminPort: 16000, statsPort: 16020, concurrency: 4, \
                proxyMetadata: {A: b}}";
    let config = run(
        "--stats-port 17000",
        &[("PROXY_CONFIG", yaml), ("XDS_ADDRESS", "own:15012")],
    )
    .unwrap();
    // Rows are read in the table's order, in which XDS_ADDRESS comes first.
    assert_eq!(config.common.istiod.xds_address.as_deref(), Some("https://own:15012"));
    assert_eq!(config.common.ports.admin, Some(16000));
    assert_eq!(config.common.ports.stats, Some(17000));
    assert_eq!(config.common.istiod.metadata["A"], "b");
    assert_eq!(
        printed(&config.common)["settings"]["admin-port"]["from"],
        "PROXY_CONFIG"
    );
    assert_eq!(config.threads, Threads::Count(4));
    let config = run("", &[("PROXY_CONFIG", yaml), ("ZTUNNEL_WORKER_THREADS", "2")]).unwrap();
    assert_eq!(config.threads, Threads::Count(2));
    mistake(run("", &[("PROXY_CONFIG", "statsPort: [")]), "PROXY_CONFIG");
}

#[test]
fn in_a_cluster_istiod_is_found_by_its_service_and_empty_means_nowhere() {
    let address = |variables: &[(&str, &str)]| run("", variables).unwrap().common.istiod.xds_address;
    let in_cluster = [("KUBERNETES_SERVICE_HOST", "10.0.0.1")];
    assert_eq!(
        address(&in_cluster).as_deref(),
        Some("https://istiod.istio-system.svc:15012")
    );
    assert_eq!(address(&[("XDS_ADDRESS", "")]), None);
    let config = run("", &[("XDS_ADDRESS", "a:1")]).unwrap();
    assert_eq!(config.common.istiod.ca_address.as_deref(), Some("https://a:1"));
}

#[test]
fn pods_are_enrolled_by_kubernetes_where_there_is_one() {
    let of = |line: &str, variables: &[(&str, &str)]| run(line, variables).unwrap().kubernetes;
    let in_cluster = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    assert_eq!(of("", &[]), None);
    assert_eq!(of("--kubernetes=false", &[in_cluster]), None);
    let settings = of("", &[in_cluster]).unwrap();
    assert_eq!((settings.kubeconfig, settings.proc), (None, "/proc".into()));
    assert_eq!(settings.rules.excluded, BTreeSet::from(["kube-system".to_owned()]));
    let settings = of(
        "--kubeconfig /k --proc /host/proc",
        &[
            ("EXCLUDE_NAMESPACES", "a, b,"),
            ("SYSTEM_NAMESPACE", "mesh"),
            ("POD_NAMESPACE", "agents"),
            ("POD_NAME", "x"),
            ("AMBIENT_ENABLEMENT_SELECTOR", "- podSelector: {matchLabels: {a: b}}"),
        ],
    );
    let settings = settings.unwrap();
    assert_eq!(
        (settings.kubeconfig, settings.proc),
        (Some("/k".into()), "/host/proc".into())
    );
    let names = |names: [&str; 2]| BTreeSet::from(names.map(str::to_owned));
    assert_eq!(settings.rules.excluded, names(["a", "b"]));
    assert_eq!(settings.rules.system, names(["agents", "mesh"]));
    assert_eq!(settings.rules.own_pod, Some(("agents".to_owned(), "x".to_owned())));
    assert_ne!(settings.rules.enablement, crate::kubernetes::Enablement::default());
    assert_eq!(of("--kubernetes", &[]).unwrap().kubeconfig, None);
    assert!(mistake(run("--exclude-namespaces a;b", &[]), "--exclude-namespaces").contains("commas"));
    mistake(run("--enablement-selector x", &[]), "--enablement-selector");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let mistakes = run(
        "--drain-deadline 5 --stats-port 15000 --frame-size 1 --no-such x stray --threads --node-netns a --node-netns b",
        &[
            ("ISTHMUS_RUN_DIRECTORY", "/x"),
            ("ISTHMUS_RUNDIR", "/x"),
            ("TLS12_ENABLED", "true"),
            ("KEEPALIVE_TIME", "1ms"),
        ],
    )
    .unwrap_err();
    for place in [
        "--drain-deadline \"5\": it must be a time",
        "--stats-port \"15000\": it is the port of --admin-port",
        "--frame-size \"1\": it must be from 16384 to 16777215",
        "--no-such: isthmus run has no such flag",
        "stray: isthmus run takes no arguments",
        "--threads: a value must follow",
        "--node-netns \"b\": it is given twice",
        "ISTHMUS_RUN_DIRECTORY \"/x\": there is no such variable",
        "ISTHMUS_RUNDIR \"/x\": there is no such variable; did you mean ISTHMUS_RUN_DIR?",
        "TLS12_ENABLED \"true\": only false is possible",
        "KEEPALIVE_TIME \"1ms\": it must be from 1s to 32767s",
    ] {
        assert!(
            mistakes.iter().any(|line| line.starts_with(place)),
            "{place}: {mistakes:#?}"
        );
    }
    assert_eq!(mistakes.len(), 11, "{mistakes:#?}");
}

#[test]
fn what_is_missing_is_named_with_its_flag_and_its_variable() {
    let read = NodeConfig::read(words(""), environment(&[("XDS_ADDRESS", "")]));
    let Err(mistakes) = read else {
        panic!("it starts with nothing")
    };
    let mistakes = lines(&mistakes);
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    for (line, part) in mistakes.iter().zip([
        "--node or NODE_NAME: ",
        "a mesh source is needed",
        "a source of certificates is needed",
    ]) {
        assert!(line.contains(part), "{line}");
    }
    mistake(gateway("", &[]), "--identity or ISTHMUS_IDENTITY");
}

#[test]
fn an_address_that_cannot_be_read_is_one_mistake() {
    let read = NodeConfig::read(words("--node n --xds-address https://"), environment(&[]));
    let Err(mistakes) = read else {
        panic!("it starts with nothing")
    };
    let mistakes = lines(&mistakes);
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].contains("--xds-address"), "{mistakes:?}");
}

#[test]
fn a_flag_of_the_other_command_is_no_unknown_one_and_a_near_miss_is_recognised() {
    assert!(mistake(run("--identity a/b", &[]), "--identity").contains("a flag of isthmus gateway"));
    let near = mistake(run("--drain-dead-line 5s", &[]), "--drain-dead-line");
    assert!(near.ends_with("did you mean --drain-deadline?"), "{near}");
    // A variable of somebody else may be called anything.
    let config = run(
        "",
        &[("KEEPALIVE_INTERVALL", "x"), ("ISTHMUS_SERVICE_HOST", "10.0.0.1")],
    )
    .unwrap();
    let note = Note::Unknown {
        variable: "KEEPALIVE_INTERVALL".to_owned(),
        meant: "KEEPALIVE_INTERVAL",
    };
    assert_eq!(config.common.notes, [note]);
}

#[test]
fn contradictions_are_found() {
    let why = mistake(run("--stream-window 16777216", &[]), "--tunnel-window");
    assert!(why.contains("must exceed --stream-window (16777216)"), "{why}");
    mistake(run("--readiness-port 15020", &[]), "--readiness-port");
    assert!(run("--readiness-port off --stats-port 0 --admin-port=off", &[]).is_ok());
    for wrong in ["a/b", "..", ".x"] {
        mistake(run(&format!("--node {wrong}"), &[]), "--node");
    }
    mistake(gateway("--identity alone", &[]), "--identity");
    mistake(gateway("--identity a/b/c", &[]), "--identity");
}

#[test]
fn switches_need_no_value_and_take_one_after_an_equals_sign() {
    assert!(run("--ebpf-log --node a", &[]).unwrap().ebpf_log);
    assert!(!run("--leave-non-mesh=false", &[]).unwrap().leave_non_mesh);
    mistake(run("--leave-non-mesh=maybe", &[]), "--leave-non-mesh");
}

#[test]
fn without_ipv6_the_gateway_listens_on_ipv4() {
    let listen = |flags: &str| {
        gateway(&format!("--identity a/b {flags}"), &[])
            .unwrap()
            .listen
            .to_string()
    };
    assert_eq!(listen(""), "[::]:15008");
    assert_eq!(listen("--ipv6=false"), "0.0.0.0:15008");
    assert_eq!(listen("--ipv6=false --listen 127.0.0.1:1"), "127.0.0.1:1");
}

#[test]
fn printing_and_help_serve_nobody() {
    let say = |flags: &str| match NodeConfig::read(words(flags), environment(ENOUGH)) {
        Ok(Order::Say(text)) => text,
        other => panic!("{other:?}"),
    };
    let json: serde_json::Value = serde_json::from_str(&say("--print-config -o json --pool-idle 1m")).unwrap();
    assert_eq!(
        json["settings"]["pool-idle"],
        serde_json::json!({"value": "60s", "from": "flag"})
    );
    assert_eq!(json["settings"]["node"]["from"], "NODE_NAME");
    assert_eq!(
        json["settings"]["network"],
        serde_json::json!({"value": "", "from": "default"})
    );
    let yaml: serde_json::Value = serde_saphyr::from_str(&say("--print-config --pool-idle 1m")).unwrap();
    assert_eq!(yaml, json);
    let help = say("--help --no-such");
    for setting in settings_of(Verb::Run) {
        assert!(help.contains(&format!("--{} ", setting.flag)) && help.contains(setting.variable));
    }
    assert!(!help.contains("--identity"));
    mistake(run("--print-config --output xml", &[]), "--output");
}

#[test]
fn what_is_not_utf8_is_a_mistake_where_it_is_ours() {
    use std::os::unix::ffi::OsStringExt as _;
    let bad = || OsString::from_vec(vec![b'-', b'-', 0xff]);
    let mut variables = environment(ENOUGH);
    variables.push(("STRANGER".into(), bad()));
    assert!(NodeConfig::read(words(""), variables.clone()).is_ok());
    variables.push(("NETWORK".into(), bad()));
    let Err(mistakes) = NodeConfig::read([bad()], variables) else {
        panic!("it is understood")
    };
    assert_eq!(mistakes.iter().count(), 2, "{mistakes}");
}

#[test]
fn a_long_or_many_lined_value_is_told_in_one_short_line() {
    let value = "-----BEGIN\n".repeat(1000);
    let line = mistake(run("", &[("NODE_NAME", "x"), ("SECRET_TTL", &value)]), "SECRET_TTL");
    assert!(line.len() < 400, "{line}");
}

/// docs/configuration.md has the tables, line by line and nothing else.
#[test]
fn the_document_has_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let document = fs::read_to_string(&path).unwrap();
    let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    let (settings, variables) = tables();
    let wanted: Vec<String> = [settings, variables].concat();
    assert!(rows == wanted, "{} should have:\n{}", path.display(), wanted.join("\n"));
}
