//! The lab's own promises: what reaches what before any agent has a hand in it.

use std::{net::SocketAddr, time::Duration};

use isthmus_tests::{Capture, Lab, Result, roundtrip};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn pods_of_one_network_reach_each_other_and_see_true_addresses() -> Result {
    let lab = Lab::new("lab")?;
    let network = lab.network("net1")?;
    let (n1, n2) = (network.node("n1")?, network.node("n2")?);
    let (a, b, c) = (
        n1.pod("a").start()?,
        n1.pod("b").start()?,
        n2.pod("c").two_addresses().start()?,
    );
    for server in [&b, &c] {
        let echo = server.echo(8080)?;
        for ip in server.ips() {
            let mut stream = a.connect(SocketAddr::new(*ip, 8080))?;
            roundtrip(&mut stream, b"hello")?;
            assert_eq!(echo.peer()?, stream.local_addr()?);
        }
    }
    assert_eq!(c.ips().len(), 4);
    let text = a.run(SOON, "cat", &["/sys/fs/bpf/no-such-file"])?.errors;
    assert!(
        text.contains("No such file"),
        "programs in pods see the node's /sys: {text}"
    );
    Ok(())
}

#[test]
fn networks_reach_only_each_others_gateways() -> Result {
    let lab = Lab::new("lab")?;
    let (net1, net2) = (lab.network("net1")?, lab.network("net2")?);
    let gateway = net2.gateway("gw2").stopped()?;
    let (a, b) = (net1.node("n1")?.pod("a").start()?, net2.node("n2")?.pod("b").start()?);
    let echo = b.echo(8080)?;
    for at in [b.at(8080), b.at6(8080)] {
        a.connect_within(at, Duration::from_millis(300)).unwrap_err();
    }
    echo.must_not_accept(Duration::from_millis(50))?;
    let at_gateway = isthmus_tests::Echo::start(gateway.netns(), "[::]:7".parse()?)?;
    for outer in ["198.51.100.21:7", "[2001:db8:51::21]:7"] {
        let mut stream = a.connect(outer.parse()?)?;
        roundtrip(&mut stream, b"hello")?;
        assert_eq!(at_gateway.peer()?, stream.local_addr()?);
    }
    let mut inside = isthmus_tests::pod::connect_from(gateway.netns(), b.at6(8080), SOON)?;
    roundtrip(&mut inside, b"hello")
}

#[test]
fn a_capture_hears_what_passes_and_only_that() -> Result {
    let lab = Lab::new("lab")?;
    let node = lab.network("net1")?.node("n1")?;
    let (a, b) = (node.pod("a").start()?, node.pod("b").start()?);
    let capture = Capture::start(node.netns())?;
    capture.listen_for(b"secret-1");
    capture.listen_for(b"secret-2");
    capture.listen_for(b"fence");
    let echo = b.echo(8080)?;
    roundtrip(&mut a.connect(b.at6(8080))?, b"this is secret-1 passing")?;
    assert_eq!(echo.peer()?.ip(), a.ip6());
    a.fence(b.ip(), b"fence")?;
    capture.wait_for(b"fence", SOON)?;
    assert!(capture.saw(b"secret-1"));
    assert!(!capture.saw(b"secret-2"));
    assert!(!capture.syns_to(b.ip6(), 8080).is_empty());
    assert!(capture.syns_to(b.ip(), 8080).is_empty());
    assert_eq!(capture.lost(), 0);
    Ok(())
}

#[test]
fn the_load_program_tells_the_truth() -> Result {
    let lab = Lab::new("lab")?;
    let node = lab.network("net1")?.node("n1")?;
    let (a, b) = (node.pod("a").start()?, node.pod("b").start()?);
    let sink = b.peer(&["sink", "[::]:9000"])?;
    let echo = b.peer(&["echo", "[::]:9001"])?;
    for server in [&sink, &echo] {
        server
            .output()
            .wait_from(0, SOON, |line| line.get("listening").is_some())?;
    }
    let upload = a.measure(SOON, &["upload", &b.at(9000).to_string(), "--seconds", "0.2"])?;
    assert!(upload["bytes"].as_u64() > Some(1 << 20), "{upload}");
    let ping = a.measure(SOON, &["ping", &b.at6(9001).to_string(), "--seconds", "0.2"])?;
    assert!(ping["trips"].as_u64() > Some(100), "{ping}");
    let churn = a.measure(
        SOON,
        &["churn", &b.at(9001).to_string(), "--seconds", "0.2", "--parallel", "3"],
    )?;
    assert_eq!(
        (&churn["unconnected"], &churn["broken"]),
        (&0.into(), &0.into()),
        "{churn}"
    );
    let mut hold = a.peer(&["hold", &b.at(9001).to_string(), "--count", "200"])?;
    hold.output().wait_from(0, SOON, |line| line["held"] == 200)?;
    drop(echo);
    hold.close_input();
    assert_eq!(hold.report(SOON)?["alive"], 0);
    Ok(())
}
