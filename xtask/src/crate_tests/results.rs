// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What test programs print, as results.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Instant;

use super::programs::TestProgram;

/// Collects the output of programs, and shows how far they are.
#[derive(Debug)]
pub struct Results<'a, W> {
    progress: W,
    tests: &'a [TestProgram],
    line: Vec<u8>,
    start: Instant,
    /// What each program printed and how it ended.
    outputs: Vec<Output>,
}

/// A program's output.
#[derive(Clone, Debug, Default)]
struct Output {
    number: usize,
    text: String,
    passed: u64,
    ignored: u64,
    failed: Vec<String>,
    exit: Option<i32>,
}

/// The results of all programs.
#[derive(Debug)]
pub struct Summary {
    /// A table, and the output of the programs that failed.
    pub text: String,
    /// Whether all passed.
    pub verdict: Result<(), String>,
}

impl<'a, W: Write> Results<'a, W> {
    /// Of `tests`. Shows progress on `progress`.
    pub fn new(progress: W, tests: &'a [TestProgram]) -> Self {
        Self {
            progress,
            tests,
            line: Vec::new(),
            start: Instant::now(),
            outputs: Vec::new(),
        }
    }

    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["@begin", number] => {
                let number = number.parse().unwrap_or(usize::MAX);
                self.outputs.push(Output {
                    number,
                    ..Output::default()
                });
                let seconds = self.start.elapsed().as_secs();
                let title = self.tests.get(number).map(TestProgram::title);
                let title = title.unwrap_or_default();
                let _ = writeln!(self.progress, "  {seconds:>4} s  {title}");
            }
            ["@end", _, exit] => {
                if let Some(output) = self.outputs.last_mut() {
                    output.exit = exit.parse().ok();
                }
            }
            _ => {
                if let Some(output) = self.outputs.last_mut() {
                    output.line(line);
                }
            }
        }
    }

    /// What all programs printed.
    pub fn output(&self) -> String {
        let texts = self.outputs.iter().map(|output| output.text.as_str());
        texts.collect()
    }

    /// The results. A program that did not end failed.
    pub fn summary(&self) -> Summary {
        let tests = self.tests;
        let mut text = String::new();
        let (mut passed, mut ignored, mut failed) = (0, 0, Vec::new());
        for (number, test) in tests.iter().enumerate() {
            let title = test.title();
            let output = self.outputs.iter().find(|other| other.number == number);
            let Some(output) = output else {
                let _ = writeln!(text, "{title:<44} did not run");
                failed.push(title);
                continue;
            };
            passed += output.passed;
            ignored += output.ignored;
            let state = match output.exit {
                Some(0) => "ok".to_string(),
                Some(exit) => format!("FAILED, with exit status {exit}"),
                None => "FAILED: it did not end".to_string(),
            };
            let _ = writeln!(
                text,
                "{title:<44} {:>4} passed {:>3} ignored  {state}",
                output.passed, output.ignored
            );
            if output.exit != Some(0) {
                failed.push(title);
            }
        }
        for output in self.outputs.iter().filter(|other| other.exit != Some(0)) {
            let title = tests.get(output.number).map(TestProgram::title);
            let _ = writeln!(
                text,
                "\n{}: {}\n{}",
                title.unwrap_or_default(),
                output.failed.join(", "),
                output.text
            );
        }
        let _ = write!(text, "\n{passed} passed, {ignored} ignored");
        let verdict = match failed.is_empty() {
            true => Ok(()),
            false => Err(format!("tests failed: {}", failed.join(", "))),
        };
        Summary { text, verdict }
    }
}

impl Output {
    fn line(&mut self, line: &str) {
        let name = line.strip_prefix("test ");
        let failed = name.and_then(|name| name.strip_suffix(" ... FAILED"));
        self.failed.extend(failed.map(String::from));
        // The program's own count: what tests print can share a line with a result.
        if let Some((_, counts)) = line.split_once("test result: ") {
            self.passed += number_before(counts, " passed");
            self.ignored += number_before(counts, " ignored");
        }
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// The number in front of a word.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split_once(word).map_or("", |(before, _)| before);
    let number = before.rsplit(' ').next().and_then(|n| n.parse().ok());
    number.unwrap_or(0)
}

impl<W: Write> Write for Results<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.line(&String::from_utf8_lossy(&line));
            } else {
                self.line.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &str) -> TestProgram {
        TestProgram {
            package: "p".into(),
            name: name.into(),
            folder: "/p".into(),
            program: "/p/t".into(),
        }
    }

    fn summary(output: &str) -> Summary {
        let tests = [program("a"), program("b")];
        let mut results = Results::new(Vec::new(), &tests);
        results.write_all(output.as_bytes()).expect("taken");
        results.summary()
    }

    const A: &str = "@begin 0\ntest one ... it prints\nok\ntest two ... ignored\n\
        test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n@end 0 0\n";

    #[test]
    fn tests_are_counted_by_program() {
        let more = "@begin 1\ntest result: ok. 12 passed; 0 failed; 3 ignored\n@end 1 0\n";
        let summary = summary(&format!("{A}{more}"));
        assert_eq!(summary.verdict, Ok(()));
        assert!(summary.text.ends_with("13 passed, 4 ignored"));
    }

    #[test]
    fn progress_names_the_program_that_begins() {
        let tests = [program("a"), program("b")];
        let mut results = Results::new(Vec::new(), &tests);
        results.write_all(b"@begin 1\n").expect("taken");
        let progress = String::from_utf8_lossy(&results.progress);
        assert!(progress.ends_with(" s  p b\n"), "{progress}");
    }

    #[test]
    fn a_program_that_fails_shows_its_output() {
        let failing = "@begin 1\ntest three ... FAILED\nit is wrong\n@end 1 101\n";
        let summary = summary(&format!("{A}{failing}"));
        assert_eq!(summary.verdict, Err("tests failed: p b".into()));
        assert!(summary.text.contains("p b: three"), "{}", summary.text);
        assert!(summary.text.contains("it is wrong"));
    }

    #[test]
    fn a_program_that_did_not_end_or_did_not_run_failed() {
        assert!(summary(A).verdict.is_err());
        let summary = summary(&format!("{A}@begin 1\ntest three ... ok\n"));
        assert!(summary.text.contains("it did not end"));
        assert!(summary.verdict.is_err());
    }
}
