// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A fuzzer's progress, from the lines that libFuzzer prints.

use std::fmt;

/// The progress and the finding of a fuzzer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// The number of inputs that were run.
    pub runs: u64,
    /// The number of edges that they reach in the program.
    pub edges: u64,
    /// The number of inputs that are kept.
    pub kept: u64,
    /// The file with the input that causes the fault.
    pub input: Option<String>,
}

impl Status {
    /// Reads a line.
    pub(super) fn read(&mut self, line: &str) {
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(path.trim().to_string());
        }
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.runs = count.trim().parse().unwrap_or(self.runs);
        }
        // For example `#1024 NEW cov: 10 ft: 12 corp: 3/9b lim: 4 exec/s: 0 rss: 26Mb`.
        let Some(progress) = line.strip_prefix('#') else {
            return;
        };
        let words: Vec<&str> = progress.split_whitespace().collect();
        let Some(runs) = words.first().and_then(|word| word.parse().ok()) else {
            return;
        };
        let after = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            let number = words.get(at + 1)?.split('/').next()?;
            number.parse().ok()
        };
        self.runs = runs;
        self.edges = after("cov:").unwrap_or(self.edges);
        self.kept = after("corp:").unwrap_or(self.kept);
    }
}

/// For example `20000 runs, 1234 edges, 56 inputs kept`.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            runs,
            edges,
            kept,
            input,
        } = self;
        write!(f, "{runs} runs, {edges} edges, {kept} inputs kept")?;
        match input {
            Some(_) => f.write_str(", and a fault"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn progress_findings_and_the_end_are_read_and_the_rest_is_ignored() {
        let mut status = Status::default();
        for line in [
            "INFO: Running with entropic power schedule (0xFF, 100).",
            "#2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 26Mb",
            "#1024\tNEW    cov: 110 ft: 120 corp: 3/9b lim: 4 exec/s: 512 rss: 30Mb L: 4/4 MS: 1 ChangeBit-",
            "#0x1 in main",
            "# cov: 7",
        ] {
            status.read(line);
        }
        assert_eq!(status.to_string(), "1024 runs, 110 edges, 3 inputs kept");
        status.read("stat::number_of_executed_units: 4000\n");
        status.read("artifact_prefix='/a/'; Test unit written to /a/crash-12\n");
        assert_eq!(status.runs, 4000);
        assert_eq!(status.input.as_deref(), Some("/a/crash-12"));
    }
}
