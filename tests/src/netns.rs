//! A named network namespace that goes when it is dropped.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns};

use crate::{
    failure::{Because as _, Failure, Result},
    process::answer,
};

/// Where `ip netns` keeps names.
pub const DIRECTORY: &str = "/run/netns";

/// A network namespace under a name.
#[derive(Debug)]
pub struct Netns {
    name: String,
    keep: bool,
}

impl Netns {
    /// Makes a namespace with loopback up. With `keep` it outlives this handle.
    pub fn create(name: &str, keep: bool) -> Result<Self> {
        ip(&[], &format!("netns add {name}\n"))?;
        let netns = Self {
            name: name.to_owned(),
            keep,
        };
        // A router whose link-local address is still on trial as a duplicate asks for no neighbour, and so loses the
        // first seconds of what it forwards.
        netns.sysctl(&[
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/dad_transmits", "0"),
        ])?;
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    /// Its name for `ip -n`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path for `nsenter --net=` and for the agent.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Its inode number, by which the kernel knows it.
    pub fn inode(&self) -> Result<u64> {
        Ok(fs::metadata(self.path())
            .because(format!("looking at {}", self.path().display()))?
            .ino())
    }

    /// Runs lines of `ip -batch` inside.
    pub fn ip(&self, batch: &str) -> Result {
        ip(&["-n", &self.name], batch)
    }

    /// What one `ip` command prints inside, for example `ip rule`.
    pub fn ip_output(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments)
            .output()
            .because("running ip")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!(
                "ip -n {} {}: {}",
                self.name,
                arguments.join(" "),
                said.trim()
            )));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A command that will run inside. `/sys` and the cgroup tree stay the node's, which `ip netns exec` would hide.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a program inside to its end, given this on its standard input, and answers what it writes.
    #[track_caller]
    pub fn output(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        answer(self.command(program).args(arguments), input)
            .because(format!("{program} {}, given\n{input}", arguments.join(" ")))
    }

    /// Whether a process is in it.
    pub fn is_of(&self, pid: u32) -> bool {
        let of_process = fs::metadata(format!("/proc/{pid}/ns/net"));
        let own = fs::metadata(self.path());
        matches!((of_process, own), (Ok(process), Ok(own)) if process.ino() == own.ino())
    }

    /// Runs `inside` on a thread of its own that has entered the namespace. Sockets made there stay there.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let door = File::open(&path).because(format!("opening {}", path.display()))?;
        let ended = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&door, CloneFlags::CLONE_NEWNET).because(format!("entering {}", path.display()))?;
                    Ok(inside())
                })
                .join()
        });
        ended.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Writes values under `/proc/sys/net` of the namespace, for example `("ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result {
        self.enter(|| {
            values.iter().try_for_each(|(key, value)| {
                fs::write(format!("/proc/sys/net/{key}"), value).because(format!("setting net/{key}"))
            })
        })?
    }

    /// Forwards IPv4 and IPv6 and sends no redirects: a router.
    pub fn route_packets(&self) -> Result {
        self.sysctl(&[
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
        ])
    }

    /// Takes its name away. The namespace itself lives on while a process or socket is in it.
    pub fn delete(&self) -> Result {
        ip(&[], &format!("netns del {}\n", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep
            && self.path().exists()
            && let Err(failure) = self.delete()
        {
            eprintln!("lab: {failure}");
        }
    }
}

/// Runs `ip ARGUMENTS -batch -`.
pub fn ip(arguments: &[&str], batch: &str) -> Result {
    let mut child = Command::new("ip")
        .args(arguments)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .because("starting ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes()).because("writing to ip")?;
    }
    let output = child.wait_with_output().because("waiting for ip")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!(
        "ip {} said: {}\nof:\n{batch}",
        arguments.join(" "),
        said.trim()
    )))
}
