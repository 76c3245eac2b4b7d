//! Real clusters for the lab: Kubernetes' programs, istiod and istioctl, built from the modules that
//! tests/control-plane/ pins, into target/control-plane/DIGEST.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Failure, Step, Tree, tree::in_path};

/// Folder of a module below tests/control-plane, package, and what its program is called.
const PROGRAMS: [(&str, &str, &str); 9] = [
    ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
    ("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
    (
        "kubernetes",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "kube-controller-manager",
    ),
    ("kubernetes", "k8s.io/kubernetes/cmd/kubelet", "kubelet"),
    ("kubernetes", "k8s.io/kubernetes/cmd/kubectl", "kubectl"),
    ("istio", "istio.io/istio/pilot/cmd/pilot-discovery", "pilot-discovery"),
    ("istio", "istio.io/istio/istioctl/cmd/istioctl", "istioctl"),
    // What nodes are taken over from.
    ("istio", "istio.io/istio/cni/cmd/install-cni", "install-cni"),
    ("istio", "istio.io/istio/cni/cmd/istio-cni", "istio-cni"),
];

/// Manifests of custom resources: module, file or folder in it, and what they are called here.
const MANIFESTS: [(&str, &str, &str); 2] = [
    (
        "istio.io/istio",
        "manifests/charts/base/files/crd-all.gen.yaml",
        "istio-crds.yaml",
    ),
    ("sigs.k8s.io/gateway-api", "config/crd/standard", "gateway-crds.yaml"),
];

/// The chart of istio-cni: where the module has it, and what it is called here.
const CHART: (&str, &str, &str) = ("istio.io/istio", "manifests/charts/istio-cni", "istio-cni-chart");

/// A file beside the built folders, which names the one to be used.
const CURRENT: &str = "current";

/// The oldest Go that fetches the one which a module asks for by itself (`go help toolchain`).
const OLDEST_GO: (u32, u32) = (1, 21);

/// Where Go keeps itself when it did not come from a package.
const GO_HOMES: [&str; 2] = ["/usr/local/go/bin/go", "/usr/lib/go/bin/go"];

/// Builds what is not there.
pub(crate) fn build(tree: &Tree) -> Result<(), Failure> {
    let home = home(tree)?;
    fs::create_dir_all(&home).map_err(|cause| Failure::io("making", &home, &cause))?;
    for (module, package, program) in PROGRAMS {
        if !home.join(program).is_file() {
            compile(tree, &home, module, package, program)?;
        }
    }
    for (module, source, name) in MANIFESTS {
        if !home.join(name).is_file() {
            let folder = module_folder(tree, module)?;
            let text = documents(&folder.join(source))?;
            place(&home, name, |path| fs::write(path, &text))?;
        }
    }
    let (module, source, name) = CHART;
    if !home.join(name).is_dir() {
        let folder = module_folder(tree, module)?.join(source);
        place(&home, name, |path| copy(&folder, path))?;
    }
    let name = home.file_name().unwrap_or_default().to_string_lossy().into_owned();
    place(&tree.target("control-plane"), CURRENT, |path| fs::write(path, &name))
}

/// Where they are, once built.
pub(crate) fn home(tree: &Tree) -> Result<PathBuf, Failure> {
    Ok(tree.target("control-plane").join(digest(tree)?))
}

/// Debian's packages that are missing for it. Go itself is needed for building only.
pub(crate) fn lacks(tree: &Tree) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if in_path("etcd").is_none() {
        missing.push("etcd-server");
    }
    let is_built = home(tree).is_ok_and(|home| {
        PROGRAMS.iter().all(|(_, _, program)| home.join(program).is_file())
            && MANIFESTS.iter().all(|(_, _, name)| home.join(name).is_file())
            && home.join(CHART.2).is_dir()
    });
    if !is_built && found_go().next().is_none() {
        missing.push("golang-go");
    }
    missing
}

