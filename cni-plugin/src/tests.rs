//! Calls as a runtime makes them, against an agent that answers as told.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::PathBuf,
    process,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, JoinHandle},
};

use isthmus_wire::{Enrol, PodStatus, Request, Response, Status};
use serde_json::Value;

use crate::{INPUT_LIMIT_BYTES, environment::Environment, run};

const ARGUMENTS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_INFRA_CONTAINER_ID=c1;\
                         K8S_POD_UID=1f2e";
/// Odd spacing, key order and numbers, which must all survive.
const PREVIOUS: &str = "{\"z\": 1.50,\n  \"ips\" :[{\"address\":\"10.0.0.5/24\"}], \"a\":18446744073709551616}";

fn environment(command: &str) -> Environment {
    Environment {
        command: command.to_owned(),
        container: "c1".to_owned(),
        netns: "/var/run/netns/cni-1".to_owned(),
        interface: "eth0".to_owned(),
        arguments: ARGUMENTS.to_owned(),
    }
}

/// Runs a call; `Ok` is what it said, `Err` the error it said.
fn call(environment: &Environment, input: &str) -> Result<String, Value> {
    let mut output = Vec::new();
    let ended = run(environment, input.as_bytes(), &mut output);
    let said = String::from_utf8(output).unwrap();
    if ended.is_ok() {
        Ok(said)
    } else {
        Err(serde_json::from_str(&said).unwrap())
    }
}

/// The code of a call that must fail, and its message.
fn failure(environment: &Environment, input: &str) -> (u64, String) {
    let error = call(environment, input).unwrap_err();
    (
        error["code"].as_u64().unwrap(),
        error["msg"].as_str().unwrap().to_owned(),
    )
}

fn configuration(version: &str, socket: &str) -> String {
    format!(
        r#"{{"cniVersion":"{version}","name":"net","type":"isthmus-cni","agentSocket":"{socket}","prevResult":{PREVIOUS}}}"#
    )
}

fn without_agent() -> String {
    configuration("1.0.0", "/nonexistent/agent.sock")
}

/// An agent that gives these answers, one connection each, and returns what it was asked.
struct Agent {
    socket: PathBuf,
    thread: JoinHandle<Vec<Request>>,
}

impl Agent {
    fn answering(answers: Vec<Response>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("isthmus-cni-{}-{number}.sock", process::id()));
        let listener = UnixListener::bind(&socket).unwrap();
        let answer = move |response: Response| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            writeln!(stream, "{}", serde_json::to_string(&response).unwrap()).unwrap();
            serde_json::from_str(&line).unwrap()
        };
        Self {
            socket,
            thread: thread::spawn(move || answers.into_iter().map(answer).collect()),
        }
    }

    fn configuration(&self, version: &str) -> String {
        configuration(version, self.socket.to_str().unwrap())
    }

    fn asked(self) -> Vec<Request> {
        let asked = self.thread.join().unwrap();
        fs::remove_file(&self.socket).unwrap();
        asked
    }
}

fn holding(uid: &str, netns: &str, state: &str) -> Response {
    let pod = PodStatus {
        state: state.to_owned(),
        netns: netns.into(),
        ..PodStatus::default()
    };
    Response::Status(Status {
        pods: BTreeMap::from([(uid.to_owned(), pod)]),
        ..Status::default()
    })
}

fn refusal(retriable: bool) -> Response {
    Response::Refused {
        reason: "no room".to_owned(),
        retriable,
    }
}

// === VERSION ===

#[test]
fn version_tells_what_is_supported() {
    let said = call(&environment("VERSION"), r#"{"cniVersion":"0.4.0"}"#).unwrap();
    assert_eq!(
        said,
        r#"{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}"#
    );
}

// === ADD ===

#[test]
fn add_enrols_and_passes_the_previous_result_on_unchanged() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let agent = Agent::answering(vec![Response::Done]);
        assert_eq!(
            call(&environment("ADD"), &agent.configuration(version)).unwrap(),
            PREVIOUS
        );
        let enrol = Enrol {
            uid: "1f2e".to_owned(),
            namespace: "shop".to_owned(),
            name: "cart-0".to_owned(),
            service_account: None,
            netns: "/var/run/netns/cni-1".into(),
            mtls_required: None,
            reroute_interfaces: Vec::new(),
        };
        assert_eq!(agent.asked(), [Request::Enrol(enrol)]);
    }
}

#[test]
fn add_uses_the_sandbox_where_no_uid_is_told() {
    let agent = Agent::answering(vec![Response::Done]);
    let mut environment = environment("ADD");
    environment.arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0".to_owned();
    call(&environment, &agent.configuration("1.0.0")).unwrap();
    assert!(matches!(agent.asked().as_slice(), [Request::Enrol(enrol)] if enrol.uid == "c1"));
}

