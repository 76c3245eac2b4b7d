use std::fmt;

/// Everything that is wrong with a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

/// One mistake: where, what stands there, what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The flag or variable.
    pub place: String,
    /// What stands there; nothing where it is missing or secret.
    pub value: Option<String>,
    /// What is wrong, and what would be right.
    pub why: String,
    /// A name that was probably meant.
    pub meant: Option<String>,
}

impl Mistakes {
    /// Adds one.
    pub fn add(&mut self, mistake: Mistake) {
        self.0.push(mistake);
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order of finding.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl Mistake {
    /// `place` stands for the flag or the variable as it was given.
    pub fn new(place: impl Into<String>, value: Option<&str>, why: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            value: value.map(str::to_owned),
            why: why.into(),
            meant: None,
        }
    }

    /// With a name that was probably meant.
    #[must_use]
    pub fn meaning(self, meant: Option<impl Into<String>>) -> Self {
        Self {
            meant: meant.map(Into::into),
            ..self
        }
    }
}

/// In one line, however the value looks.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Longer ones are cut: certificates and YAML are values too.
        const SHOWN: usize = 80;
        write!(f, "{}", self.place.escape_debug())?;
        if let Some(value) = &self.value {
            let shown: String = value.chars().take(SHOWN).collect();
            let cut = if shown.len() < value.len() { "…" } else { "" };
            write!(f, " {shown:?}{cut}")?;
        }
        write!(f, ": {}", self.why)?;
        match &self.meant {
            Some(meant) => write!(f, "; did you mean {meant}?"),
            None => Ok(()),
        }
    }
}

/// One in a line.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
