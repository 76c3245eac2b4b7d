//! A mesh file that is wrong: what served before serves on, and the error says where to look.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use isthmus_tests::{Because as _, Result, agent::AgentOptions, log::field, roundtrip, scene::OneNetwork, within};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);

/// A scene, its mesh file and the text of that.
fn scene() -> Result<(OneNetwork, PathBuf, String)> {
    let scene = OneNetwork::start("meshfile")?;
    let path = scene.lab.mesh(|mesh| mesh.path().to_owned());
    let text = fs::read_to_string(&path)?;
    Ok((scene, path, text))
}

/// The old state serves on: the client still knows the server as one to be reached by a tunnel.
fn serves_on(scene: &OneNetwork) -> Result {
    let [near, far] = &scene.agents;
    let _echo = scene.server.echo(PORT)?;
    let mark = far.log().mark();
    let mut stream = scene.client.connect(scene.server.at(PORT))?;
    roundtrip(&mut stream, b"as before")?;
    drop(stream);
    far.wait_access(mark, "inbound", |line| {
        field(line, "src.identity") == scene.client.identity()
    })?;
    let sizes = scene.lab.mesh(|mesh| mesh.sizes());
    assert_eq!(near.status()?.mesh_size, sizes);
    Ok(())
}

/// Both agents' status and log, and `isthmus mesh check`, say all of these words.
fn says(scene: &OneNetwork, path: &PathBuf, mark: usize, words: &[&str]) -> Result {
    for agent in &scene.agents {
        let said = within(SOON, "the status tells the error", || {
            agent
                .status()
                .ok()
                .map(|status| status.mesh)
                .filter(|mesh| mesh != "ok")
        })?;
        let mut last = said;
        within(SOON, &format!("the status says {words:?}; last it said {last}"), || {
            last = agent.status().ok()?.mesh;
            words.iter().all(|word| last.contains(word)).then_some(())
        })
        .because(&last)?;
    }
    let [near, _] = &scene.agents;
    near.wait_log(mark, |line| {
        words
            .iter()
            .all(|word| line.to_string().replace("\\\"", "\"").contains(word))
    })?;
    let checked = Command::new(scene.lab.binary())
        .args(["mesh", "check"])
        .arg(path)
        .output()?;
    assert!(!checked.status.success());
    let text = String::from_utf8_lossy(&checked.stderr) + String::from_utf8_lossy(&checked.stdout);
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
    Ok(())
}

/// After the file is well again all is as it was.
fn heals(scene: &OneNetwork, text: &str) -> Result {
    scene.lab.mesh(|mesh| mesh.write_text(text))?;
    for agent in &scene.agents {
        within(SOON, "the mesh is ok again", || {
            agent.status().ok().filter(|status| status.mesh == "ok")
        })?;
    }
    Ok(())
}

/// The number of the first line that contains `what`, from 1.
fn line_of(text: &str, what: &str) -> Result<usize> {
    Ok(text
        .lines()
        .position(|line| line.contains(what))
        .because(format!("{what:?} is in the file"))?
        + 1)
}

#[test]
fn a_file_that_goes_missing_leaves_the_old_state_and_is_named() -> Result {
    let (scene, path, text) = scene()?;
    let mark = scene.agents[0].log().mark();
    fs::remove_file(&path)?;
    says(&scene, &path, mark, &[&path.display().to_string()])?;
    serves_on(&scene)?;
    heals(&scene, &text)
}

#[test]
fn a_malformed_value_leaves_the_old_state_and_is_named_with_line_and_field() -> Result {
    let (scene, path, text) = scene()?;
    let file = path.display().to_string();
    for (right, wrong, field) in [
        ("protocol: \"HBONE\"", "protocol: \"CARRIER-PIGEON\"", "protocol"),
        (
            &format!("- \"{}\"", scene.client.ip()),
            "- \"10.1.1.999\"",
            "workloadIps",
        ),
        (
            "serviceAccount: \"client\"",
            "servceAccount: \"client\"",
            "servceAccount",
        ),
    ] {
        let broken = text.replacen(right, wrong, 1);
        assert_ne!(broken, text, "{right} is in the file:\n{text}");
        let place = format!("{file}:{}:", line_of(&broken, wrong)?);
        let mark = scene.agents[0].log().mark();
        scene.lab.mesh(|mesh| mesh.write_text(&broken))?;
        says(&scene, &path, mark, &[&place, field])?;
        serves_on(&scene)?;
        heals(&scene, &text)?;
    }
    Ok(())
}

