//! Calls as a runtime makes them, against an agent that answers as told.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::PathBuf,
    process,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, JoinHandle},
};

use isthmus_wire::{NewPod, Request, Response, Status};
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

fn new_pod(uid: &str) -> NewPod {
    NewPod {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: "cart-0".to_owned(),
        netns: "/var/run/netns/cni-1".into(),
    }
}

fn refusal(retriable: bool) -> Response {
    Response::Refused {
        reason: "no room".to_owned(),
        retriable,
    }
}

// === VERSION ===

#[test]
fn version_is_told_also_to_a_runtime_that_is_newer() {
    for newer in ["1.2.0", "", "0.2.0"] {
        let said = call(&environment("VERSION"), &format!(r#"{{"cniVersion":"{newer}"}}"#)).unwrap();
        assert_eq!(
            said,
            r#"{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}"#
        );
    }
}

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
        assert_eq!(agent.asked(), [Request::Add(new_pod("1f2e"))]);
    }
}

#[test]
fn add_uses_the_sandbox_where_no_uid_is_told() {
    let agent = Agent::answering(vec![Response::Done]);
    let mut environment = environment("ADD");
    environment.arguments = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0".to_owned();
    call(&environment, &agent.configuration("1.0.0")).unwrap();
    assert!(matches!(agent.asked().as_slice(), [Request::Add(pod)] if pod.uid == "c1"));
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
    assert!(
        error["msg"]
            .as_str()
            .unwrap()
            .contains("whether namespace shop is ambient is not known: /nonexistent/namespaces.json cannot be read")
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

#[test]
fn add_into_a_namespace_that_is_not_there_fails_with_what_the_agent_says() {
    let answer = Response::Refused {
        reason: "opening /var/run/netns/cni-1: No such file or directory".to_owned(),
        retriable: true,
    };
    let agent = Agent::answering(vec![answer]);
    let (code, text) = failure(&environment("ADD"), &agent.configuration("1.0.0"));
    assert_eq!(code, 11);
    assert!(text.contains("opening /var/run/netns/cni-1"), "{text}");
    agent.asked();
}

/// IPv6 alone, several interfaces, several addresses on one, and none at all: whatever stands there is passed on.
#[test]
fn add_passes_every_kind_of_result_on() {
    for previous in [
        r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"interface":0,"address":"fd00::5/64","gateway":"fd00::1"}],"routes":[{"dst":"::/0"}]}"#,
        r#"{"interfaces":[{"name":"v1"},{"name":"eth0","sandbox":"/n"},{"name":"net1","sandbox":"/n"}],"ips":[{"interface":1,"address":"10.0.0.5/24"},{"interface":1,"address":"fd00::5/64"},{"interface":2,"address":"10.9.0.5/24"}]}"#,
        "{}",
    ] {
        let agent = Agent::answering(vec![Response::Done]);
        let input = agent.configuration("1.0.0").replace(PREVIOUS, previous);
        assert_eq!(call(&environment("ADD"), &input).unwrap(), previous);
        assert_eq!(agent.asked(), [Request::Add(new_pod("1f2e"))]);
    }
}

#[test]
fn add_of_another_interface_asks_for_the_same_pod_again() {
    let agent = Agent::answering(vec![Response::Done]);
    let mut environment = environment("ADD");
    environment.interface = "net1".to_owned();
    assert_eq!(call(&environment, &agent.configuration("1.0.0")).unwrap(), PREVIOUS);
    assert_eq!(agent.asked(), [Request::Add(new_pod("1f2e"))]);
}

#[test]
fn two_adds_at_once_ask_the_agent_twice_and_it_decides() {
    let agent = Agent::answering(vec![Response::Done, refusal(true)]);
    let input = agent.configuration("1.0.0");
    let adding = {
        let input = input.clone();
        thread::spawn(move || call(&environment("ADD"), &input).is_ok())
    };
    let here = call(&environment("ADD"), &input).is_ok();
    assert!(here != adding.join().unwrap(), "each got an answer of its own");
    assert_eq!(agent.asked().len(), 2);
}

// === while the agent is away ===

/// A configuration whose agent is away, and the folder in which it left its file.
struct Orphan {
    folder: PathBuf,
}

