//! The process, as far as it is one: a thread with a runtime, which dies with everything it serves.

use std::{
    convert::Infallible,
    net::TcpListener,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_istio::{
    ca::istio_certificate_service_server::IstioCertificateServiceServer,
    discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use rustls::ServerConfig;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    runtime::Builder,
    sync::{broadcast, oneshot},
};
use tokio_rustls::TlsAcceptor;
use tonic::{body::Body, service::Routes};
use tower_service::Service as _;

use super::{
    ca::Ca,
    discovery::Discovery,
    script::{Answer, Wire},
    seen::Event,
    shared::{Blow, Shared},
    wire::Line,
};
use crate::{
    failure::{Because as _, Result},
    lab::lock,
};

const NO_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";

/// A running server; dropped, it is gone with all its connections.
pub(super) struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Answered = std::result::Result<http::Response<Body>, Infallible>;

/// What each connection needs.
#[derive(Clone)]
struct House {
    shared: Arc<Shared>,
    tls: Arc<Mutex<Arc<ServerConfig>>>,
    routes: Routes,
}

impl Running {
    /// Serves whoever comes to `listener`, with the TLS configuration that there is at the moment.
    pub(super) fn start(
        listener: TcpListener,
        shared: Arc<Shared>,
        tls: Arc<Mutex<Arc<ServerConfig>>>,
    ) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .because("starting a runtime")?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("scripted-istiod".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, shared, tls) => {}
                        // Also when whoever could stop it is gone.
                        _stop = stopped => {}
                    }
                });
            })
            .because("starting a thread")?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: Arc<Mutex<Arc<ServerConfig>>>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    let discovery = AggregatedDiscoveryServiceServer::new(Discovery(Arc::clone(&shared)));
    // As istiod's own limit, which a resume with very many names would pass.
    let routes = Routes::new(discovery.max_decoding_message_size(4 << 20))
        .add_service(IstioCertificateServiceServer::new(Ca(Arc::clone(&shared))));
    let house = House { shared, tls, routes };
    while let Ok((stream, _)) = listener.accept().await {
        house.shared.note(Event::Connected);
        let blows = house.shared.blows.subscribe();
        tokio::spawn(connection(house.clone(), stream, blows));
    }
}

async fn connection(house: House, mut stream: TcpStream, mut blows: broadcast::Receiver<Blow>) {
    let wire = house.shared.script(|script| script.wire.clone());
    let pace = match wire {
        Wire::Dribbling { bytes, pause } => Some((bytes, pause)),
        _ => None,
    };
    // Whatever fails here is the other side's to notice.
    let talk = async {
        match wire {
            Wire::Silent => return wait_for_drop(&mut blows).await,
            Wire::NoTls => return drop(stream.write_all(NO_TLS).await),
            Wire::Served | Wire::NoHttp2 | Wire::Dribbling { .. } => {}
        }
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let config = Arc::clone(&lock(&house.tls));
        let Ok(mut secured) = TlsAcceptor::from(config).accept(stream).await else {
            return;
        };
        if wire == Wire::NoHttp2 {
            return drop(secured.write_all(&NO_TLS.repeat(20)).await);
        }
        let line = Line::new(secured, pace, Arc::clone(&house.shared.left));
        let answering = house.clone();
        let service = service_fn(move |request| answer(answering.clone(), request));
        let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(line), service);
        let mut serving = std::pin::pin!(serving);
        loop {
            tokio::select! {
                _ended = &mut serving => return,
                blow = blows.recv() => match blow {
                    Ok(Blow::GoAway) => serving.as_mut().graceful_shutdown(),
                    Ok(Blow::Drop) | Err(_) => return,
                },
            }
        }
    };
    talk.await;
}

async fn wait_for_drop(blows: &mut broadcast::Receiver<Blow>) {
    while blows.recv().await.is_ok_and(|blow| blow != Blow::Drop) {}
}

async fn answer(mut house: House, request: http::Request<Incoming>) -> Answered {
    let script = house.shared.script(|script| {
        if request.uri().path().ends_with("/CreateCertificate") {
            script.ca.clone()
        } else {
            script.discovery.clone()
        }
    });
    if let Answer::Bytes(bytes) = script {
        let mut response = http::Response::new(Body::new(Full::new(Bytes::from(bytes))));
        let kind = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        return Ok(response);
    }
    house.routes.call(request).await
}