#[test]
fn a_half_written_file_leaves_the_old_state_and_is_named() -> Result {
    let (scene, path, text) = scene()?;
    // In the middle of a quoted word, as a full disk leaves it; and not even begun.
    let cut = text.find("\"server\"").because("the server is in the file")? + 4;
    let mark = scene.agents[0].log().mark();
    fs::write(&path, text.get(..cut).unwrap_or_default())?;
    let place = format!("{}:{}:", path.display(), line_of(&text, "\"server\"")?);
    says(&scene, &path, mark, &[&place])?;
    serves_on(&scene)?;
    fs::write(&path, "")?;
    says(&scene, &path, mark, &[&path.display().to_string(), "empty"])?;
    serves_on(&scene)?;
    heals(&scene, &text)
}

#[test]
fn a_file_that_contradicts_itself_leaves_the_old_state_and_names_both_places() -> Result {
    let (scene, path, text) = scene()?;
    let file = path.display().to_string();
    // Two workloads with one address.
    let (client, neighbour) = (scene.client.ip().to_string(), scene.neighbour.ip().to_string());
    let broken = text.replacen(&format!("\"{neighbour}\""), &format!("\"{client}\""), 1);
    assert_ne!(broken, text);
    let lines: Vec<usize> = broken
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains(&format!("\"{client}\"")))
        .map(|(index, _)| index + 1)
        .collect();
    let [first, second] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    let mark = scene.agents[0].log().mark();
    scene.lab.mesh(|mesh| mesh.write_text(&broken))?;
    says(
        &scene,
        &path,
        mark,
        &[
            &file,
            &format!(":{second}:"),
            &format!("{first}:"),
            "workloadIps",
            &client,
        ],
    )?;
    serves_on(&scene)?;
    heals(&scene, &text)
}

#[test]
fn an_agent_started_with_a_broken_file_says_so_and_serves_when_it_is_mended() -> Result {
    let scene = OneNetwork::not_enrolled("meshfile", &AgentOptions::default())?;
    let (path, text) = scene.lab.mesh(|mesh| (mesh.path().to_owned(), mesh.text()));
    let node = scene.network.node("node3")?;
    let pod = node.pod("late").start()?;
    scene.lab.publish()?;
    let broken = text.replacen("protocol: \"HBONE\"", "protocol: 7", 1);
    fs::write(&path, broken)?;
    let mut command = node.netns().command("env");
    command
        .arg(scene.lab.binary())
        .args(["run", "--node", "node3", "--network", "net1", "--mesh"])
        .arg(&path);
    command
        .arg("--embedded-ca")
        .arg(scene.lab.authority().dir())
        .arg("--run-dir")
        .arg(node.run_dir());
    command
        .arg("--bpffs")
        .arg(node.pins().parent().because("pins have a parent")?);
    command
        .arg("--node-netns")
        .arg(node.netns().path())
        .args(["--log-format", "json"]);
    let mut agent = scene.lab.start("agent-with-broken-file", command)?;
    agent.errors().wait_from(0, Duration::from_secs(10), |line| {
        let line = line.to_string();
        line.contains(&path.display().to_string()) && line.contains("protocol")
    })?;
    if !agent.runs() {
        // Refusing to start is an honest answer too; what must not happen is to serve with an empty mesh.
        assert!(!agent.wait(SOON)?.success());
        return Ok(());
    }
    scene.lab.publish()?;
    let served = within(Duration::from_secs(10), "the mended file is served", || {
        let status = isthmus_wire::ask(&node.socket(), &isthmus_wire::Request::Status, SOON).ok()?;
        let isthmus_wire::Response::Status(status) = status else {
            return None;
        };
        (status.mesh == "ok").then_some(())
    });
    agent.signal(nix::sys::signal::Signal::SIGTERM)?;
    agent.wait(Duration::from_secs(10))?;
    drop(pod);
    served
}