/// A digest of what is pinned: another version is another folder.
fn digest(tree: &Tree) -> Result<String, Failure> {
    // Its keys are constants (std::hash), so it is the same in every run of one toolchain; another toolchain builds anew.
    let mut hasher = DefaultHasher::new();
    hash_pins(tree, &["kubernetes", "istio"], &mut hasher)?;
    (PROGRAMS, MANIFESTS, CHART).hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

/// Takes in what modules below tests/control-plane pin.
pub(crate) fn hash_pins(tree: &Tree, modules: &[&str], hasher: &mut DefaultHasher) -> Result<(), Failure> {
    for module in modules {
        for file in ["go.mod", "go.sum"] {
            let path = tree.path("tests/control-plane").join(module).join(file);
            let text = fs::read(&path).map_err(|cause| Failure::io("reading", &path, &cause))?;
            text.hash(hasher);
        }
    }
    Ok(())
}

/// Builds `package` of a module below tests/control-plane as `home/program`.
pub(crate) fn compile(tree: &Tree, home: &Path, module: &str, package: &str, program: &str) -> Result<(), Failure> {
    let go = need_go(tree)?;
    let scratch = home.join(format!("{program}.building"));
    let mut build = Command::new("nice");
    build
        .arg(&go)
        .args(["build", "-p", "2", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(&scratch)
        .arg(package);
    set(&mut build, tree, module);
    Step::new(format!("building {program}"), build).quiet(tree)?;
    place(home, program, |path| fs::rename(&scratch, path))
}

/// Where Go has put the sources of a module that the istio one needs.
pub(crate) fn module_folder(tree: &Tree, module: &str) -> Result<PathBuf, Failure> {
    let mut list = Command::new(need_go(tree)?);
    list.args(["mod", "download", "-json", module]);
    set(&mut list, tree, "istio");
    let output = list
        .stderr(Stdio::inherit())
        .output()
        .map_err(|cause| Failure::new(format!("starting go: {cause}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    folder_in(&text).ok_or_else(|| Failure::new(format!("go did not tell where {module} is: {}", text.trim())))
}

/// All YAML of a file, or of the files of a folder one after the other.
fn documents(source: &Path) -> Result<String, Failure> {
    let read = |path: &PathBuf| fs::read_to_string(path).map_err(|cause| Failure::io("reading", path, &cause));
    if source.is_file() {
        return read(&source.to_owned());
    }
    let mut text = String::new();
    for path in crate::tree::files(source, "yaml")? {
        text = text + "---\n" + &read(&path)? + "\n";
    }
    Ok(text)
}

/// Copies a folder and all in it; what was there is replaced.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (from, to) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            // Its mode is not taken along: in the module cache nothing may be written.
            fs::write(&to, fs::read(&from)?)?;
        }
    }
    Ok(())
}

/// Makes a file beside its place and moves it there in one step, so that what is there is whole.
pub(crate) fn place(home: &Path, name: &str, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Failure> {
    let (fresh, path) = (home.join(format!("{name}.fresh")), home.join(name));
    make(&fresh).map_err(|cause| Failure::io("writing", &fresh, &cause))?;
    fs::rename(&fresh, &path).map_err(|cause| Failure::io("placing", &path, &cause))
}

fn set(command: &mut Command, tree: &Tree, module: &str) {
    command
        .current_dir(tree.path("tests/control-plane").join(module))
        // The modules ask for a Go newer than most distributions have; Go fetches it.
        .envs([
            ("CGO_ENABLED", "0"),
            ("GOTOOLCHAIN", "auto"),
            ("GOFLAGS", "-buildvcs=false"),
        ]);
}

/// A Go that can build the modules. Debian's may be too old for that, but not for fetching a newer one.
fn need_go(tree: &Tree) -> Result<PathBuf, Failure> {
    if let Some(go) = found_go().find(|go| is_new_enough(&answer(go, &["env", "GOVERSION"]))) {
        return Ok(go);
    }
    let old = found_go().next().ok_or_else(|| {
        Failure::new("the lab's control plane is built with Go: install it (Debian: apt-get install golang-go)")
    })?;
    let toolchain = toolchain(tree)?;
    let home = folder_in(&answer(&old, &["mod", "download", "-json", &toolchain]))
        .ok_or_else(|| Failure::new(format!("{} could not fetch {toolchain}", old.display())))?;
    let go = home.join("bin/go");
    if !is_new_enough(&answer(&go, &["env", "GOVERSION"])) {
        println!("    fetched {toolchain}");
        make_executable(&home)?;
    }
    Ok(go)
}

/// Any Go, in `PATH` or where its own archive puts it.
pub(crate) fn found_go() -> impl Iterator<Item = PathBuf> {
    let homes = GO_HOMES.map(PathBuf::from).into_iter().filter(|path| path.is_file());
    in_path("go").into_iter().chain(homes)
}

/// What it prints, by itself and outside of any module; empty when it fails.
fn answer(go: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(go);
    command.args(arguments).current_dir("/").env("GOTOOLCHAIN", "local");
    let output = command.stderr(Stdio::null()).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// The module that holds the Go which the modules ask for (https://go.dev/doc/toolchain#download).
fn toolchain(tree: &Tree) -> Result<String, Failure> {
    let path = tree.path("tests/control-plane/istio/go.mod");
    let text = fs::read_to_string(&path).map_err(|cause| Failure::io("reading", &path, &cause))?;
    let version = text.lines().find_map(|line| line.strip_prefix("go "));
    let version = version.ok_or_else(|| Failure::new(format!("{} names no version of Go", path.display())))?;
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Ok(format!("golang.org/toolchain@v0.0.1-go{version}.linux-{machine}"))
}

/// A module's files are not executable; those of this one must be.
fn make_executable(home: &Path) -> Result<(), Failure> {
    let mut chmod = Command::new("chmod");
    chmod
        .args(["-R", "a+x"])
        .arg(home.join("bin"))
        .arg(home.join("pkg/tool"));
    match chmod.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::new(format!("cannot make {} executable", home.display()))),
    }
}

/// The folder in what `go mod download -json` tells: one field of a flat object, whose value is a path that Go made.
fn folder_in(told: &str) -> Option<PathBuf> {
    let folder = |line: &str| Some(line.trim().strip_prefix("\"Dir\": \"")?.split('"').next()?.into());
    told.lines().find_map(folder)
}

/// Of `go1.26.8` and the like.
fn is_new_enough(version: &str) -> bool {
    let numbers = version.trim().strip_prefix("go").unwrap_or_default();
    let mut numbers = numbers.split('.').map_while(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) >= OLDEST_GO)
}

#[cfg(test)]
mod tests {
    use super::{folder_in, is_new_enough};

    #[test]
    fn the_folder_of_a_module_is_found_in_what_go_tells() {
        let told = "{\n\t\"Path\": \"istio.io/istio\",\n\t\"Dir\": \"/root/go/pkg/mod/istio.io/istio@v0\",\n}";
        assert_eq!(folder_in(told), Some("/root/go/pkg/mod/istio.io/istio@v0".into()));
        assert_eq!(folder_in("go: module not found"), None);
    }

    #[test]
    fn a_go_that_cannot_fetch_a_newer_one_is_too_old() {
        for version in ["go1.21.0", "go1.26.8\n", "go2.0"] {
            assert!(is_new_enough(version), "{version}");
        }
        for version in ["go1.19.8", "go1.9", "", "devel", "go1"] {
            assert!(!is_new_enough(version), "{version}");
        }
    }
}
