//! Proof at start-up, in a namespace made for it, that a connect really is redirected on this kernel: same programs,
//! same maps, same rules as for a pod.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use isthmus_abi::{LISTENER_HBONE, LISTENER_OUTBOUND, MAX_SLOTS};

use super::{Interior, Listeners, Netns, NodePrograms, PodPrograms, PodRouting, RedirectError, scratch::Scratch};

/// Documentation addresses (RFC 5737, RFC 3849): the scratch pod's own, and where it connects to.
const SELF_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 73);
const SELF_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x73);
const FAR_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 73)), 7373);
const FAR_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x73)), 7373);

/// A connect over `lo` answers in microseconds.
const BOUND: Duration = Duration::from_secs(2);

/// The slot nobody else gets.
pub const SLOT: u32 = MAX_SLOTS - 1;

/// Runs it and leaves nothing behind.
pub async fn run(node: &NodePrograms, programs: &PodPrograms) -> Result<(), RedirectError> {
    let scratch = Scratch::make().map_err(|error| told("making a network namespace", error))?;
    let netns = Netns::open(scratch.path())?;
    let outcome = prove(node, programs, &netns).await;
    node.maps().disarm(netns.cookie())?;
    programs.remove(SLOT)?;
    node.maps().clear(SLOT, &[SELF_V4.into(), SELF_V6.into()])?;
    outcome
}

async fn prove(node: &NodePrograms, programs: &PodPrograms, netns: &Netns) -> Result<(), RedirectError> {
    let routing = PodRouting::open(netns)?;
    let interior = Interior {
        addresses: scratch_addresses(&routing).await?,
        ..Interior::default()
    };
    let listeners = Listeners::open(netns).map_err(|error| told("opening listeners", error))?;
    programs.install(SLOT, netns)?;
    let maps = node.maps();
    maps.set_addresses(SLOT, &[], &interior.addresses)?;
    maps.set_rules(
        SLOT,
        listeners.rules(0).map_err(|error| told("opening listeners", error))?,
    )?;
    maps.set_listener(SLOT, LISTENER_OUTBOUND, &listeners.outbound)?;
    maps.set_listener(SLOT, LISTENER_HBONE, &listeners.hbone)?;
    routing.install(netns, &interior, &[]).await?;

    let destinations = [(SELF_V4.into(), FAR_V4), (SELF_V6.into(), FAR_V6)];
    for (own, far) in destinations
        .into_iter()
        .filter(|(own, _)| interior.addresses.contains(own))
    {
        if connect(netns, far).is_ok() {
            return Err(RedirectError::SelfTest(format!(
                "{far} answered before the scratch pod was armed"
            )));
        }
        maps.arm(netns.cookie(), SLOT)?;
        let connected = connect(netns, far);
        maps.disarm(netns.cookie())?;
        let stream = connected.map_err(|error| told(&format!("connecting to {far} from an armed pod"), error))?;
        expect(&listeners.outbound, own, far, &stream)?;
    }
    Ok(())
}

/// The accepted connection must be that connect, with its destination untouched.
fn expect(listener: &TcpListener, own: IpAddr, far: SocketAddr, client: &TcpStream) -> Result<(), RedirectError> {
    let (accepted, peer) = listener
        .accept()
        .map_err(|error| told("accepting the redirected connect", error))?;
    let local = accepted
        .local_addr()
        .map_err(|error| told("reading the original destination", error))?;
    let seen = (
        IpAddr::to_canonical(&local.ip()),
        local.port(),
        IpAddr::to_canonical(&peer.ip()),
    );
    let believed = client
        .peer_addr()
        .map_err(|error| told("reading the client's peer", error))?;
    if seen == (far.ip(), far.port(), own) && believed == far {
        return Ok(());
    }
    Err(RedirectError::SelfTest(format!(
        "a connect from {own} to {far} arrived as one from {peer} to {local}"
    )))
}

fn connect(netns: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
    netns
        .run(|| TcpStream::connect_timeout(&to, BOUND))
        .and_then(|connected| connected)
}

/// Brings `lo` up with our addresses; tells which families this kernel has.
pub(super) async fn scratch_addresses(routing: &PodRouting) -> Result<Vec<IpAddr>, RedirectError> {
    routing.raise_loopback().await?;
    let mut addresses = Vec::new();
    for (address, prefix) in [(IpAddr::V4(SELF_V4), 32), (IpAddr::V6(SELF_V6), 128)] {
        match routing.add_loopback_address(address, prefix).await {
            Ok(()) => addresses.push(address),
            // IPv6 may be off on this node; pods then have none either.
            Err(error) if address.is_ipv4() => return Err(error.into()),
            Err(error) => tracing::info!(%error, "no IPv6 in the self-test"),
        }
    }
    Ok(addresses)
}

fn told(step: &str, error: impl std::fmt::Display) -> RedirectError {
    RedirectError::SelfTest(format!("{step}: {error}"))
}
