//! The east-west gateway's process.

use std::process::ExitCode;

use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{StartError, failed, follow_mesh, open_certificates, raise_descriptor_limit, start_log};
use crate::{
    config::GatewayConfig,
    drain::drain,
    parent::CUT_SHORT,
    proxy::gateway::{Gateway, GatewayParts},
};

/// Serves tunnels of other networks until SIGTERM or SIGINT; another one of them ends it at once, with exit code 4.
///
/// # Errors
/// When a step of the start fails.
pub fn gateway(config: GatewayConfig) -> Result<ExitCode, StartError> {
    start_log(&config.common.log)?;
    config.common.say_notes();
    raise_descriptor_limit();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("starting the runtime"))?;
    let served = runtime.block_on(serve(config));
    // A blocking call under way must not hold up the end.
    runtime.shutdown_background();
    served
}

async fn serve(config: GatewayConfig) -> Result<ExitCode, StartError> {
    let GatewayConfig {
        common,
        identity,
        listen,
    } = config;
    let (mesh, _state) = follow_mesh(&common).await;
    let parts = GatewayParts {
        identity,
        network: common.network.as_str().into(),
        mesh,
        certificates: open_certificates(&common)?,
        tuning: common.tuning,
    };
    let listener = TcpListener::bind(listen)
        .await
        .map_err(failed(format!("listening on {listen}")))?;
    let mut ends = Ends::new()?;
    let (trigger, signal) = drain();
    let mut serving = tokio::spawn(Gateway::new(parts).serve(listener, signal));
    tracing::info!(%listen, network = common.network, "ready");
    ends.next().await;
    tracing::info!(deadline = ?common.drain_deadline, "draining");
    trigger.start(common.drain_deadline);
    tokio::select! {
        served = &mut serving => {
            served.map_err(failed("draining"))?;
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