#[test]
fn add_without_an_agent_fails_and_says_no_result() {
    let error = call(&environment("ADD"), &without_agent()).unwrap_err();
    assert_eq!(error["code"], 11);
    assert_eq!(error["cniVersion"], "1.0.0");
    assert!(
        error["msg"]
            .as_str()
            .unwrap()
            .contains("no agent answers on /nonexistent/agent.sock")
    );
    assert!(error["details"].as_str().unwrap().contains("No such file"));
    assert!(error.get("ips").is_none());
}

#[test]
fn add_fails_when_the_agent_refuses_or_answers_something_else() {
    for (response, code) in [
        (refusal(true), 11),
        (refusal(false), 100),
        (Response::Status(Status::default()), 100),
    ] {
        let agent = Agent::answering(vec![response]);
        assert_eq!(failure(&environment("ADD"), &agent.configuration("1.0.0")).0, code);
        agent.asked();
    }
}

#[test]
fn add_fails_without_a_previous_result() {
    let (code, text) = failure(&environment("ADD"), r#"{"cniVersion":"1.0.0"}"#);
    assert_eq!(code, 7);
    assert!(text.contains("after the one that makes the pod's network"), "{text}");
    assert_eq!(
        failure(&environment("ADD"), r#"{"cniVersion":"1.0.0","prevResult":null}"#).0,
        7
    );
    assert_eq!(
        failure(&environment("ADD"), r#"{"cniVersion":"1.0.0","prevResult":["x"]}"#).0,
        7
    );
}

#[test]
fn add_needs_a_network_namespace_and_a_pod() {
    type Change = fn(&mut Environment);
    let wrong = |change: Change| {
        let mut environment = environment("ADD");
        change(&mut environment);
        failure(&environment, &without_agent())
    };
    let cases: [(Change, &str); 9] = [
        (|e| e.netns.clear(), "CNI_NETNS is not set"),
        (|e| e.netns = "netns/x".to_owned(), "not an absolute path"),
        (|e| e.container.clear(), "CNI_CONTAINERID is not set"),
        (|e| e.container = "../x".to_owned(), "CNI_CONTAINERID is malformed"),
        (|e| e.interface.clear(), "CNI_IFNAME is not set"),
        (|e| e.arguments.clear(), "K8S_POD_NAMESPACE"),
        (
            |e| e.arguments = "K8S_POD_NAMESPACE=a;K8S_POD_NAME".to_owned(),
            "an entry without `=`",
        ),
        (
            |e| e.arguments = "K8S_POD_NAMESPACE=a;K8S_POD_NAMESPACE=b;K8S_POD_NAME=c".to_owned(),
            "given twice",
        ),
        (
            |e| e.arguments = format!("K8S_POD_NAMESPACE=a;K8S_POD_NAME={}", "b".repeat(254)),
            "longer than 253",
        ),
    ];
    for (change, expected) in cases {
        let (code, text) = wrong(change);
        assert_eq!(code, 4, "{text}");
        assert!(text.contains(expected), "{text}");
    }
    for name in ["", "a/b", "a b", "a\u{e9}", "-a"] {
        let mut environment = environment("ADD");
        environment.arguments = format!("K8S_POD_NAMESPACE=a;K8S_POD_NAME={name}");
        assert_eq!(failure(&environment, &without_agent()).0, 4, "{name:?}");
    }
}

// === DEL ===

#[test]
fn del_releases_the_pod() {
    // `/var/run` and `/run` are one folder.
    let agent = Agent::answering(vec![holding("1f2e", "/run/netns/cni-1", "enrolled"), Response::Done]);
    assert_eq!(call(&environment("DEL"), &agent.configuration("1.0.0")).unwrap(), "");
    assert_eq!(
        agent.asked(),
        [Request::Status, Request::Release { uid: "1f2e".to_owned() }]
    );
}

#[test]
fn del_of_an_old_sandbox_leaves_the_pods_new_one_enrolled() {
    let agent = Agent::answering(vec![holding("1f2e", "/var/run/netns/cni-2", "enrolled")]);
    assert_eq!(call(&environment("DEL"), &agent.configuration("1.0.0")).unwrap(), "");
    assert_eq!(agent.asked(), [Request::Status]);
}

#[test]
fn del_succeeds_without_agent_namespace_previous_result_or_pod() {
    assert_eq!(call(&environment("DEL"), &without_agent()).unwrap(), "");
    assert_eq!(
        call(
            &environment("DEL"),
            r#"{"cniVersion":"0.3.1","agentSocket":"/nonexistent/agent.sock"}"#
        )
        .unwrap(),
        ""
    );
    for change in [
        |e: &mut Environment| e.netns.clear(),
        |e: &mut Environment| e.arguments.clear(),
    ] {
        let mut environment = environment("DEL");
        change(&mut environment);
        assert_eq!(call(&environment, &without_agent()).unwrap(), "");
    }
}

#[test]
fn del_fails_when_the_agent_refuses() {
    let agent = Agent::answering(vec![holding("1f2e", "/var/run/netns/cni-1", "enrolled"), refusal(true)]);
    assert_eq!(failure(&environment("DEL"), &agent.configuration("1.0.0")).0, 11);
    agent.asked();
}

// === CHECK ===

#[test]
fn check_wants_the_pod_enrolled_with_its_namespace() {
    let answers = [
        (holding("1f2e", "/var/run/netns/cni-1", "enrolled"), None),
        (holding("1f2e", "/var/run/netns/cni-1", "draining"), Some(100)),
        (holding("1f2e", "/var/run/netns/cni-2", "enrolled"), Some(100)),
        (holding("other", "/var/run/netns/cni-1", "enrolled"), Some(3)),
        (Response::Done, Some(100)),
    ];
    for (answer, expected) in answers {
        let agent = Agent::answering(vec![answer]);
        let ended = call(&environment("CHECK"), &agent.configuration("0.4.0"));
        assert_eq!(
            ended.as_ref().err().map(|error| error["code"].as_u64().unwrap()),
            expected,
            "{ended:?}"
        );
        agent.asked();
    }
    assert_eq!(failure(&environment("CHECK"), &without_agent()).0, 11);
    assert_eq!(failure(&environment("CHECK"), r#"{"cniVersion":"1.0.0"}"#).0, 7);
    assert_eq!(
        failure(&environment("CHECK"), &configuration("0.3.1", "/nonexistent")).0,
        1
    );
}

// === STATUS, GC ===

#[test]
fn status_tells_whether_pods_can_be_enrolled() {
    let agent = Agent::answering(vec![Response::Status(Status::default())]);
    assert_eq!(call(&environment("STATUS"), &agent.configuration("1.1.0")).unwrap(), "");
    assert_eq!(agent.asked(), [Request::Status]);
    assert_eq!(
        failure(&environment("STATUS"), &configuration("1.1.0", "/nonexistent")).0,
        50
    );
    assert_eq!(failure(&environment("STATUS"), &without_agent()).0, 1);
}

#[test]
fn gc_has_nothing_to_do() {
    assert_eq!(
        call(&environment("GC"), &configuration("1.1.0", "/nonexistent")).unwrap(),
        ""
    );
    assert_eq!(failure(&environment("GC"), &without_agent()).0, 1);
}

// === bad input ===

#[test]
fn input_that_is_no_configuration_is_not_decoded() {
    for input in [
        "",
        "{",
        "[1]",
        "\"\"",
        "{\"cniVersion\":1}",
        "{\"cniVersion\":\"1.0.0\"} x",
        "\u{feff}{}",
    ] {
        for command in ["ADD", "DEL", "VERSION"] {
            let (code, text) = failure(&environment(command), input);
            assert_eq!(code, 6, "{input}");
            assert!(text.contains("CNI configuration directory"), "{text}");
        }
    }
    let deep = format!("{{\"cniVersion\":\"1.0.0\",\"x\":{}", "[".repeat(100_000));
    assert_eq!(failure(&environment("ADD"), &deep).0, 6);
}

#[test]
fn input_is_bounded() {
    let padded = |length: usize| format!("{}{}", " ".repeat(length - without_agent().len()), without_agent());
    let limit = usize::try_from(INPUT_LIMIT_BYTES).unwrap();
    assert_eq!(failure(&environment("ADD"), &padded(limit)).0, 11);
    let (code, text) = failure(&environment("ADD"), &padded(limit + 1));
    assert_eq!(code, 7);
    assert!(text.contains("longer than 1048576 bytes"), "{text}");
}

#[test]
fn other_versions_and_commands_are_refused() {
    for version in ["", "0.2.0", "0.3.0", "1.1", "2.0.0"] {
        let (code, text) = failure(&environment("ADD"), &configuration(version, "/s"));
        assert_eq!(code, 1);
        assert!(text.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{text}");
    }
    assert_eq!(failure(&environment("ADD"), "{}").0, 1);
    for command in ["", "add", "UPDATE"] {
        assert_eq!(failure(&environment(command), &without_agent()).0, 4);
    }
    let (code, text) = failure(&environment("ADD"), &configuration("1.0.0", "run/agent.sock"));
    assert_eq!(code, 7);
    assert!(text.contains("agentSocket"), "{text}");
}
