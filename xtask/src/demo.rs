//! `cargo xtask demo`: two networks, one mesh, real traffic.

use clap::Args;

use crate::{
    Failure, Step, Tree, build, machine,
    setup::{self, Purpose},
};

/// Sets up, builds and shows two networks in one mesh, with unmodified programs in network namespaces.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Given to the demo as they are: --istiod shows two clusters with an istiod each, --keep leaves the world up, --sweep
    /// removes it; `-- --help` lists all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Demo {
    /// Runs the demo.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        need_root("demo")?;
        let mut purposes = vec![Purpose::Build, Purpose::Lab];
        if self.arguments.iter().any(|argument| argument == "--istiod") {
            purposes.push(Purpose::ControlPlane);
        }
        setup::prepare(tree, &purposes)?;
        build::build(tree)?;
        build::build_lab(tree)?;
        let mut cargo = tree.cargo();
        cargo
            .args([
                "run",
                "--quiet",
                "--release",
                "--package=isthmus-tests",
                "--bin=demo",
                "--",
            ])
            .args(&self.arguments);
        Step::new("demo", cargo).shown()
    }
}

/// The lab makes network namespaces and loads eBPF programs.
pub(crate) fn need_root(verb: &str) -> Result<(), Failure> {
    if machine::is_root() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "`{verb}` makes network namespaces and loads eBPF programs; run `sudo -E env PATH=\"$PATH\" cargo xtask {verb}`"
    )))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Demo;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        demo: Demo,
    }

    #[test]
    fn options_of_the_demo_pass_through() {
        let arguments = |line: &[&str]| Line::parse_from([&["demo"], line].concat()).demo.arguments;
        assert_eq!(arguments(&[]), [""; 0]);
        assert_eq!(arguments(&["--keep", "--seconds", "2"]), ["--keep", "--seconds", "2"]);
        assert_eq!(arguments(&["--", "--help"]), ["--help"]);
    }
}
