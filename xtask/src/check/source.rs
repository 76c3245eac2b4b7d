//! Rust source as words and signs, without comments and literals: enough for checks that read no types.

/// A word or a sign, and the line it stands on (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) text: String,
}

/// Splits source into tokens. Every sign is a token of its own, so `::` is two. Source that does not compile gives
/// some tokens, never an error: the compiler is the judge of that.
pub(super) fn tokens(source: &str) -> Vec<Token> {
    let mut reader = Reader { rest: source, line: 1 };
    let mut found = Vec::new();
    while let Some(next) = reader.rest.chars().next() {
        let line = reader.line;
        if reader.rest.starts_with("//") {
            reader.take_while(|c| c != '\n');
        } else if reader.rest.starts_with("/*") {
            reader.skip_block_comment();
        } else if next == '"' {
            reader.skip_string();
        } else if next == '\'' {
            reader.skip_quote();
        } else if let Some(hashes) = raw_string(reader.rest) {
            reader.skip_raw_string(hashes);
        } else if next.is_alphanumeric() || next == '_' {
            let word = reader.take_while(|c| c.is_alphanumeric() || c == '_');
            found.push(Token {
                line,
                text: word.to_owned(),
            });
        } else {
            reader.skip(next.len_utf8());
            if !next.is_whitespace() {
                found.push(Token {
                    line,
                    text: next.to_string(),
                });
            }
        }
    }
    found
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn skip(&mut self, bytes: usize) -> &'a str {
        let (passed, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.line += passed.matches('\n').count();
        self.rest = rest;
        passed
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        self.skip(end)
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0_usize;
        while !self.rest.is_empty() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return;
                }
            } else {
                self.skip(self.rest.chars().next().map_or(1, char::len_utf8));
            }
        }
    }

    fn skip_string(&mut self) {
        self.skip(1);
        while let Some(next) = self.rest.chars().next() {
            if next == '\\' {
                self.skip(1);
            }
            self.skip(self.rest.chars().next().map_or(1, char::len_utf8));
            if next == '"' {
                return;
            }
        }
    }

    fn skip_raw_string(&mut self, hashes: usize) {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = self.rest.find('"').map_or(self.rest.len(), |quote| quote + 1);
        self.skip(start);
        let length = self.rest.find(&end).map_or(self.rest.len(), |at| at + end.len());
        self.skip(length);
    }

    /// A character, or the quote of a lifetime whose name is then read as a word.
    fn skip_quote(&mut self) {
        let mut after = self.rest.chars().skip(1);
        let first = after.next();
        if first == Some('\\') {
            self.skip(3);
            self.take_while(|c| c != '\'');
            self.skip(1);
        } else if after.next() == Some('\'') {
            self.skip(2 + first.map_or(1, char::len_utf8));
        } else {
            self.skip(1);
        }
    }
}

/// Number of `#` of a raw string (also of bytes or C) that starts here.
fn raw_string(rest: &str) -> Option<usize> {
    let rest = rest.strip_prefix(['b', 'c']).unwrap_or(rest).strip_prefix('r')?;
    let hashes = rest.find(|c| c != '#')?;
    rest.get(hashes..)?.starts_with('"').then_some(hashes)
}

#[cfg(test)]
mod tests {
    use super::tokens;

    fn words(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_are_no_tokens() {
        assert_eq!(words("a // unsafe\n/* unsafe /* unsafe */ unsafe */ b"), ["a", "b"]);
        assert_eq!(
            words(r#"a("unsafe \" unsafe", 'u', '\'', '\u{1F}', '\\') b"#),
            words("a(,,,,) b")
        );
        assert_eq!(
            words("a(r#\"unsafe \" unsafe\"#, br\"unsafe\\\", b\"unsafe\") b"),
            ["a", "(", ",", ",", "b", ")", "b"]
        );
    }

    #[test]
    fn lifetimes_and_raw_names_are_words() {
        assert_eq!(
            words("fn f<'a>(x: &'a str)"),
            ["fn", "f", "<", "a", ">", "(", "x", ":", "&", "a", "str", ")"]
        );
        assert_eq!(words("r#type"), ["r", "#", "type"]);
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let found = tokens("a\n\"two\nlines\" /*\n*/ b\n'\\n' c");
        assert_eq!(found.iter().map(|token| token.line).collect::<Vec<_>>(), [1, 4, 5]);
    }

    #[test]
    fn unfinished_source_ends() {
        for source in ["\"", "\"\\", "/*", "/* é", "'", "'\\", "r#\"", "r#", "'é"] {
            tokens(source);
        }
    }
}