impl Orphan {
    fn new(name: &str, file: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("isthmus-cni-away-{name}-{}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("namespaces.json"), file).unwrap();
        Self { folder }
    }

    fn configuration(&self, keys: &str) -> String {
        let socket = self.folder.join("agent.sock");
        configuration("1.1.0", socket.to_str().unwrap()).replace("\"name\"", &format!("{keys}\"name\""))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

const FILE: &str = r#"{"version":1,"namespaces":{"shop":"ambient","tools":"other","infra":"excluded"}}"#;

fn of_namespace(command: &str, namespace: &str) -> Environment {
    let mut environment = environment(command);
    environment.arguments = ARGUMENTS.replace("=shop", &format!("={namespace}"));
    environment
}

#[test]
fn without_an_agent_its_file_decides() {
    let orphan = Orphan::new("file", FILE);
    let add = |namespace: &str, keys: &str| {
        call(&of_namespace("ADD", namespace), &orphan.configuration(keys)).map_err(|error| error["code"].as_u64())
    };
    assert_eq!(add("infra", ""), Ok(PREVIOUS.to_owned()));
    for namespace in ["shop", "tools", "new"] {
        assert_eq!(add(namespace, ""), Err(Some(11)), "{namespace}");
    }
    let pass = "\"whenAgentIsAway\":\"pass-known\",";
    assert_eq!(add("tools", pass), Ok(PREVIOUS.to_owned()));
    assert_eq!(add("shop", pass), Err(Some(11)));
    assert_eq!(add("new", "\"excludeNamespaces\":[\"new\"],"), Ok(PREVIOUS.to_owned()));
    assert_eq!(add("shop", "\"ownPods\":[\"shop/cart-\"],"), Ok(PREVIOUS.to_owned()));
    assert_eq!(add("shop", "\"whenAgentIsAway\":\"perhaps\","), Err(Some(6)));
    assert_eq!(add("shop", "\"namespacesFile\":\"relative\","), Err(Some(7)));
}

#[test]
fn an_agent_that_answers_is_not_overruled_by_its_file() {
    let orphan = Orphan::new("overruled", FILE);
    let agent = Agent::answering(vec![refusal(true), Response::Done]);
    let namespaces = format!(
        "\"namespacesFile\":\"{}\",\"name\"",
        orphan.folder.join("namespaces.json").display()
    );
    let input = agent.configuration("1.0.0").replace("\"name\"", &namespaces);
    assert_eq!(
        failure(&of_namespace("ADD", "infra"), &input).0,
        11,
        "refused, though excluded"
    );
    assert_eq!(call(&of_namespace("ADD", "shop"), &input).unwrap(), PREVIOUS);
    agent.asked();
}

#[test]
fn status_of_a_node_whose_agent_is_a_pod_itself_does_not_keep_that_pod_away() {
    let orphan = Orphan::new("status", FILE);
    let own = orphan.configuration("\"ownPods\":[\"mesh/isthmus-\"],");
    assert_eq!(call(&environment("STATUS"), &own).unwrap(), "");
    assert_eq!(failure(&environment("STATUS"), &orphan.configuration("")).0, 50);
}

// === DEL ===

#[test]
fn del_releases_the_pod() {
    let agent = Agent::answering(vec![Response::Done]);
    assert_eq!(call(&environment("DEL"), &agent.configuration("1.0.0")).unwrap(), "");
    let delete = Request::Delete {
        uid: "1f2e".to_owned(),
        netns: "/var/run/netns/cni-1".into(),
    };
    assert_eq!(agent.asked(), [delete]);
}

#[test]
fn del_of_one_interface_of_several_leaves_a_running_pod_enrolled() {
    let mut environment = environment("DEL");
    environment.interface = "net1".to_owned();
    // Nobody answers there, and nobody is asked.
    assert_eq!(call(&environment, &without_agent()).unwrap(), "");
    let agent = Agent::answering(Vec::new());
    assert_eq!(call(&environment, &agent.configuration("1.0.0")).unwrap(), "");
    assert_eq!(agent.asked(), []);
}

#[test]
fn del_without_add_succeeds() {
    // The agent holds no such pod, and says that nothing is left to do.
    let agent = Agent::answering(vec![Response::Done, Response::Done]);
    for _ in 0..2 {
        assert_eq!(call(&environment("DEL"), &agent.configuration("0.4.0")).unwrap(), "");
    }
    agent.asked();
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
    let agent = Agent::answering(vec![refusal(true)]);
    assert_eq!(failure(&environment("DEL"), &agent.configuration("1.0.0")).0, 11);
    agent.asked();
}

// === CHECK ===

#[test]
fn check_asks_the_agent_which_knows_whether_the_pod_is_to_be_enrolled() {
    for (answer, expected) in [
        (Response::Done, None),
        (refusal(false), Some(100)),
        (refusal(true), Some(11)),
        (Response::Status(Status::default()), Some(100)),
    ] {
        let agent = Agent::answering(vec![answer]);
        let ended = call(&environment("CHECK"), &agent.configuration("0.4.0"));
        assert_eq!(
            ended.as_ref().err().map(|error| error["code"].as_u64().unwrap()),
            expected,
            "{ended:?}"
        );
        assert_eq!(agent.asked(), [Request::Check(new_pod("1f2e"))]);
    }
    assert_eq!(failure(&environment("CHECK"), &without_agent()).0, 11);
    assert_eq!(failure(&environment("CHECK"), r#"{"cniVersion":"1.0.0"}"#).0, 7);
    assert_eq!(
        failure(&environment("CHECK"), &configuration("0.3.1", "/nonexistent")).0,
        1
    );
    let orphan = Orphan::new("check", FILE);
    assert_eq!(
        call(&of_namespace("CHECK", "infra"), &orphan.configuration("")).unwrap(),
        ""
    );
}

// === STATUS, GC ===

#[test]
fn status_tells_whether_pods_can_be_enrolled() {
    for (answer, expected) in [
        (Response::Done, None),
        (refusal(true), Some(50)),
        (Response::Status(Status::default()), Some(100)),
    ] {
        let agent = Agent::answering(vec![answer]);
        let ended = call(&environment("STATUS"), &agent.configuration("1.1.0"));
        assert_eq!(ended.err().map(|error| error["code"].as_u64().unwrap()), expected);
        assert_eq!(agent.asked(), [Request::Ready]);
    }
    assert_eq!(
        failure(&environment("STATUS"), &configuration("1.1.0", "/nonexistent")).0,
        50
    );
    assert_eq!(failure(&environment("STATUS"), &without_agent()).0, 1);
}

#[test]
fn gc_has_nothing_to_do() {
    let attachments = configuration("1.1.0", "/nonexistent").replace(
        "\"name\"",
        r#""cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}],"name""#,
    );
    assert_eq!(call(&environment("GC"), &attachments).unwrap(), "");
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
    for (version, command) in [
        ("", "ADD"),
        ("0.2.0", "ADD"),
        ("0.3.0", "DEL"),
        ("1.1", "GC"),
        ("2.0.0", "x"),
    ] {
        let (code, text) = failure(&environment(command), &configuration(version, "/s"));
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
