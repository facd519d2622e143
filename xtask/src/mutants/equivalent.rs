// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mutants that no test can catch, each with the reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::lab::cache;

/// Mutants that behave as the code does, with the reason.
#[derive(Debug, Default)]
pub struct Equivalents(BTreeMap<String, String>);

impl Equivalents {
    /// Reads the list.
    ///
    /// # Errors
    /// The file cannot be read, or a mutant has no reason.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| cache::at(path, &e))?;
        Self::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Parses a list: a mutant's name without line and column, and its reason in the
    /// indented lines behind.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let mut name = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.strip_prefix(' ') {
                Some(why) => {
                    let name: &String = name.as_ref().ok_or("a reason without a mutant")?;
                    let reason = all.entry(name.clone()).or_default();
                    let space = if reason.is_empty() { "" } else { " " };
                    *reason += &format!("{space}{}", why.trim());
                }
                None if line.is_empty() => {}
                None => {
                    all.insert(line.to_string(), String::new());
                    name = Some(line.to_string());
                }
            }
        }
        match all.iter().find(|(_, why)| why.is_empty()) {
            Some((name, _)) => Err(format!("no reason for '{name}'")),
            None => Ok(Self(all)),
        }
    }

    /// Why a mutant is equivalent, if it is one.
    pub fn why(&self, name: &str) -> Option<&str> {
        self.0.get(&without_position(name)).map(String::as_str)
    }
}

/// A mutant's name without line and column, which other changes move.
pub fn without_position(name: &str) -> String {
    let mut parts = name.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(path), Some(_), Some(_), Some(what)) => format!("{path}:{what}"),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_found_wherever_its_line_is() {
        let list = "# why\na.rs: replace < with <= in f\n    Both are\n    the same.\n\n";
        let list = Equivalents::parse(list).expect("a list");
        let name = "a.rs:17:4: replace < with <= in f";
        assert_eq!(list.why(name), Some("Both are the same."));
        assert_eq!(list.why("a.rs:17:4: replace < with == in f"), None);
    }

    #[test]
    fn a_mutant_without_a_reason_is_an_error() {
        assert!(Equivalents::parse("a.rs: replace f\n").is_err());
        assert!(Equivalents::parse("    why\n").is_err());
    }
}
