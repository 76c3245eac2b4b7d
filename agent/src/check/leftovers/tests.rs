use std::{fs, os::unix::net::UnixListener};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use super::super::report::Level;
use super::*;
use crate::istio_cni::{
    files::{BINARIES, CONFIG_DIRECTORIES, SOCKETS},
    netfilter::{Chain, Table},
};

struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("isthmus-leftovers-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_bare_node_is_good() {
    let root = Root::new("bare");
    root.write("etc/cni/net.d/10-calico.conflist", r#"{"plugins":[{"type":"calico"}]}"#);
    let facts = Facts::gather(&root.0);
    assert_eq!(facts, Facts::default());
    assert_eq!(judge_config(&facts)[0].level, Level::Good);
    assert_eq!(judge_sockets(&facts)[0].level, Level::Good);
}

#[test]
fn istio_is_found_in_the_configuration_of_every_platform() {
    for directory in CONFIG_DIRECTORIES {
        let root = Root::new("config");
        root.write(
            &format!("{directory}/10-net.conflist"),
            r#"{"plugins":[{"type":"bridge"},{"type":"istio-cni"}]}"#,
        );
        root.write(&format!("{directory}/YYY-istio-cni.conf"), r#"{"type":"istio-cni"}"#);
        // Read by nobody, or not JSON.
        root.write(&format!("{directory}/old.conflist.bak"), r#"{"type":"istio-cni"}"#);
        root.write(&format!("{directory}/broken.conf"), r#"{"type":"istio-cni""#);
        let facts = Facts::gather(&root.0);
        assert_eq!(facts.configurations.len(), 2, "{facts:?}");
        let found = judge_config(&facts);
        assert_eq!(found[0].level, Level::Bad);
        assert!(found[0].found.contains("10-net.conflist") && found[0].found.contains("YYY-istio-cni.conf"));
    }
}

#[test]
fn a_binary_alone_is_a_warning_wherever_it_lies() {
    for binary in BINARIES {
        let root = Root::new("binary");
        root.write(binary, "");
        let found = judge_config(&Facts::gather(&root.0));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].level, Level::Warning);
        assert!(found[0].found.contains(binary));
    }
}

#[test]
fn a_socket_somebody_listens_on_is_bad_and_a_dead_one_is_a_warning() {
    let root = Root::new("sockets");
    fs::create_dir_all(root.0.join("var/run/istio-cni")).unwrap();
    let listener = UnixListener::bind(root.0.join(SOCKETS[0])).unwrap();
    let found = judge_sockets(&Facts::gather(&root.0));
    assert_eq!(found[0].level, Level::Bad);
    drop(listener);
    let found = judge_sockets(&Facts::gather(&root.0));
    assert_eq!(found[0].level, Level::Warning);
    assert!(found[0].found.contains("pluginevent.sock"));
}

#[test]
fn a_socket_of_packets_is_alive_as_well() {
    let root = Root::new("packets");
    let path = root.0.join(SOCKETS[2]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let ztunnels = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).unwrap();
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&ztunnels),
        &UnixAddr::new(&path).unwrap(),
    )
    .unwrap();
    listen(&ztunnels, Backlog::new(1).unwrap()).unwrap();
    assert_eq!(judge_sockets(&Facts::gather(&root.0))[0].level, Level::Bad);
    drop(ztunnels);
    assert_eq!(judge_sockets(&Facts::gather(&root.0))[0].level, Level::Warning);
}

fn ruleset(family: u8, table: &str, chain: &str) -> Ruleset {
    let table = Table {
        family,
        name: table.to_owned(),
    };
    Ruleset {
        chains: vec![Chain {
            table: table.clone(),
            name: chain.to_owned(),
            is_base: false,
        }],
        tables: vec![table],
        jumps: Vec::new(),
    }
}

#[test]
fn rules_on_the_host_are_bad() {
    let none = Ok((ruleset(2, "nat", "POSTROUTING"), vec!["KUBE-CLUSTER-IP".to_owned()]));
    assert_eq!(judge_host(&none).level, Level::Good);
    let chain = Ok((ruleset(2, "nat", "ISTIO_POSTRT"), Vec::new()));
    let set = Ok((Ruleset::default(), vec!["istio-inpod-probes-v6".to_owned()]));
    let table = Ok((ruleset(1, "istio-ambient-nat", "postrouting"), Vec::new()));
    for (netfilter, says) in [
        (chain, "ISTIO_POSTRT"),
        (set, "ipset istio-inpod-probes-v6"),
        (table, "istio-ambient-nat"),
    ] {
        let found = judge_host(&netfilter);
        assert_eq!(found.level, Level::Bad);
        assert!(found.found.contains(says), "{found:?}");
    }
    assert_eq!(judge_host(&Err("EPERM".into())).level, Level::Bad);
}
