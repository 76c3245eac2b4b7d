//! Every metric there is. docs/metrics.md is held against this list and against what is rendered.

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, for counters with `_total`.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// Its labels as docs/metrics.md names them.
    pub labels: &'static str,
    /// What it says.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    /// Its word in `# TYPE`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal $labels:literal $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: $labels,
            help: $help,
        };)*

        /// All of them.
        pub const ALL: &[Metric] = &[$($constant,)*];
    };
}

metrics! {
    TCP_OPENED Counter "istio_tcp_connections_opened_total" "common" "Connections whose way onwards was tried.";
    TCP_CLOSED Counter "istio_tcp_connections_closed_total" "common" "Connections of the counter above that have ended.";
    TCP_RECEIVED Counter "istio_tcp_received_bytes_total" "common" "Bytes from the client to the server.";
    TCP_SENT Counter "istio_tcp_sent_bytes_total" "common" "Bytes from the server to the client.";
    TCP_FAILED Counter "istio_tcp_connections_failed_total" "common" "Connections that did not come about or broke, by response_flags.";
    TCP_SOCKETS Gauge "istio_tcp_sockets_open" "reporter" "Open sockets towards applications.";
    BUILD Gauge "istio_build" "component, tag" "Always 1; the labels tell the version.";
    PROXIES_ACTIVE Gauge "workload_manager_active_proxy_count" "" "Pods that are enrolled and served.";
    PROXIES_PENDING Gauge "workload_manager_pending_proxy_count" "" "Pods that are known and not served: they are being brought in, draining, or their namespace lost its path.";
    PROXIES_STARTED Counter "workload_manager_proxies_started_total" "" "Proxies of pods that were started.";
    PROXIES_STOPPED Counter "workload_manager_proxies_stopped_total" "" "Proxies of pods that have ended.";
    XDS_TERMINATIONS Counter "istio_xds_connection_terminations_total" "reason" "Streams with istiod that ended or could not be opened.";
    XDS_MESSAGES Counter "istio_xds_message_total" "url" "Responses of istiod, by the type of what they tell of.";
    XDS_BYTES Counter "istio_xds_message_bytes_total" "url" "Bytes of these responses.";
    RECONCILE_EVENTS Counter "nodeagent_reconcile_events_total" "type" "Pods and namespaces that the API server told of, by what became of them.";
    WATCH_FAILURES Counter "isthmus_kubernetes_watch_failures_total" "resource" "Times the API server could not be followed any further.";
    ENROLMENT_ACTIONS Counter "isthmus_kubernetes_actions_total" "action, result" "What was done to pods, and to the node's startup taint, because of what the API server told.";
    CONNECTIONS_ENDED Counter "isthmus_connections_ended_total" "reporter, reason" "Connections by the reason of their end (docs/access-log.md).";
    VERDICTS Counter "isthmus_redirection_verdicts_total" "verdict" "What the eBPF programs decided, by name.";
    PLAINTEXT_OPENED Counter "isthmus_plaintext_connections_opened_total" "" "Plaintext connections that pods accepted without the mesh.";
    PLAINTEXT_CLOSED Counter "isthmus_plaintext_connections_closed_total" "" "Those of them that have ended.";
    PLAINTEXT_RECEIVED Counter "isthmus_plaintext_received_bytes_total" "" "Bytes from their clients, counted as they end.";
    PLAINTEXT_SENT Counter "isthmus_plaintext_sent_bytes_total" "" "Bytes to their clients, counted as they end.";
    CONNECTIONS Gauge "isthmus_connections_open" "" "Connections that are served now.";
    TUNNELS Gauge "isthmus_tunnels_open" "" "Tunnels that are open now, dialled and accepted.";
    RESTARTS Counter "isthmus_worker_restarts_total" "" "How often the parent process started the worker again.";
    DESCRIPTORS_USED Gauge "isthmus_descriptors_used" "" "Descriptors taken from the budget of connections.";
    DESCRIPTORS_LIMIT Gauge "isthmus_descriptors_limit" "" "The budget: what RLIMIT_NOFILE leaves for connections. Above it connections are reset.";
    LOG_DROPPED Counter "isthmus_log_lines_dropped_total" "" "Log lines that were dropped because standard error did not take them.";
    LABEL_SETS Gauge "isthmus_metric_label_sets" "" "Sets of labels under which traffic is counted.";
    LABEL_SETS_FOLDED Counter "isthmus_metric_connections_folded_total" "" "Connections counted under `unknown`, because there were too many sets of labels.";
    SPANS_EXPORTED Counter "isthmus_spans_exported_total" "" "Spans the collector has taken.";
    SPANS_DROPPED Counter "isthmus_spans_dropped_total" "" "Spans that were dropped: the queue was full, or the collector did not take them.";
    MEMORY_ALLOCATED Gauge "isthmus_memory_allocated_bytes" "" "Bytes the allocator has handed out and not got back.";
    PROCESS_FDS Gauge "process_open_fds" "" "Open descriptors.";
    PROCESS_MAX_FDS Gauge "process_max_fds" "" "RLIMIT_NOFILE.";
    PROCESS_MEMORY Gauge "process_resident_memory_bytes" "" "Resident memory.";
    PROCESS_CPU Counter "process_cpu_seconds_total" "" "CPU time, user and kernel.";
    PROCESS_THREADS Gauge "process_threads" "" "Threads.";
}
