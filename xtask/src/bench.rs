//! `cargo xtask bench`: ours, raw TCP and a plain relay, measured in one run.

use clap::Args;

use crate::{
    Failure, Step, Tree, build,
    demo::need_root,
    setup::{self, Purpose},
};

/// Sets up, builds and measures the agent beside raw TCP and a plain relay, with unmodified load in network namespaces.
///
/// docs/bench.md tells what the rows are and how to read them.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Given to the bench as they are: --rows NAME,..., --quick, --json FILE, --compare FILE; `-- --help` lists all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

impl Bench {
    /// Measures.
    pub(crate) fn run(&self, tree: &Tree) -> Result<(), Failure> {
        need_root("bench")?;
        setup::prepare(tree, &[Purpose::Build, Purpose::Lab])?;
        build::build(tree)?;
        build::build_bench(tree)?;
        let mut bench = std::process::Command::new(tree.target("release/bench"));
        bench.args(&self.arguments);
        Step::new("bench", bench).shown()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::Bench;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    #[test]
    fn options_of_the_bench_pass_through() {
        let arguments = |line: &[&str]| Line::parse_from([&["bench"], line].concat()).bench.arguments;
        assert_eq!(arguments(&[]), [""; 0]);
        assert_eq!(
            arguments(&["--rows", "bulk", "--json", "new.json"]),
            ["--rows", "bulk", "--json", "new.json"]
        );
        assert_eq!(arguments(&["--", "--help"]), ["--help"]);
    }
}
