//! The query of a URL.

/// Keys and values of a query, in their order, decoded (URL Standard, `application/x-www-form-urlencoded`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands behind the `?`. The length is bounded by that of a request's head.
    ///
    /// # Errors
    /// When something is not encoded as it must be.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(key)?, decode(value)?))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The last value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The first key which is none of `known`.
    pub(super) fn stranger(&self, known: &[&str]) -> Option<&str> {
        let keys = self.0.iter().map(|(key, _)| key.as_str());
        keys.into_iter().find(|key| !known.contains(key))
    }

    /// A whole number between `least` and `most`, or `usual` when the key is absent.
    ///
    /// # Errors
    /// When it is something else; the text says what is wanted.
    pub(super) fn number(&self, key: &str, [least, usual, most]: [u64; 3]) -> Result<u64, String> {
        let Some(text) = self.get(key) else { return Ok(usual) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| format!("{key}={text} is no number from {least} to {most}\n"))
    }
}

fn decode(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let wrong = || format!("{text}: a % must be followed by two hexadecimal digits, and the whole be UTF-8\n");
    let digit = |bytes: &mut std::str::Bytes<'_>| {
        let byte = bytes.next()?;
        char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
    };
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => match (digit(&mut bytes), digit(&mut bytes)) {
                (Some(high), Some(low)) => high * 16 + low,
                _ => return Err(wrong()),
            },
            byte => byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_the_last_one_counts() {
        let query = Query::parse("level=info%2Caccess%3Ddebug&reset&level=a+b&&x=%c3%a9").unwrap();
        assert_eq!(query.get("level"), Some("a b"));
        assert_eq!(query.get("reset"), Some(""));
        assert_eq!(query.get("x"), Some("é"));
        assert_eq!(query.get("y"), None);
        assert_eq!(query.stranger(&["level", "reset"]), Some("x"));
        assert_eq!(query.stranger(&["level", "reset", "x"]), None);
        assert_eq!(Query::parse("").unwrap(), Query::default());
    }

    #[test]
    fn what_is_not_encoded_rightly_is_refused() {
        for wrong in ["a=%", "a=%2", "a=%zz", "%ff=1", "a=%+1"] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_have_bounds_and_a_default() {
        let query = Query::parse("a=5&b=x&c=301&d=-1&e=").unwrap();
        assert_eq!(query.number("a", [1, 10, 300]), Ok(5));
        assert_eq!(query.number("none", [1, 10, 300]), Ok(10));
        for wrong in ["b", "c", "d", "e"] {
            assert!(query.number(wrong, [1, 10, 300]).is_err(), "{wrong}");
        }
    }
}
