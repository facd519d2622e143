// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Explores whether a device ever reaches a private page: every small world, then random
//! steps in a larger one. The tests of `vfio-dma` named `theorem` do so.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::cache;
use crate::shell::{build_release_test, root};

/// How often the number of finished worlds is looked at.
const BEAT: Duration = Duration::from_millis(200);

/// Explores, makes `steps` random steps, prints figures, and writes them to `json`.
///
/// # Errors
/// A violation, or the tests cannot run.
pub fn run(steps: u64, json: Option<&Path>) -> Result<(), String> {
    let test = build_release_test("vfio-dma", "it")?;
    let folder = root().join("target").join("explore");
    cache::make_folder(&folder)?;
    let report = folder.join("report.jsonl");
    cache::write(&report, b"")?;
    let output = folder.join("output.txt");
    let file = fs::File::create(&output).map_err(|e| cache::at(&output, &e))?;
    let start = Instant::now();
    let mut child = Command::new(test)
        .args(["theorem::"])
        .env("THEOREM_STEPS", steps.to_string())
        .env("THEOREM_REPORT", &report)
        .current_dir(root().join("crates").join("vfio-dma"))
        .stderr(file.try_clone().map_err(|e| cache::at(&output, &e))?)
        .stdout(Stdio::from(file))
        .spawn()
        .map_err(|e| format!("the tests: {e}"))?;
    let ended = watch(&mut child, &report, start);
    if ended.is_err() {
        // Without a report, nothing waits for the tests.
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = ended?;
    let found = Found::of(&read(&report)?);
    print!("{}", found.text());
    if let Some(path) = json {
        let text = format!("{:#}\n", found.json());
        cache::write(path, text.as_bytes())?;
    }
    let verdict = found.verdict(steps, status.success());
    verdict.map_err(|why| format!("{why}: see {}", output.display()))
}

/// Shows the worlds that the tests finish, until the tests have ended.
fn watch(child: &mut Child, report: &Path, start: Instant) -> Result<ExitStatus, String> {
    let mut shown = 0;
    loop {
        let lines = read(report)?;
        for line in lines.iter().skip(shown) {
            eprintln!("  {:>4} s  {}", start.elapsed().as_secs(), progress(line));
        }
        shown = lines.len();
        match child.try_wait().map_err(|e| format!("the tests: {e}"))? {
            Some(status) => return Ok(status),
            None => std::thread::sleep(BEAT),
        }
    }
}

/// The objects of a report.
fn read(path: &Path) -> Result<Vec<Value>, String> {
    let text = fs::read_to_string(path).map_err(|e| cache::at(path, &e))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().map(serde_json::from_str);
    let lines: Result<Vec<Value>, _> = lines.collect();
    lines.map_err(|e| format!("{}: {e}", path.display()))
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line.get(key).and_then(Value::as_str).unwrap_or("?")
}

fn number(line: &Value, key: &str) -> u64 {
    line.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn progress(line: &Value) -> String {
    format!("{} ({})", words(text(line, "world")), text(line, "home"))
}

/// A test's name as a sentence.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    /// Worlds that were explored, with their figures.
    worlds: Vec<Value>,
    /// Random steps, with their figures.
    random: Vec<Value>,
    violations: Vec<Value>,
}

impl Found {
    fn of(lines: &[Value]) -> Self {
        let mut found = Self::default();
        for line in lines {
            let to = match line {
                line if line.get("violation").is_some() => &mut found.violations,
                line if line.get("states").is_some() => &mut found.worlds,
                _ => &mut found.random,
            };
            to.push(line.clone());
        }
        for all in [&mut found.worlds, &mut found.random] {
            all.sort_by_key(progress);
        }
        found
    }

    /// Whether something was explored, random steps were made if any were due, and no
    /// violation was found.
    fn verdict(&self, steps: u64, has_succeeded: bool) -> Result<(), String> {
        let states = Self::sum(&self.worlds, "states");
        let made = Self::sum(&self.random, "steps");
        match (self.violations.len(), has_succeeded) {
            (0, false) => Err("the tests failed".into()),
            (0, true) if states == 0 => Err("no world was explored".into()),
            (0, true) if made == 0 && steps > 0 => Err("no random step was made".into()),
            (0, true) => Ok(()),
            (count, _) => Err(format!("{count} violations")),
        }
    }

    fn sum(lines: &[Value], key: &str) -> u64 {
        lines.iter().map(|line| number(line, key)).sum()
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let mut last = "";
        for world in &self.worlds {
            let name = text(world, "world");
            if name != last {
                let _ = writeln!(out, "{}", words(name));
            }
            last = name;
            let (states, transitions) = (number(world, "states"), number(world, "transitions"));
            let (home, calls) = (text(world, "home"), number(world, "calls"));
            let _ = writeln!(
                out,
                "  {home:<26} {states:>5} states {transitions:>7} transitions {calls:>7} calls"
            );
        }
        for random in &self.random {
            let (home, steps) = (text(random, "home"), number(random, "steps"));
            let _ = writeln!(out, "{steps:>9} random steps, {home}");
        }
        for violation in &self.violations {
            let (home, how) = (text(violation, "home"), text(violation, "violation"));
            let _ = writeln!(out, "VIOLATION, {home}: {how}");
        }
        let _ = writeln!(
            out,
            "\n{} states, {} transitions, {} random steps, {} calls checked: {} violations",
            Self::sum(&self.worlds, "states"),
            Self::sum(&self.worlds, "transitions"),
            Self::sum(&self.random, "steps"),
            Self::sum(&self.worlds, "calls") + Self::sum(&self.random, "calls"),
            self.violations.len()
        );
        out
    }

    fn json(&self) -> Value {
        json!({
            "states": Self::sum(&self.worlds, "states"),
            "transitions": Self::sum(&self.worlds, "transitions"),
            "steps": Self::sum(&self.random, "steps"),
            "worlds": self.worlds,
            "random": self.random,
            "violations": self.violations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"world":"no_device","home":"the platform","states":3,"transitions":7,"with_faults":2,"calls":20}
{"world":"in_random_steps","home":"the platform","steps":100,"calls":300}
"#;

    fn found(report: &str) -> Found {
        let lines: Vec<Value> = report
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        Found::of(&lines)
    }

    #[test]
    fn figures_are_added_up() {
        let found = found(REPORT);
        let last = "3 states, 7 transitions, 100 random steps, 320 calls checked: 0 violations\n";
        assert!(found.text().ends_with(last), "{}", found.text());
        assert_eq!(found.json()["states"], 3);
        assert!(found.text().lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn a_report_on_nothing_is_an_error() {
        assert_eq!(found(REPORT).verdict(100, true), Ok(()));
        assert!(found(REPORT).verdict(100, false).is_err());
        let (worlds, random) = REPORT.split_once('\n').expect("two lines");
        for (report, words) in [
            ("", "no world was explored"),
            (random, "no world was explored"),
            (worlds, "no random step was made"),
        ] {
            assert_eq!(found(report).verdict(100, true), Err(words.into()));
        }
        assert_eq!(found(worlds).verdict(0, true), Ok(()));
    }

    #[test]
    fn a_report_that_cannot_be_read_ends_the_watch() {
        let folder = tempfile::tempdir().expect("a folder");
        let report = folder.path().join("report.jsonl");
        fs::write(&report, "{\"half\n").expect("written");
        let mut child = Command::new("sleep").arg("60").spawn().expect("started");
        let ended = watch(&mut child, &report, Instant::now());
        assert!(ended.is_err());
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
    }

    #[test]
    fn a_violation_is_shown_with_its_home() {
        let violation = r#"{"world":"w","home":"the platform","violation":"page 2"}"#;
        let found = found(&format!("{REPORT}{violation}\n"));
        assert!(found.text().contains("VIOLATION, the platform: page 2"));
        assert_eq!(found.json()["violations"][0]["violation"], "page 2");
    }
}
