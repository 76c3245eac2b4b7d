use super::{Phase, Who};
use crate::telemetry::ResponseFlag;

/// The codes, their meaning and what to look at; docs/access-log.md is held against it.
macro_rules! codes {
    ($($variant:ident $code:literal $who:ident $phase:ident $flag:ident $meaning:literal, $hint:literal;)*) => {
        /// Why a connection ended: a closed list with names that do not change. docs/access-log.md is its page.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CloseCode { $(#[doc = $meaning] $variant,)* }

        impl CloseCode {
            /// All of them, in the order of a connection's life.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// Who ends a connection so, where nothing else is known.
            #[must_use]
            pub const fn who(self) -> Who {
                match self { $(Self::$variant => Who::$who,)* }
            }

            /// When it happens, where nothing else is known.
            #[must_use]
            pub const fn phase(self) -> Phase {
                match self { $(Self::$variant => Phase::$phase,)* }
            }

            /// The value of `response_flags` in metrics (wire-facts.md §8.2).
            #[must_use]
            pub const fn flag(self) -> ResponseFlag {
                match self { $(Self::$variant => ResponseFlag::$flag,)* }
            }

            /// What it says of the connection, a clause for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What to look at; empty where there is nothing to do.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }
        }
    };
}

codes! {
    Finished "finished" Client Relay None
        "both sides closed their direction", "";
    AcceptFailed "accept-failed" Client Accept None
        "the connection was gone before it was taken up", "";
    SelfCall "self-call" Client Accept None
        "the application dialled one of the agent's own ports", "what the application was configured to dial";
    PodUnknown "pod-unknown" Agent Decide None
        "the mesh knows no workload for this pod", "`isthmus status`: is the mesh source up to date, is the pod in it?";
    MeshSilent "mesh-silent" Agent Decide None
        "istiod, asked on demand, did not say who the destination is",
        "whether istiod is reached: `isthmus status`; its load";
    NoIdentity "no-identity" Agent Decide IdentityError
        "a workload's data makes no SPIFFE ID", "its trust domain, namespace and service account";
    NoUpstream "no-upstream" Agent Decide Connect
        "the service has no endpoint that can be used", "`isthmus status`: endpoints, their health, ports and IP families";
    NoWaypoint "no-waypoint" Agent Decide Connect
        "the waypoint it must pass is unknown or cannot be used", "whether the waypoint is deployed and healthy";
    NoGateway "no-gateway" Agent Decide Connect
        "the other network's gateway is unknown, or the address is one that only a service leads to",
        "the east-west gateway of that network; call pods of other networks through a service";
    DnsFailed "dns-failed" Agent Decide Connect
        "the destination is known by a DNS name only, which has no address",
        "the name; the DNS servers in the agent's /etc/resolv.conf";
    BadRequest "bad-request" Peer Decide None
        "the peer's CONNECT is malformed", "the peer's version and make";
    NotHere "not-here" Agent Decide None
        "the CONNECT is for an address, service or port that is not served here",
        "whether the peer's view of the mesh is out of date";
    OutOfDescriptors "out-of-descriptors" Agent Connect None
        "the budget of descriptors is used up", "raise RLIMIT_NOFILE (LimitNOFILE=), or find who opens so many";
    CertificateMissing "certificate-missing" Agent Connect IdentityError
        "there is no certificate to show", "the certificate source: its address, its credentials, its log";
    SocketFailed "socket-failed" Agent Connect Connect
        "the kernel gave no usable socket", "the errno; limits and memory of the node";
    HandshakeTimeout "handshake-timeout" Peer Handshake TlsFailure
        "the other side took the connection and did not finish TLS",
        "whether port 15008 there is a mesh agent's; its CPU; a middlebox that swallows data";
    TlsFailed "tls-failed" Peer Handshake TlsFailure
        "TLS failed otherwise", "what listens there; a middlebox in between";
    TlsExpired "tls-expired" Peer Handshake TlsFailure
        "the peer's certificate is over or not yet valid", "the clocks of both nodes; whether the peer can renew";
    TlsUntrusted "tls-untrusted" Peer Handshake TlsFailure
        "the peer's certificate does not lead to our roots, or there is none",
        "whether both clusters share a root of trust";
    TlsWrongIdentity "tls-wrong-identity" Peer Handshake TlsFailure
        "the peer is not who the mesh says it is",
        "whether an address was given to another pod; whether the mesh source lags behind";
    TlsRefused "tls-refused" Peer Handshake TlsFailure
        "the peer refused our certificate", "the peer's log: whom it expects, which roots it has";
    Http2Failed "http2-failed" Peer Handshake H2HandshakeFailure
        "HTTP/2 failed before the first stream", "what listens there; its version";
    PolicyDenied "policy-denied" Agent Authorize Deny
        "an AuthorizationPolicy here does not allow it", "the policy named, or the ALLOW policies that do not match";
    PeerDenied "peer-denied" Peer Authorize Deny
        "the peer's AuthorizationPolicy does not allow it", "the peer's log, which names the policy";
    PeerRefused "peer-refused" Peer Connect Connect
        "the peer answered our CONNECT with another status than 200",
        "the peer's log; 503: the application does not listen, 400: the peer does not serve this address";
    PeerReset "peer-reset" Peer Connect Connect
        "the peer reset the stream instead of answering", "the peer's log";
    PeerLost "peer-lost" Peer Connect Connect
        "the tunnel was lost before the peer answered", "whether the peer's agent restarted";
    PeerSilent "peer-silent" Peer Connect Connect
        "the peer did not answer our CONNECT in time", "the load of the peer; its application's SYN queue";
    HboneTimeout "hbone-timeout" Peer Connect NetworkPolicy
        "nobody answered on the peer's port 15008",
        "a NetworkPolicy or firewall that does not admit TCP port 15008 between pods, which HBONE needs";
    HboneRefused "hbone-refused" Peer Connect Connect
        "the peer's port 15008 is closed",
        "whether the peer's node runs the agent and the pod is enrolled; a NetworkPolicy that rejects port 15008";
    ConnectTimeout "connect-timeout" Server Connect Connect
        "the destination did not answer", "a NetworkPolicy or firewall in between; whether the destination is alive";
    ConnectRefused "connect-refused" Server Connect Connect
        "the destination's port is closed", "whether the application listens, on that address and port";
    ConnectFailed "connect-failed" Server Connect Connect
        "the destination cannot be reached", "the errno; routes of the node and the pod";
    ClientGaveUp "client-gave-up" Client Connect None
        "the client left before the destination was reached", "the client's timeout; how long the destination took";
    Reset "reset" Client Relay None
        "an application reset its connection", "the application's own log";
    ApplicationLost "application-lost" Server Relay None
        "an application's host no longer answers, or its socket failed", "the errno; whether the host is alive";
    StreamReset "stream-reset" Peer Relay None
        "the peer reset the stream", "the peer's log: its application or its policy ended it";
    TunnelLost "tunnel-lost" Peer Relay None
        "the tunnel below the connection was lost", "whether the peer's agent restarted; the network between the nodes";
    PolicyCut "policy-cut" Agent Relay Deny
        "policy changed and no longer allows it", "the policy named";
    PodGone "pod-gone" Agent Relay None
        "the pod or its network namespace is gone", "";
    DrainDeadline "drain-deadline" Agent Relay None
        "the agent is stopping and its drain deadline has passed", "a longer drain deadline, if such connections matter";
}
