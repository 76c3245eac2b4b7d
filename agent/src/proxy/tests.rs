//! Two and more pods on one machine: addresses of 127.0.0.0/8, plain sockets, an embedded CA, a mesh in memory.

mod bench;
mod demand;
mod drains;
mod failover;
mod gateways;
mod paths;
mod policies;
mod pools;
mod relays;
mod world;
