//! A first look at a text, before any of it is parsed: its size, its encoding, whether there is anything in it.

use std::io::{self, Read};

use super::LARGEST_FILE;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Looks at all of a text.
///
/// # Errors
/// When it cannot be read, is too large, is not UTF-8, or has nothing in it but space and comments.
pub(super) fn at(mut text: impl Read) -> Result<(), String> {
    let mut look = Look::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = match text.read(&mut buffer) {
            Ok(0) => return look.end(),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.to_string()),
        };
        look.take(buffer.get(..read).unwrap_or_default())?;
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Look {
    size: usize,
    /// Line ends.
    lines: usize,
    /// The beginning of a character that the last chunk cut.
    cut: Vec<u8>,
    /// Was there anything but space, comments and marks of documents?
    content: bool,
    /// The visible characters of the current line, as long as they might be no content.
    line: String,
}

impl Look {
    fn take(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.size += chunk.len();
        if self.size > LARGEST_FILE {
            return Err(format!("more than the {LARGEST_FILE} bytes a mesh file may have"));
        }
        let mut bytes = std::mem::take(&mut self.cut);
        bytes.extend_from_slice(chunk);
        let (text, rest) = match str::from_utf8(&bytes) {
            Ok(text) => (text, &[][..]),
            Err(error) => {
                let (valid, rest) = bytes.split_at_checked(error.valid_up_to()).unwrap_or_default();
                let text = str::from_utf8(valid).unwrap_or_default();
                if error.error_len().is_some() {
                    return Err(not_text(self.lines + line_ends(text)));
                }
                (text, rest)
            }
        };
        self.lines += line_ends(text);
        self.read(text);
        self.cut = rest.to_vec();
        Ok(())
    }

    fn read(&mut self, text: &str) {
        for character in text.chars() {
            if self.content {
                return;
            }
            if character == '\n' {
                self.line.clear();
            } else if !character.is_whitespace() && character != '\u{feff}' && !self.line.starts_with('#') {
                self.line.push(character);
                let no_content = |mark: &&str| mark.starts_with(&self.line);
                self.content = !["#", "---", "..."].iter().any(no_content);
            }
        }
    }

    fn end(self) -> Result<(), String> {
        if !self.cut.is_empty() {
            return Err(not_text(self.lines));
        }
        if !self.content {
            return Err("the file is empty; write `workloads: []` for a mesh without anything".to_owned());
        }
        Ok(())
    }
}

fn line_ends(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

fn not_text(lines_before: usize) -> String {
    format!("line {} is not UTF-8 text", lines_before + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a few bytes at a time, so that everything is cut somewhere.
    struct Slowly<'a>(&'a [u8]);

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(2);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn content_is_told_from_space_comments_and_marks() {
        for empty in ["", "\n \t\n", "# a: b\n---\n ... \n", "\u{feff}\n#"] {
            assert!(
                at(empty.as_bytes()).unwrap_err().starts_with("the file is empty"),
                "{empty:?}"
            );
            assert!(at(Slowly(empty.as_bytes())).is_err());
        }
        for full in ["a", "# a\nb: c", "--- {a: b}", "---\na: b", "\u{feff}a", "-", "...."] {
            let content = at(full.as_bytes()).is_ok();
            assert_eq!(content, full != "-", "{full:?}");
            assert_eq!(at(Slowly(full.as_bytes())).is_ok(), content);
        }
    }

    #[test]
    fn what_is_no_text_is_told_by_its_line_wherever_it_is_cut() {
        for (bytes, line) in [(&b"a\n\xff"[..], 2), (b"a\nb\n\xc3", 3), (b"\xc3(\n", 1)] {
            let expected = Err(format!("line {line} is not UTF-8 text"));
            assert_eq!(at(bytes), expected);
            assert_eq!(at(Slowly(bytes)), expected);
        }
        assert_eq!(at(Slowly("a: \u{1f600}é".as_bytes())), Ok(()));
    }
}
