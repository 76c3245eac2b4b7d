use super::*;
use crate::{
    identity::SpiffeId,
    mesh::Draft,
    telemetry::{Exposition, Facts, Format, ServiceFacts, tests::workload},
};

fn labels(name: &str) -> Labels {
    let workload = workload(Draft {
        workload_name: name.into(),
        canonical_name: "canonical".into(),
        ..Draft::new("uid", "demo", name)
    });
    Labels {
        source: Some(Facts::of(&workload).labels),
        source_principal: SpiffeId::new("cluster.local", "demo", name).ok(),
        mutual_tls: true,
        ..Labels::unknown(Reporter::Source)
    }
}

fn text(traffic: &Arc<Traffic>) -> String {
    let exposition = Exposition::default();
    let traffic = Arc::clone(traffic);
    exposition.add(move |families| traffic.describe(families));
    exposition.render(Format::Prometheus)
}

/// The value of the one sample of a metric whose labels contain `part`.
fn value(text: &str, metric: &str, part: &str) -> Option<u64> {
    let mut found = text
        .lines()
        .filter(|line| line.starts_with(&format!("{metric}{{")) && line.contains(part));
    let value = found.next()?.rsplit(' ').next()?.parse().ok();
    assert!(found.next().is_none(), "{metric} {part} is there twice");
    value
}

#[test]
fn a_connection_is_counted_while_it_is_open_and_when_it_is_closed() {
    let traffic = Arc::new(Traffic::default());
    let open = traffic.open(&labels("curl"), 2);
    open.meter().add(10, 20);
    let now = text(&traffic);
    let count = |text: &str, name| value(text, name, "source_workload=\"curl\"");
    assert_eq!(count(&now, "istio_tcp_connections_opened_total"), Some(1));
    assert_eq!(count(&now, "istio_tcp_connections_closed_total"), Some(0));
    assert_eq!(count(&now, "istio_tcp_received_bytes_total"), Some(10));
    assert_eq!(count(&now, "istio_tcp_sent_bytes_total"), Some(20));
    assert_eq!(value(&now, "istio_tcp_sockets_open", "source"), Some(2));
    assert_eq!(count(&now, "istio_tcp_connections_failed_total"), None);
    open.fail(ResponseFlag::Deny);
    drop(open);
    let now = text(&traffic);
    assert_eq!(count(&now, "istio_tcp_connections_closed_total"), Some(1));
    assert_eq!(value(&now, "istio_tcp_sockets_open", "source"), Some(0));
    let failed = value(&now, "istio_tcp_connections_failed_total", "response_flags=\"DENY\"");
    assert_eq!(failed, Some(1));
}

#[test]
fn received_is_what_the_client_sent_for_both_reporters() {
    let traffic = Arc::new(Traffic::default());
    traffic.open(&Labels::unknown(Reporter::Source), 1).meter().add(1, 2);
    // At the server's agent the application next to us is the server.
    traffic
        .open(&Labels::unknown(Reporter::Destination), 1)
        .meter()
        .add(2, 1);
    let now = text(&traffic);
    for reporter in ["reporter=\"source\"", "reporter=\"destination\""] {
        assert_eq!(value(&now, "istio_tcp_received_bytes_total", reporter), Some(1));
        assert_eq!(value(&now, "istio_tcp_sent_bytes_total", reporter), Some(2));
    }
}

