use super::*;
use crate::mesh::fixture::{gateway_at, gateway_of, ip, key, on, service, workload};
use crate::mesh::service::WeightedWaypoint;
use crate::mesh::workload::{ApplicationTunnel, Protocol};
use crate::mesh::{Builder, Draft};

fn pod() -> Draft {
    Draft {
        addresses: vec![ip("10.0.0.2"), ip("fd00::2")],
        protocol: Protocol::Hbone,
        services: vec![on("demo/echo.demo", &[(80, 8080)])],
        ..workload("echo")
    }
}

fn tunnel(protocol: TunnelProtocol, port: Option<u16>) -> Option<ApplicationTunnel> {
    Some(ApplicationTunnel { protocol, port })
}

/// The port a CONNECT ends at, or the status of its refusal.
fn port(builder: &Builder, local: &Draft, authority: &str) -> Result<u16, u16> {
    let admitted = admit(
        &builder.build(),
        &local.clone().into(),
        ip("10.0.0.2"),
        &authority.parse().unwrap(),
    );
    admitted
        .map(|admission| admission.to_port)
        .map_err(|refusal| refusal.status())
}

#[test]
fn the_pods_own_address_is_admitted_and_no_other() {
    let builder = Builder::new();
    assert_eq!(port(&builder, &pod(), "10.0.0.2:80"), Ok(80));
    assert_eq!(port(&builder, &pod(), "[::ffff:10.0.0.2]:80"), Ok(80));
    assert_eq!(port(&builder, &pod(), "10.0.0.3:80"), Err(400));
    // Its other address is not the one this connection came to.
    assert_eq!(port(&builder, &pod(), "[fd00::2]:80"), Err(400));
    let v6 = admit(
        &builder.build(),
        &pod().into(),
        ip("fd00::2"),
        &"[fd00::2]:80".parse().unwrap(),
    )
    .unwrap();
    assert_eq!(v6.to_port, 80);
    assert!(v6.service.is_none());
}

#[test]
fn the_agents_ports_are_refused_however_they_are_reached() {
    let mut builder = Builder::new();
    builder.add_service(service("demo", "sly.demo", &[], &[(80, 15008)]));
    for own in OWN_PORTS {
        assert_eq!(port(&builder, &pod(), &format!("10.0.0.2:{own}")), Err(503));
        let tunnelled = Draft {
            application_tunnel: tunnel(TunnelProtocol::None, Some(own)),
            ..pod()
        };
        assert_eq!(port(&builder, &tunnelled, "10.0.0.2:80"), Err(503));
    }
    assert_eq!(port(&builder, &pod(), "sly.demo:80"), Err(503));
    assert_eq!(port(&builder, &pod(), "10.0.0.2:15009"), Ok(15009));
}

#[test]
fn a_name_is_mapped_by_the_endpoint_then_by_the_service() {
    let mut builder = Builder::new();
    builder.add_service(service("demo", "echo.demo", &[], &[(80, 9999), (81, 8181), (82, 0)]));
    builder.add_workload(pod());
    assert_eq!(port(&builder, &pod(), "echo.demo:80"), Ok(8080));
    assert_eq!(port(&builder, &pod(), "ECHO.demo:80"), Ok(8080));
    assert_eq!(port(&builder, &pod(), "echo.demo:81"), Ok(8181));
    assert_eq!(port(&builder, &pod(), "echo.demo:82"), Err(503));
    assert_eq!(port(&builder, &pod(), "echo.demo:83"), Err(503));
    assert_eq!(port(&builder, &pod(), "other.demo:80"), Err(503));
    let admission = admit(
        &builder.build(),
        &pod().into(),
        ip("10.0.0.2"),
        &"echo.demo:80".parse().unwrap(),
    )
    .unwrap();
    assert_eq!(admission.service.unwrap().key, key("demo/echo.demo"));
}

