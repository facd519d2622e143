// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Errors in machine files, with their place.

use std::borrow::Cow;
use std::fmt;

/// A mistake in a machine file: file, line, subject and field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineError {
    /// The file.
    pub file: String,
    /// The line, from 1 on, where it is one line's mistake.
    pub line: Option<usize>,
    /// The region or step, in words; empty where it is neither.
    pub subject: String,
    /// The field.
    pub field: Option<String>,
    /// What is wrong with it.
    pub problem: String,
}

impl MachineError {
    /// The file as a whole cannot be read.
    pub(super) fn unreadable(file: &str, problem: String) -> Self {
        Self {
            file: file.to_string(),
            line: None,
            subject: String::new(),
            field: None,
            problem,
        }
    }
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.file.clone();
        if let Some(line) = self.line {
            text += &format!(":{line}");
        }
        text += ": ";
        if !self.subject.is_empty() {
            text += &format!("{}: ", shortened(&self.subject));
        }
        if let Some(field) = &self.field {
            text += &format!("field '{}': ", shortened(field));
        }
        text += &shortened(&self.problem);
        // Words of the file are quoted. They may contain control characters.
        for c in text.chars() {
            match c.is_control() {
                true => write!(f, "{}", c.escape_default())?,
                false => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for MachineError {}

/// How much of a text an error quotes from its beginning, and from its end.
const QUOTED: (usize, usize) = (120, 200);

/// The text, without its middle if it is too long.
fn shortened(text: &str) -> Cow<'_, str> {
    let (head, tail) = QUOTED;
    if text.len() <= head + tail {
        return text.into();
    }
    let boundary = |from: usize| (from..text.len()).find(|&at| text.is_char_boundary(at));
    let head = boundary(head).unwrap_or(text.len());
    let tail = boundary(text.len() - tail).unwrap_or(text.len());
    let left_out = tail - head;
    let (head, tail) = (&text[..head], &text[tail..]);
    format!("{head} … ({left_out} bytes) … {tail}").into()
}

/// The line of a byte offset in a file, from 1 on.
pub(super) fn line_of(bytes: &[u8], offset: usize) -> usize {
    let before = bytes.iter().take(offset);
    before.filter(|&&byte| byte == b'\n').count() + 1
}

/// A machine file's text, which converts offsets to lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// The line of a byte offset, from 1 on.
    pub(super) fn line(&self, offset: usize) -> usize {
        line_of(self.text.as_bytes(), offset)
    }

    /// What the TOML reader itself objects to. It tells the place but not
    /// always the field, which is then the key to the left of the place.
    pub(super) fn toml_error(&self, error: &toml::de::Error) -> MachineError {
        let offset = error.span().map(|span| span.start);
        MachineError {
            file: self.file.to_string(),
            line: offset.map(|offset| self.line(offset)),
            subject: String::new(),
            field: offset.and_then(|offset| self.key_before(offset)),
            problem: error.message().trim_end().replace('\n', " "),
        }
    }

    fn key_before(&self, offset: usize) -> Option<String> {
        let line = self.text.get(..offset)?.rsplit('\n').next()?;
        let before_value = line.trim_end().strip_suffix('=')?.trim_end();
        let is_key = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let key = before_value.rsplit(|c| !is_key(c)).next()?;
        (!key.is_empty()).then(|| key.to_string())
    }
}