#[test]
fn labels_stand_in_their_order_and_what_is_missing_is_unknown() {
    let traffic = Arc::new(Traffic::default());
    let mut known = labels("curl");
    known.service = Some(ServiceFacts::named("echo.demo".into()));
    drop(traffic.open(&known, 1));
    drop(traffic.open(&Labels::unknown(Reporter::Destination), 1));
    let now = text(&traffic);
    let opened = |part: &str| {
        let lines: Vec<&str> = now
            .lines()
            .filter(|line| line.starts_with("istio_tcp_connections_opened_total{") && line.contains(part))
            .collect();
        lines.concat()
    };
    assert_eq!(
        opened("reporter=\"source\""),
        "istio_tcp_connections_opened_total{reporter=\"source\",source_workload=\"curl\",\
         source_canonical_service=\"canonical\",source_canonical_revision=\"unknown\",source_workload_namespace=\"demo\",\
         source_principal=\"spiffe://cluster.local/ns/demo/sa/curl\",source_app=\"canonical\",source_version=\"unknown\",\
         source_cluster=\"Kubernetes\",destination_service=\"echo.demo\",destination_service_namespace=\"unknown\",\
         destination_service_name=\"unknown\",destination_workload=\"unknown\",destination_canonical_service=\"unknown\",\
         destination_canonical_revision=\"unknown\",destination_workload_namespace=\"unknown\",\
         destination_principal=\"unknown\",destination_app=\"unknown\",destination_version=\"unknown\",\
         destination_cluster=\"unknown\",request_protocol=\"tcp\",response_flags=\"-\",\
         connection_security_policy=\"mutual_tls\",source_region=\"unknown\",source_zone=\"unknown\",\
         destination_region=\"unknown\",destination_zone=\"unknown\"} 1"
    );
    let unknown = opened("reporter=\"destination\"");
    assert!(unknown.contains("connection_security_policy=\"unknown\"}"), "{unknown}");
}

#[test]
fn more_label_sets_than_there_is_room_for_are_counted_as_one() {
    let traffic = Arc::new(Traffic::with_rows(3));
    let open: Vec<Counted> = (0..10)
        .map(|n| {
            let counted = traffic.open(&labels(&format!("w{n}")), 1);
            counted.meter().add(1, 0);
            counted
        })
        .collect();
    assert_eq!(traffic.folded(), 7);
    // One that has its row keeps it.
    drop(traffic.open(&labels("w0"), 1));
    assert_eq!(traffic.folded(), 7);
    let now = text(&traffic);
    let opened = |part: &str| value(&now, "istio_tcp_connections_opened_total", part);
    assert_eq!(opened("source_workload=\"unknown\""), Some(7));
    assert_eq!(opened("source_workload=\"w0\""), Some(2));
    assert_eq!(opened("source_workload=\"w9\""), None);
    let bytes = value(&now, "istio_tcp_received_bytes_total", "source_workload=\"unknown\"");
    assert_eq!(bytes, Some(7));
    assert!(now.contains("\nisthmus_metric_label_sets 4\n"), "{now}");
    drop(open);
}

#[test]
fn rows_are_forgotten_when_nothing_is_open_and_nothing_happened_for_half_an_hour() {
    let traffic = Traffic::default();
    let open = traffic.open(&labels("open"), 1);
    drop(traffic.open(&labels("closed"), 1));
    traffic.refused(&labels("refused"), ResponseFlag::None);
    let names = |after: Duration| {
        let rows = traffic.rows(after);
        let mut names: Vec<String> = rows
            .iter()
            .filter_map(|(labels, _)| Some(labels.source.as_ref()?.workload.to_string()))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(KEPT - Duration::from_secs(60)), ["closed", "open", "refused"]);
    assert_eq!(names(KEPT + Duration::from_secs(60)), ["open"]);
    drop(open);
}

#[test]
fn counting_from_many_threads_loses_nothing() {
    let traffic = Arc::new(Traffic::with_rows(2));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let traffic = Arc::clone(&traffic);
            std::thread::spawn(move || {
                for n in 0..1000 {
                    let counted = traffic.open(&labels(&format!("w{}", n % 5)), 1);
                    counted.meter().add(1, 1);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let now = text(&traffic);
    let sum = |metric: &str| -> u64 {
        let lines = now.lines().filter(|line| line.starts_with(metric));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    for metric in ["opened", "closed"] {
        assert_eq!(sum(&format!("istio_tcp_connections_{metric}_total{{")), 4000);
    }
    assert_eq!(sum("istio_tcp_received_bytes_total{"), 4000);
    assert_eq!(value(&now, "istio_tcp_sockets_open", "source"), Some(0));
}
