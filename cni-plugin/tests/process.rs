//! The plugin as a container runtime runs it: a process with variables, an input, an output and an exit code.

use std::{
    io::{self, Write as _},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn call(variables: &[(&str, &str)], input: &[u8]) -> io::Result<Output> {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_isthmus-cni"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It reads no more than it takes, and then goes.
    let _written = plugin.stdin.take().map(|mut stdin| stdin.write_all(input));
    plugin.wait_with_output()
}

const ADD: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/run/netns/cni-1"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0"),
];

/// The code of a call that must fail, and must have said nothing else.
fn code(variables: &[(&str, &str)], input: &[u8]) -> io::Result<Option<u64>> {
    let output = call(variables, input)?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let error: Value = serde_json::from_slice(&output.stdout)?;
    Ok(error.get("code").and_then(Value::as_u64))
}

#[test]
fn an_error_is_said_on_standard_output_with_exit_code_one() {
    let mut huge = vec![b' '; 8 << 20];
    huge.extend(b"{}");
    let away = br#"{"cniVersion":"1.0.0","agentSocket":"/nonexistent/agent.sock","prevResult":{}}"#;
    for (input, expected) in [
        (b"".as_slice(), 6),
        (&huge, 7),
        (b"{\"cniVersion\":\"0.2.0\"}", 1),
        (b"{\"cniVersion\":\"1.0.0\"}", 7),
        (away, 11),
    ] {
        assert_eq!(code(&ADD, input).unwrap(), Some(expected));
    }
    assert_eq!(code(&[], away).unwrap(), Some(4));
}

#[test]
fn what_succeeds_exits_with_zero() {
    let excluded = br#"{"cniVersion":"1.0.0","agentSocket":"/nonexistent/agent.sock","excludeNamespaces":["shop"],"prevResult":{"ips":[]}}"#;
    let output = call(&ADD, excluded).unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), br#"{"ips":[]}"#.as_slice())
    );
    let output = call(&[("CNI_COMMAND", "VERSION")], b"{\"cniVersion\":\"1.1.0\"}").unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("supportedVersions"));
}
