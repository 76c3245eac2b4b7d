use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    asked::Format,
    given::{Given, Note, Source},
    reader::Effective,
    settings::settings_of,
    variables::{Treatment, VARIABLES},
    verb::Verb,
};

/// The configuration as it holds, with the place of every value. Secrets are not in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Printed {
    /// By flag.
    settings: Map<String, Value>,
    /// Names of headers to istiod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xds_headers: Vec<String>,
    /// Names of headers to the CA.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ca_headers: Vec<String>,
    /// Node metadata for istiod.
    #[serde(skip_serializing_if = "Map::is_empty")]
    node_metadata: Map<String, Value>,
    /// Variables that change nothing here, and why.
    #[serde(skip_serializing_if = "Map::is_empty")]
    ignored: Map<String, Value>,
}

impl Printed {
    pub(super) fn new(effective: &[Effective], given: &Given) -> Self {
        let place = |source: &Source| match source {
            Source::Default => "default".to_owned(),
            Source::Flag => "flag".to_owned(),
            Source::Variable(name) => name.clone(),
        };
        let entry = |setting: &Effective| {
            let told = json!({ "value": setting.value, "from": place(&setting.source) });
            (setting.flag.to_owned(), told)
        };
        let ignored = given.notes.iter().filter_map(|note| match note {
            Note::Ignored { variable, why } => Some((variable.clone(), Value::from(*why))),
            Note::Unknown { .. } => None,
        });
        Self {
            settings: effective.iter().map(entry).collect(),
            xds_headers: given.xds_headers.keys().cloned().collect(),
            ca_headers: given.ca_headers.keys().cloned().collect(),
            node_metadata: given.metadata.clone().into_iter().collect(),
            ignored: ignored.collect(),
        }
    }

    /// As text.
    ///
    /// # Errors
    /// When a value has no place in the format, which none has.
    pub fn text(&self, format: Format) -> Result<String, String> {
        match format {
            Format::Yaml => serde_saphyr::to_string(self).map_err(|error| error.to_string()),
            Format::Json => serde_json::to_string_pretty(self).map_err(|error| error.to_string()),
        }
    }
}

/// `isthmus run --help`.
#[must_use]
pub fn help(verb: Verb) -> String {
    let mut text = match verb {
        Verb::Run => "Serve the pods of this node. Ends on SIGTERM; pods stay guarded.\n".to_owned(),
        Verb::Gateway => "Serve as the east-west gateway of a network. Ends on SIGTERM.\n".to_owned(),
    };
    text += &format!("\nUsage: isthmus {} [--FLAG VALUE]...\n\n", verb.word());
    text += "Every flag has a variable; the flag comes first. docs/configuration.md tells more.\n\n";
    for setting in settings_of(verb) {
        let default = match setting.default {
            super::Fallback::Value("") => "empty",
            super::Fallback::Value(text) | super::Fallback::Unset(text) => text,
        };
        text += &format!(
            "  --{} <{}>\n      {}\n      [{}] [default: {default}]\n",
            setting.flag,
            setting.kind.unit(),
            setting.meaning,
            setting.variable
        );
    }
    text += "  --print-config\n      Print the configuration that would hold, and where each value stands, and end.\n";
    text += "  -o, --output <yaml, json>\n      How --print-config writes. [default: yaml]\n";
    text += "  -h, --help\n      Print this.\n";
    text
}

/// The tables of docs/configuration.md: settings, then variables, each a line.
#[must_use]
pub fn tables() -> (Vec<String>, Vec<String>) {
    let cell = |text: &str| text.replace('|', "\\|");
    let settings = super::settings::settings().map(|setting| {
        let default = match setting.default {
            super::Fallback::Value("") => "empty".to_owned(),
            super::Fallback::Value(text) => format!("`{text}`"),
            super::Fallback::Unset(text) => text.to_owned(),
        };
        let only = setting
            .only
            .map_or(String::new(), |verb| format!(" ({} only)", verb.word()));
        format!(
            "| `--{}`{only} | `{}` | {default} | {} | {} |",
            setting.flag,
            setting.variable,
            setting.kind.unit(),
            cell(setting.meaning)
        )
    });
    let variables = VARIABLES.iter().map(|variable| {
        let told = match variable.treatment {
            Treatment::Sets(flag) => format!("`--{flag}`"),
            Treatment::Mapped(how) => format!("mapped: {how}"),
            Treatment::Ignored(why) => format!("ignored: {why}"),
            Treatment::Only(values, why) => format!("only `{}`: {why}", values.join("`, `")),
            Treatment::Refused(why) => format!("refused: {why}"),
        };
        format!("| `{}` | {} |", variable.name, cell(&told))
    });
    (settings.collect(), variables.collect())
}
