// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lists of names, each with a reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::lab::cache;

/// Names with their reasons.
#[derive(Debug, Default)]
pub struct Reasons(BTreeMap<String, String>);

impl Reasons {
    /// Reads the list.
    ///
    /// # Errors
    /// The file cannot be read, or a name has no reason.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| cache::at(path, &e))?;
        Self::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Parses a list: a name, and its reason in the indented lines behind. Names that
    /// follow each other share the reason behind the last one.
    ///
    /// # Errors
    /// A name has no reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let mut names: Vec<&str> = Vec::new();
        let mut in_reason = false;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.strip_prefix(' ') {
                Some(_) if names.is_empty() => return Err("a reason without a name".into()),
                Some(why) => {
                    for name in &names {
                        let reason = all.entry((*name).to_string()).or_default();
                        let space = if reason.is_empty() { "" } else { " " };
                        *reason += &format!("{space}{}", why.trim());
                    }
                    in_reason = true;
                }
                None if line.is_empty() => {}
                None => {
                    if in_reason {
                        names.clear();
                    }
                    in_reason = false;
                    names.push(line);
                }
            }
        }
        match in_reason || names.is_empty() {
            true => Ok(Self(all)),
            false => Err(format!("no reason for '{}'", names.join("', '"))),
        }
    }

    /// The reason of a name, if it is in the list.
    pub fn why(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All names with their reasons, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, why)| (name.as_str(), why.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_follow_each_other_share_a_reason() {
        let list = "# why\na: one\na: two\n    Both are\n    the same.\n\nb\n    Not so.\n";
        let list = Reasons::parse(list).expect("a list");
        let all: Vec<_> = list.iter().collect();
        let same = "Both are the same.";
        assert_eq!(all, [("a: one", same), ("a: two", same), ("b", "Not so.")]);
        assert_eq!((list.why("b"), list.why("c")), (Some("Not so."), None));
    }

    #[test]
    fn a_name_without_a_reason_is_an_error() {
        assert!(Reasons::parse("a\n").is_err());
        assert!(Reasons::parse("    why\n").is_err());
        assert!(Reasons::parse("").is_ok());
    }
}
