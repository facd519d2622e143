// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small file that expands to very much, and helpers that build its text.

/// A file and the expected error.
pub struct Bomb {
    pub name: &'static str,
    pub text: String,
    /// What is in the error; `None` if there is none.
    pub said: Option<&'static str>,
}

pub fn bad(name: &'static str, text: String, said: &'static str) -> Bomb {
    let said = Some(said);
    Bomb { name, text, said }
}

pub fn fine(name: &'static str, text: String) -> Bomb {
    let said = None;
    Bomb { name, text, said }
}

/// A `[[region]]` on a line: its name, and its other fields.
pub fn region(name: &str, fields: &str) -> String {
    format!(
        "[[region]]\nname = \"{name}\"\n{}\n",
        fields.replace("; ", "\n")
    )
}

pub fn step(fields: &str) -> String {
    format!("[[step]]\n{}\n", fields.replace("; ", "\n"))
}

pub fn each(range: std::ops::Range<u64>, item: impl Fn(u64) -> String) -> String {
    range.map(item).collect()
}