#[test]
fn a_name_is_the_own_namespaces_then_the_canonical_then_the_first() {
    let mut builder = Builder::new();
    builder.add_service(service("a", "x.global", &[], &[(80, 1001)]));
    let mut canonical = service("b", "x.global", &[], &[(80, 1002)]);
    canonical.canonical = true;
    assert_eq!(port(&builder, &pod(), "x.global:80"), Ok(1001));
    builder.add_service(canonical);
    assert_eq!(port(&builder, &pod(), "x.global:80"), Ok(1002));
    builder.add_service(service("demo", "x.global", &[], &[(80, 1003)]));
    assert_eq!(port(&builder, &pod(), "x.global:80"), Ok(1003));
}

#[test]
fn an_application_tunnel_takes_any_address_at_its_port() {
    let builder = Builder::new();
    let with_port = Draft {
        application_tunnel: tunnel(TunnelProtocol::None, Some(15088)),
        ..pod()
    };
    assert_eq!(port(&builder, &with_port, "10.1.0.1:80"), Ok(15088));
    let without = Draft {
        application_tunnel: tunnel(TunnelProtocol::None, None),
        ..pod()
    };
    assert_eq!(port(&builder, &without, "10.1.0.1:80"), Ok(80));
}

#[test]
fn the_proxy_protocol_is_refused_with_its_reason() {
    let proxy = Draft {
        application_tunnel: tunnel(TunnelProtocol::Proxy, Some(15088)),
        ..pod()
    };
    let refusal = admit(
        &Snapshot::empty(),
        &proxy.into(),
        ip("10.0.0.2"),
        &"10.0.0.2:80".parse().unwrap(),
    )
    .unwrap_err();
    assert_eq!(refusal.status(), 503);
    assert!(refusal.to_string().contains("not supported yet"), "{refusal}");
}

#[test]
fn who_has_this_pod_as_waypoint_may_be_asked_of_it() {
    let waypoint = Draft {
        services: vec![on("demo/waypoint.demo", &[(15008, 15008)])],
        hostname: "wp.example.com".into(),
        ..pod()
    };
    let mut builder = Builder::new();
    builder.add_workload(waypoint.clone());
    builder.add_service(service("demo", "waypoint.demo", &["net1/10.1.0.50"], &[(15008, 15008)]));
    let mut behind = service("other", "behind.other", &["net1/10.1.0.1"], &[(80, 80)]);
    let mut ways = vec![gateway_of("demo/waypoint.demo"), gateway_of("demo/wp.example.com")];
    ways.extend([gateway_at("net1/10.0.0.2"), gateway_at("net1/10.1.0.50")]);
    assert_eq!(port(&builder, &waypoint, "10.1.0.1:80"), Err(400));
    for way in ways {
        behind.waypoint = Some(way.clone());
        builder.add_service(behind.clone());
        assert_eq!(port(&builder, &waypoint, "10.1.0.1:80"), Ok(80), "{way}");
        behind.waypoint = None;
        behind.weighted_waypoints = vec![WeightedWaypoint {
            waypoint: way.clone(),
            weight: 1,
        }];
        builder.add_service(behind.clone());
        assert_eq!(port(&builder, &waypoint, "10.1.0.1:80"), Ok(80), "weighted {way}");
        behind.weighted_waypoints.clear();
        let pod_behind = Draft {
            addresses: vec![ip("10.0.0.9")],
            waypoint: Some(way.clone()),
            ..workload("behind")
        };
        builder.add_workload(pod_behind.clone());
        assert_eq!(port(&builder, &waypoint, "10.0.0.9:80"), Ok(80), "workload {way}");
        builder.remove_workload(&pod_behind.uid);
    }
    behind.waypoint = Some(gateway_of("demo/somebody-else.demo"));
    builder.add_service(behind);
    assert_eq!(port(&builder, &waypoint, "10.1.0.1:80"), Err(400));
    // In another network the address is another one.
    let elsewhere = Draft {
        network: "net2".into(),
        ..waypoint
    };
    assert_eq!(port(&builder, &elsewhere, "10.0.0.9:80"), Err(400));
}
