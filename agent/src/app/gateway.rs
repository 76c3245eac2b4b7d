//! The east-west gateway's process.

use std::{process::ExitCode, sync::Arc};

use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    StartError,
    admin_ports::{AdminPorts, failures},
    dump, failed,
    mesh_source::MeshSource,
    open_certificates, raise_descriptor_limit, start_log, start_telemetry,
};
use crate::{
    admin::Part,
    config::GatewayConfig,
    config_dump,
    drain::drain,
    identity::istiod_ca::Asks,
    parent::CUT_SHORT,
    proxy::gateway::{Gateway, GatewayParts},
    start_code,
    status::{Desk, Facts, Holder},
    telemetry::{NodeState, log::LogHandle},
};

/// Serves tunnels of other networks until SIGTERM or SIGINT; another one of them ends it at once, with exit code 4.
///
/// # Errors
/// When a step of the start fails.
pub fn gateway(config: GatewayConfig) -> Result<ExitCode, StartError> {
    let log = start_log(&config.common.log);
    let served = run(config, &log);
    if let Err(error) = &served {
        tracing::error!(error = super::chain(error), "cannot go on");
    }
    log.finish();
    served
}

fn run(config: GatewayConfig, log: &LogHandle) -> Result<ExitCode, StartError> {
    config.common.say_notes();
    raise_descriptor_limit();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting the runtime"))?;
    let served = runtime.block_on(serve(config, log));
    // A blocking call under way must not hold up the end.
    runtime.shutdown_background();
    served
}

async fn serve(config: GatewayConfig, log: &LogHandle) -> Result<ExitCode, StartError> {
    let told = config_dump::of_gateway(&config);
    let GatewayConfig {
        common,
        identity,
        listen,
    } = config;
    let telemetry = start_telemetry(log, &common, "")?;
    let pending = [Part::Mesh, Part::Proxy];
    let admin = AdminPorts::open(common.ports, log, &telemetry, &pending).await?;
    let source = MeshSource::follow(&common, "", &telemetry).await?;
    admin.done_with_mesh(&source);
    let mesh = source.mesh.clone();
    let failures = failures(&telemetry);
    let certificates = open_certificates(&common, Asks::ForItself, None)?;
    let _own = certificates.want(&identity);
    admin.dump(dump::Held::new(&common, told, &mesh, &certificates), None);
    let parts = GatewayParts {
        identity,
        network: common.network.as_str().into(),
        mesh: mesh.clone(),
        certificates: certificates.clone(),
        tuning: common.tuning,
        telemetry,
    };
    let listener = TcpListener::bind(listen)
        .await
        .map_err(failed(format!("listening on {listen}")))?;
    let mut ends = Ends::new()?;
    let (trigger, signal) = drain();
    let gateway = Gateway::new(parts);
    let facts = Facts {
        node: String::new(),
        network: common.network.clone(),
        restarts: 0,
        ended: None,
        mesh,
        mesh_state: source.state.clone(),
        istiod: source.told.clone(),
        kubernetes: None,
        cni: None,
        certificates,
        readiness: admin.readiness.clone(),
        failures,
    };
    admin.told_by(&Desk::new(facts, Holder::Gateway(Arc::clone(&gateway))));
    let counted = Arc::clone(&gateway);
    admin.count(move || NodeState {
        tunnels: counted.tunnels(),
        connections: counted.open_connections(),
        ..NodeState::default()
    });
    let mut serving = tokio::spawn(gateway.serve(listener, signal));
    admin.done(Part::Proxy);
    tracing::info!(%listen, network = common.network, "ready");
    start_code::let_go_soon();
    ends.next().await;
    admin.readiness.pend(Part::Drain);
    tracing::info!(deadline = ?common.drain_deadline, "draining");
    trigger.start(common.drain_deadline);
    tokio::select! {
        served = &mut serving => {
            served.map_err(failed("draining"))?;
            source.end().await;
            tracing::info!("drained");
            Ok(ExitCode::SUCCESS)
        }
        () = ends.next() => {
            tracing::warn!("a second signal ends the drain; connections are cut");
            Ok(ExitCode::from(CUT_SHORT))
        }
    }
}

/// What tells the process to end.
struct Ends {
    terminated: Signal,
    interrupted: Signal,
}

impl Ends {
    fn new() -> Result<Self, StartError> {
        Ok(Self {
            terminated: signal(SignalKind::terminate()).map_err(failed("listening for SIGTERM"))?,
            interrupted: signal(SignalKind::interrupt()).map_err(failed("listening for SIGINT"))?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminated.recv() => {}
            _ = self.interrupted.recv() => {}
        }
    }
}
