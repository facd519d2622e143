// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The counts of llvm-cov, by crate and file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

/// The parts of llvm-cov's JSON that are used.
#[derive(Deserialize)]
struct Export {
    data: Vec<Data>,
}

#[derive(Deserialize)]
struct Data {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    filename: String,
    summary: Summary,
}

#[derive(Deserialize)]
struct Summary {
    lines: Lines,
}

/// The number of lines with code, and how many of them were run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Lines {
    count: u64,
    covered: u64,
}

impl Lines {
    fn missed(self) -> u64 {
        self.count.saturating_sub(self.covered)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            covered: self.covered + other.covered,
        }
    }

    /// A file without code is fully reached.
    fn percent(self) -> f64 {
        match self.count {
            0 => 100.0,
            // No crate has enough lines to lose precision.
            count => self.covered as f64 * 100.0 / count as f64,
        }
    }
}

/// The files of the crates, by crate.
#[derive(Debug, Default)]
pub(super) struct Table {
    crates: BTreeMap<String, Vec<(String, Lines)>>,
}

impl Table {
    /// Reads llvm-cov's JSON, and keeps the sources of the crates below `root`.
    ///
    /// # Errors
    /// The JSON has another format, or no source of a crate.
    pub(super) fn read(json: &[u8], root: &Path) -> Result<Self, String> {
        let export: Export = serde_json::from_slice(json).map_err(|e| format!("llvm-cov: {e}"))?;
        let mut table = Self::default();
        for file in export.data.into_iter().flat_map(|data| data.files) {
            let path = Path::new(&file.filename);
            let Ok(path) = path.strip_prefix(root.join("crates")) else {
                continue;
            };
            let path = path.to_string_lossy();
            if let Some((name, source)) = path.split_once("/src/") {
                let files = table.crates.entry(name.to_string()).or_default();
                files.push((source.to_string(), file.summary.lines));
            }
        }
        for files in table.crates.values_mut() {
            // Files with the most unreached lines come first.
            files.sort_by(|(a, la), (b, lb)| lb.missed().cmp(&la.missed()).then(a.cmp(b)));
        }
        match table.crates.is_empty() {
            true => Err("llvm-cov counted no line of any crate".into()),
            false => Ok(table),
        }
    }

    fn totals(&self) -> impl Iterator<Item = (&String, Lines)> {
        let total = |files: &[(String, Lines)]| {
            let lines = files.iter().map(|(_, lines)| *lines);
            lines.fold(Lines::default(), Lines::plus)
        };
        self.crates
            .iter()
            .map(move |(name, files)| (name, total(files)))
    }

    /// Requires a minimum percentage of each crate's lines.
    ///
    /// # Errors
    /// The crates that have less.
    pub(super) fn require(&self, min: f64) -> Result<(), String> {
        let low = self.totals().filter(|(_, lines)| lines.percent() < min);
        let low: Vec<String> = low
            .map(|(name, lines)| format!("{name} has {:.1} %", lines.percent()))
            .collect();
        match low.is_empty() {
            true => Ok(()),
            false => Err(format!("{}; {min} % are asked for", low.join(", "))),
        }
    }
}

/// Each crate's files, those with the most unreached lines first; then the
/// crates.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, files) in &self.crates {
            writeln!(
                f,
                "{name:<32} {:>7} {:>7} {:>8}",
                "lines", "missed", "reached"
            )?;
            for (file, lines) in files {
                line(f, &format!("  {file}"), *lines)?;
            }
            writeln!(f)?;
        }
        for (name, lines) in self.totals() {
            line(f, name, lines)?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, lines: Lines) -> fmt::Result {
    let (count, missed, percent) = (lines.count, lines.missed(), lines.percent());
    writeln!(f, "{name:<32} {count:>7} {missed:>7} {percent:>6.1} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, count: u64, covered: u64) -> String {
        let lines = format!(r#""lines":{{"count":{count},"covered":{covered},"percent":1.0}}"#);
        format!(r#"{{"filename":"{name}","summary":{{{lines},"regions":{{}}}}}}"#)
    }

    fn table(files: &[String]) -> Result<Table, String> {
        let json = format!(r#"{{"data":[{{"files":[{}]}}]}}"#, files.join(","));
        Table::read(json.as_bytes(), Path::new("/w"))
    }

    #[test]
    fn crates_are_summed_up_and_other_files_left_out() {
        let table = table(&[
            file("/w/crates/a/src/x.rs", 10, 10),
            file("/w/crates/a/src/in/y.rs", 30, 25),
            file("/w/crates/a/tests/z.rs", 100, 0),
            file("/w/crates/b/src/lib.rs", 0, 0),
            file("/w/xtask/src/main.rs", 100, 0),
            file("/elsewhere/crates/c/src/lib.rs", 100, 0),
        ]);
        let table = table.unwrap();
        let text = table.to_string();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().map(words).collect();
        assert_eq!(
            lines,
            [
                "a lines missed reached",
                "in/y.rs 30 5 83.3 %",
                "x.rs 10 0 100.0 %",
                "",
                "b lines missed reached",
                "lib.rs 0 0 100.0 %",
                "",
                "a 40 5 87.5 %",
                "b 0 0 100.0 %",
            ]
        );
        assert_eq!(table.require(87.5), Ok(()));
        let error = "a has 87.5 %; 90 % are asked for".to_string();
        assert_eq!(table.require(90.0), Err(error));
    }

    #[test]
    fn a_report_without_a_crate_is_an_error() {
        assert!(table(&[file("/w/xtask/src/main.rs", 1, 1)]).is_err());
        assert!(Table::read(b"{}", Path::new("/w")).is_err());
    }
}
