//! JSON with one reading: checked, and written again without what readers differ about.
//!
//! Which of two equal keys counts, what a lone surrogate is, whether a comma may trail: readers
//! differ, and what one has checked another would carry out. Here each of these is an error, and
//! what is passed on is our own writing, in which none of them exists.

use std::borrow::Cow;
use std::collections::HashSet;

/// Arrays and objects within each other.
pub(super) const MAX_DEPTH: usize = 64;
/// Keys of one object: what is remembered to find one that is there twice.
const MAX_KEYS: usize = 65_536;

/// Why a text is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON (RFC 8259) in UTF-8.
    #[error("it is not JSON")]
    Syntax,
    /// A key stands twice in one object.
    #[error("a key stands twice in an object")]
    Twice,
    /// Too many arrays and objects within each other, or keys in one.
    #[error("it is nested too deeply, or an object of it has too many keys")]
    Bounds,
}

/// The text written again: without white space, its strings with the escapes that are needed,
/// its numbers as they were.
///
/// # Errors
/// [`JsonError`].
pub(super) fn normalised(text: &[u8]) -> Result<String, JsonError> {
    let text = std::str::from_utf8(text).map_err(|_| JsonError::Syntax)?;
    let mut reader = Reader {
        text,
        at: 0,
        out: String::with_capacity(text.len()),
    };
    reader.value(0)?;
    reader.space();
    match reader.peek() {
        None => Ok(reader.out),
        Some(_) => Err(JsonError::Syntax),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    out: String,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => {
                let text = self.string()?;
                self.write(&text)
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        self.enter(depth, '{')?;
        let mut keys = HashSet::new();
        if self.is_over(b'}', '}') {
            return Ok(());
        }
        loop {
            self.space();
            let key = self.string()?;
            self.write(&key)?;
            if keys.len() == MAX_KEYS {
                return Err(JsonError::Bounds);
            }
            if !keys.insert(key) {
                return Err(JsonError::Twice);
            }
            self.space();
            self.expect(b':')?;
            self.out.push(':');
            self.value(depth)?;
            if self.is_over(b'}', '}') {
                return Ok(());
            }
            self.expect(b',')?;
            self.out.push(',');
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        self.enter(depth, '[')?;
        if self.is_over(b']', ']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            if self.is_over(b']', ']') {
                return Ok(());
            }
            self.expect(b',')?;
            self.out.push(',');
        }
    }

    fn enter(&mut self, depth: usize, bracket: char) -> Result<(), JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::Bounds);
        }
        self.at += 1;
        self.out.push(bracket);
        Ok(())
    }

    fn is_over(&mut self, end: u8, bracket: char) -> bool {
        self.space();
        let over = self.peek() == Some(end);
        if over {
            self.at += 1;
            self.out.push(bracket);
        }
        over
    }

    /// A string, without its quotes and escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let begin = self.at;
        self.expect(b'"')?;
        let mut escapes = false;
        loop {
            match self.peek().ok_or(JsonError::Syntax)? {
                b'"' => break,
                b'\\' => {
                    escapes = true;
                    self.at += 2;
                }
                0..0x20 => return Err(JsonError::Syntax),
                _ => self.at += 1,
            }
        }
        self.at += 1;
        let quoted = self.text.get(begin..self.at).ok_or(JsonError::Syntax)?;
        if escapes {
            let text = serde_json::from_str(quoted).map_err(|_| JsonError::Syntax)?;
            return Ok(Cow::Owned(text));
        }
        Ok(Cow::Borrowed(&quoted[1..quoted.len() - 1]))
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let begin = self.at;
        self.skip(b"-");
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.skip(b".") {
            self.digits()?;
        }
        if self.skip(b"eE") {
            self.skip(b"+-");
            self.digits()?;
        }
        self.out.push_str(&self.text[begin..self.at]);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let begin = self.at;
        while self.skip(b"0123456789") {}
        match self.at > begin {
            true => Ok(()),
            false => Err(JsonError::Syntax),
        }
    }

    fn word(&mut self) -> Result<(), JsonError> {
        let rest = &self.text[self.at..];
        let words = ["true", "false", "null"];
        let word = words.into_iter().find(|word| rest.starts_with(word));
        let word = word.ok_or(JsonError::Syntax)?;
        self.at += word.len();
        self.out.push_str(word);
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), JsonError> {
        let quoted = serde_json::to_string(text).map_err(|_| JsonError::Syntax)?;
        self.out.push_str(&quoted);
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        match self.skip(&[byte]) {
            true => Ok(()),
            false => Err(JsonError::Syntax),
        }
    }

    fn skip(&mut self, any: &[u8]) -> bool {
        let there = self.peek().is_some_and(|byte| any.contains(&byte));
        self.at += usize::from(there);
        there
    }

    fn space(&mut self) {
        while self.skip(b" \t\r\n") {}
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_has_two_readings_is_refused() {
        for (text, error) in [
            (r#"{"a":1,"a":2}"#, JsonError::Twice),
            (r#"{"a":1,"\u0061":2}"#, JsonError::Twice),
            (r#"[{"x":{"k":1,"k":1}}]"#, JsonError::Twice),
            (r#"{"a":1,}"#, JsonError::Syntax),
            (r#"{a:1}"#, JsonError::Syntax),
            (r#"{"a":1} {"a":2}"#, JsonError::Syntax),
            (r#""\ud800""#, JsonError::Syntax),
            ("\"\u{1}\"", JsonError::Syntax),
            ("\u{feff}{}", JsonError::Syntax),
            (r#"'a'"#, JsonError::Syntax),
            ("01", JsonError::Syntax),
            ("1.", JsonError::Syntax),
            ("-", JsonError::Syntax),
            ("NaN", JsonError::Syntax),
            ("", JsonError::Syntax),
            ("\"", JsonError::Syntax),
            ("\"\\", JsonError::Syntax),
            ("{} // end", JsonError::Syntax),
        ] {
            assert_eq!(normalised(text.as_bytes()), Err(error), "{text}");
        }
        assert_eq!(normalised(b"\"\xff\""), Err(JsonError::Syntax));
        let deep = "[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH);
        assert_eq!(normalised(deep.as_bytes()).as_ref(), Ok(&deep));
        let deeper = format!("[{deep}]");
        assert_eq!(normalised(deeper.as_bytes()), Err(JsonError::Bounds));
        let bomb = "[".repeat(4 << 20);
        assert_eq!(normalised(bomb.as_bytes()), Err(JsonError::Bounds));
    }

    #[test]
    fn numbers_stay_as_they_were_and_strings_are_written_again() {
        let text = " { \"n\" : [ 1.0 , 123456789012345678901234567890, -0, 1e400 ],\n\"s\":\"\\u0041\\/\\n\u{2028}\" } ";
        let want = "{\"n\":[1.0,123456789012345678901234567890,-0,1e400],\"s\":\"A/\\n\u{2028}\"}";
        assert_eq!(normalised(text.as_bytes()).as_deref(), Ok(want));
    }

    proptest! {
        /// Whatever passes is the same to another reader, before and after.
        #[test]
        fn agrees_with_another_reader(
            text in "([\\[\\]{},: \"]|\"[a-c\\\\\"nu0-9]{0,4}\"|-?[0-9]{1,3}|true|null|\\.|e|\\PC){0,24}",
        ) {
            if let Ok(ours) = normalised(text.as_bytes()) {
                let theirs = match serde_json::from_str::<Value>(&text) {
                    Ok(theirs) => theirs,
                    // A number is any number for us.
                    Err(error) if error.to_string().contains("out of range") => return Ok(()),
                    Err(error) => panic!("{text}: {error}"),
                };
                prop_assert_eq!(serde_json::from_str::<Value>(&ours).expect("json"), theirs);
                prop_assert_eq!(normalised(ours.as_bytes()), Ok(ours));
            }
        }

        #[test]
        fn takes_what_another_writes(seed in proptest::collection::vec(any::<(String, i64)>(), 0..8)) {
            let object: serde_json::Map<String, Value> = seed
                .into_iter()
                .map(|(key, n)| (key.clone(), serde_json::json!([n, key, null, {"x": n}])))
                .collect();
            let text = Value::from(object).to_string();
            prop_assert_eq!(normalised(text.as_bytes()), Ok(text));
        }
    }
}
