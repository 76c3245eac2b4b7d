/// What a command line asks for instead of serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `--help`.
    pub help: bool,
    /// `--print-config`.
    pub print_config: bool,
    /// `--output`.
    pub format: Format,
}

/// How the configuration is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Yaml,
    /// For programs.
    Json,
}

impl Format {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "yaml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}
