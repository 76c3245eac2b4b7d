use std::{collections::BTreeMap, fs};

use super::{metric::Metric, traffic::ResponseFlag, *};
use crate::mesh::{Builder, Draft, Workload};

/// A workload as the mesh holds it.
pub(super) fn workload(draft: Draft) -> Arc<Workload> {
    let uid = Arc::clone(&draft.uid);
    let mut builder = Builder::new();
    builder.add_workload(draft);
    builder.build().workload(&uid).unwrap()
}

/// Telemetry that has seen something of everything.
fn seen() -> Arc<Telemetry> {
    let telemetry = Telemetry::new("1.2.3");
    let workload = workload(Draft::new("Kubernetes//Pod/demo/curl", "demo", "curl"));
    let labels = Labels {
        source: Some(Facts::of(&workload).labels),
        mutual_tls: true,
        ..Labels::unknown(Reporter::Source)
    };
    let open = telemetry.traffic.open(&labels, 1);
    open.meter().add(5, 7);
    open.fail(ResponseFlag::Connect);
    telemetry.traffic.ended(Reporter::Source, "connect-refused");
    let verdicts = || BTreeMap::from([("syn_to_hbone".to_owned(), 1)]);
    let pod = PodCounts {
        served: true,
        verdicts: verdicts(),
        plaintext: [1; 4],
    };
    telemetry.node.tell(NodeState {
        pods: BTreeMap::from([("uid".to_owned(), pod)]),
        verdicts: verdicts(),
        ..NodeState::default()
    });
    telemetry.exposition.add(|families| {
        // These have their sources elsewhere.
        families.value(&metric::DESCRIPTORS_USED, 0);
        families.value(&metric::DESCRIPTORS_LIMIT, 0);
        families.value(&metric::LOG_DROPPED, 0);
        families.value(&metric::SPANS_EXPORTED, 0);
        families.value(&metric::SPANS_DROPPED, 0);
        families.value(&metric::XDS_TERMINATIONS, 0);
        families.value(&metric::XDS_MESSAGES, 0);
        families.value(&metric::XDS_BYTES, 0);
        families.value(&metric::RECONCILE_EVENTS, 0);
        families.value(&metric::WATCH_FAILURES, 0);
        families.value(&metric::ENROLMENT_ACTIONS, 0);
    });
    telemetry
}

/// Names and types of a text in the Prometheus format, from the lines `# TYPE`.
fn types(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect()
}

#[test]
fn every_metric_there_is_is_rendered_under_its_name_and_type() {
    let text = seen().exposition.render(Format::Prometheus);
    let expected: BTreeMap<&str, &str> = metric::ALL
        .iter()
        .map(|metric| (metric.name, metric.kind.text()))
        .collect();
    assert_eq!(types(&text), expected);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(expected.contains_key(name), "a sample without a type: {line}");
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    for line in ["# EOF", "# UNIT"] {
        assert!(!text.contains(line), "{line} is none of this format");
    }
}

#[test]
fn the_page_has_exactly_these_metrics() {
    let row = |Metric {
                   name,
                   kind,
                   labels,
                   help,
               }: &Metric| {
        let labels = if labels.is_empty() { "–" } else { labels };
        format!("| `{name}` | {} | {labels} | {help} |\n", kind.text())
    };
    let table: String = metric::ALL.iter().map(row).collect();
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    let rows: String = page
        .lines()
        .skip_while(|line| !line.starts_with("| metric |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert!(rows == table, "docs/metrics.md must hold this table:\n{table}");
}

#[test]
fn open_metrics_names_families_without_total_and_ends_with_a_mark() {
    let text = seen().exposition.render(Format::OpenMetrics);
    assert!(text.ends_with("# EOF\n"));
    assert!(text.contains("# TYPE istio_tcp_sent_bytes counter\n"), "{text}");
    assert!(text.contains("\nistio_tcp_sent_bytes_total{"), "{text}");
    assert!(text.contains("# TYPE istio_build gauge\n"));
    assert!(
        text.contains("istio_build{component=\"ztunnel\",tag=\"1.2.3\"} 1\n"),
        "{text}"
    );
}

#[test]
fn the_format_is_chosen_by_what_the_reader_accepts() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(Format::of_accept(Some(prometheus)), Format::OpenMetrics);
    for accept in [None, Some("*/*"), Some("text/plain")] {
        assert_eq!(Format::of_accept(accept), Format::Prometheus);
    }
}

/// The words of a PromQL text that could be metrics: identifiers outside of braces and quotes, not followed by `(`.
fn metrics_in(query: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut word = String::new();
    for char in query.chars().chain([' ']) {
        match char {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 && (char.is_ascii_alphanumeric() || char == '_' || char == ':') {
            word.push(char);
            continue;
        }
        let prefixes = ["istio_", "isthmus_", "process_", "workload_manager_"];
        if prefixes.iter().any(|prefix| word.starts_with(prefix)) {
            names.push(std::mem::take(&mut word));
        }
        word.clear();
    }
    names
}

#[test]
fn the_board_asks_only_for_metrics_and_labels_there_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana/isthmus.json");
    let board: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let text = seen().exposition.render(Format::Prometheus);
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut asked = 0;
    let panels = board["panels"].as_array().unwrap();
    let queries = panels.iter().filter(|panel| panel["type"] != "row").flat_map(|panel| {
        let targets = panel["targets"].as_array().expect("a panel without a query");
        targets.iter().map(|target| target["expr"].as_str().unwrap())
    });
    for query in queries {
        let names = metrics_in(query);
        assert!(!names.is_empty(), "no metric in {query}");
        for name in names {
            let of_metric = |line: &&&str| {
                line.strip_prefix(&*name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            };
            assert!(
                samples.iter().any(|line| of_metric(&line)),
                "{name} of {query} does not exist"
            );
            asked += 1;
        }
        for by in query.split("by (").skip(1) {
            for label in by.split(')').next().unwrap().split(',').map(str::trim) {
                // What Prometheus adds to every target.
                let known = ["instance", "pod", "le"].contains(&label) || text.contains(&format!("{label}=\""));
                assert!(known, "label {label} of {query} does not exist");
            }
        }
    }
    assert!(asked > 10, "only {asked} metrics are asked for");
}
