//! Answers without gRPC's binary details.
//!
//! tonic decodes `grpc-status-details-bin` and panics when it is no base64, and nobody here reads it.

use std::task::{Context, Poll};

use futures_util::{TryFutureExt as _, future::MapOk};
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, combinators::MapFrame};
use tower_service::Service;

const DETAILS: &str = "grpc-status-details-bin";

/// A way to istiod whose answers have no details.
#[derive(Clone, Debug)]
pub struct WithoutDetails<S>(pub S);

type Stripped<B> = MapFrame<B, fn(Frame<<B as Body>::Data>) -> Frame<<B as Body>::Data>>;

/// Takes the details out of headers or trailers.
pub fn strip(headers: &mut HeaderMap) {
    headers.remove(DETAILS);
}

fn answer<B: Body>(mut response: Response<B>) -> Response<Stripped<B>> {
    strip(response.headers_mut());
    response.map(|body| body.map_frame(frame as fn(_) -> _))
}

fn frame<D>(mut frame: Frame<D>) -> Frame<D> {
    if let Some(trailers) = frame.trailers_mut() {
        strip(trailers);
    }
    frame
}

impl<S, Q, B> Service<Q> for WithoutDetails<S>
where
    S: Service<Q, Response = Response<B>>,
    B: Body,
{
    type Response = Response<Stripped<B>>;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response<B>) -> Response<Stripped<B>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        self.0.call(request).map_ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future};

    use bytes::Bytes;
    use http_body_util::{Empty, combinators::BoxBody};
    use isthmus_istio::ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient};
    use tonic::Code;

    use super::*;

    /// Ends every call with a status whose details are no base64, in headers or in trailers.
    #[derive(Clone)]
    struct Nonsense {
        in_trailers: bool,
    }

    impl<Q> Service<Q> for Nonsense {
        type Response = Response<BoxBody<Bytes, Infallible>>;
        type Error = Infallible;
        type Future = future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Q) -> Self::Future {
            let mut status = HeaderMap::new();
            for (name, value) in [
                ("content-type", "application/grpc"),
                ("grpc-status", "7"),
                ("grpc-message", "no"),
                (DETAILS, "?!"),
            ] {
                status.insert(name, value.parse().unwrap());
            }
            let mut response = Response::new(Empty::new().boxed());
            if self.in_trailers {
                response
                    .headers_mut()
                    .insert("content-type", "application/grpc".parse().unwrap());
                let trailers = Empty::new().with_trailers(future::ready(Some(Ok(status))));
                *response.body_mut() = trailers.boxed();
            } else {
                *response.headers_mut() = status;
            }
            future::ready(Ok(response))
        }
    }

    #[tokio::test]
    async fn details_that_are_nonsense_leave_the_status() {
        for in_trailers in [false, true] {
            let mut client = IstioCertificateServiceClient::new(WithoutDetails(Nonsense { in_trailers }));
            let answer = client.create_certificate(IstioCertificateRequest::default()).await;
            let status = answer.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no"));
        }
    }
}
