use std::net::IpAddr;

use isthmus_istio::discovery::DeltaDiscoveryRequest;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    mesh::{Unanswered, wants},
    xds::scripted::{Call, nonce},
};

impl Running {
    /// A connection that needs to know whose address 10.0.0.LAST is.
    fn learn(&self, last: u8) -> JoinHandle<Result<(), Unanswered>> {
        let (mesh, ip) = (self.mesh.clone(), IpAddr::from([10, 0, 0, last]));
        tokio::spawn(async move {
            let demand = mesh.demand().unwrap();
            demand.learn(&mesh, |mesh| vec![wants::of_workload(mesh, "", ip)]).await
        })
    }

    /// A client that was told of nothing but that, on the call that is given back.
    async fn asking(istiod: &mut Istiod) -> (Self, Call) {
        let mut running = Self::on_demand(&istiod.address, &istiod.roots);
        let mut call = istiod.call().await;
        let [addresses, policies] = call.first_requests().await;
        assert_eq!(addresses.resource_names_subscribe, ["*"]);
        assert_eq!(addresses.resource_names_unsubscribe, ["*"]);
        assert!(policies.resource_names_subscribe.is_empty());
        call.tell(Vec::new(), vec![policy("p")]).await;
        running.until(|told| told.state == State::Synced).await;
        (running, call)
    }
}

fn at(last: u8) -> String {
    format!("/10.0.0.{last}")
}

fn found(name: &str, last: u8) -> DeltaDiscoveryResponse {
    let mut pod = pod(name, [10, 0, 0, last], "1");
    pod.aliases = vec![at(last)];
    response(Kind::Address, vec![pod])
}

fn absent(last: u8) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        removed_resources: vec![at(last)],
        ..response(Kind::Address, Vec::new())
    }
}

/// The next request that is no acknowledgement.
async fn asked(call: &mut Call) -> DeltaDiscoveryRequest {
    loop {
        let request = call.request().await;
        if request.response_nonce.is_empty() {
            return request;
        }
    }
}

#[tokio::test]
async fn a_name_is_asked_for_on_the_open_stream_once_and_all_who_wait_go_on() {
    let mut istiod = Istiod::start().await;
    let (mut running, mut call) = Running::asking(&mut istiod).await;
    let waiting = [running.learn(1), running.learn(1)];
    running
        .until(|told| told.on_demand.is_some_and(|on_demand| on_demand.waiting == 2))
        .await;
    assert_eq!(call.request().await.resource_names_subscribe, [at(1)]);
    call.answer(&found("a", 1));
    let acknowledged = call.request().await;
    assert_eq!(acknowledged.response_nonce, nonce(Kind::Address));
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }
    assert_eq!(running.sizes(), [1, 0, 1]);
    assert_eq!(running.learn(1).await.unwrap(), Ok(()), "it is known");
}

#[tokio::test]
async fn that_there_is_nothing_is_an_answer_and_is_remembered() {
    let mut istiod = Istiod::start().await;
    let (mut running, mut call) = Running::asking(&mut istiod).await;
    let waiting = running.learn(8);
    assert_eq!(asked(&mut call).await.resource_names_subscribe, [at(8)]);
    call.answer(&absent(8));
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(running.learn(8).await.unwrap(), Ok(()));
    // Nothing was asked in between.
    let waiting = running.learn(9);
    assert_eq!(asked(&mut call).await.resource_names_subscribe, [at(9)]);
    call.answer(&found("a", 9));
    assert_eq!(waiting.await.unwrap(), Ok(()));
    let told = running
        .until(|told| told.on_demand.is_some_and(|on_demand| on_demand.waiting == 0))
        .await;
    assert_eq!(
        told.on_demand.map(|on_demand| (on_demand.names, on_demand.absent)),
        Some((2, 1))
    );

    // The next stream resumes what was found, and asks again for what was not.
    call.end(0, "");
    let mut call = istiod.call().await;
    let [addresses, _] = call.first_requests().await;
    assert_eq!(addresses.resource_names_subscribe, ["*".to_owned(), at(8)]);
    assert_eq!(addresses.resource_names_unsubscribe, ["*"]);
    assert_eq!(addresses.initial_resource_versions, versions(&["a"]));
    // Its answer has only what is new, and drops nothing of what was listed.
    call.tell(found("b", 8).resources, vec![policy("p")]).await;
    running
        .until(|told| told.state == State::Synced && told.reconnects == 1)
        .await;
    assert_eq!(running.sizes(), [2, 0, 1]);
}

#[tokio::test]
async fn a_question_waits_for_the_stream_that_is_not_there_yet() {
    let mut istiod = Istiod::start().await;
    let (mut running, call) = Running::asking(&mut istiod).await;
    call.end(14, "out of order");
    running.until(|told| told.last_error.is_some()).await;
    let waiting = running.learn(1);
    let mut call = istiod.call().await;
    let first = call.first_requests().await;
    let before = first[0].resource_names_subscribe.contains(&at(1));
    call.answer(&response(Kind::Address, found("a", 1).resources));
    call.answer(&response(Kind::Authorization, Vec::new()));
    if !before {
        assert_eq!(asked(&mut call).await.resource_names_subscribe, [at(1)]);
        call.answer(&found("a", 1));
    }
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert!(running.mesh.current().workload(&uid("a")).is_some());
}

#[tokio::test(start_paused = true)]
async fn without_istiod_there_is_no_answer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let running = Running::on_demand(&address, &key.cert.pem());
    assert_eq!(running.learn(1).await.unwrap(), Err(Unanswered::Away));
}
