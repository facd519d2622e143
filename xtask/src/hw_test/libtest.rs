// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads the JSON lines of a test program of Cargo's (`--format json`), and
//! reports them as the hardware tests' program does.

use std::time::Instant;

use serde_json::{Value, json};

use super::follow;

/// Translates the lines of a test program, which runs one test at a time.
#[derive(Debug)]
pub struct Translator {
    prefix: &'static str,
    announcement: Value,
    started: Instant,
}

impl Translator {
    /// A translator for these tests, whose names are reported after `prefix`. The
    /// program itself tells only their number.
    pub fn new(prefix: &'static str, kernel: &str, names: &[String]) -> Self {
        let names: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
        Self {
            prefix,
            announcement: json!({"kernel": kernel, "caps": {}, "tests": names}),
            started: Instant::now(),
        }
    }

    /// The message of a line, if it has one.
    pub fn message(&mut self, line: &str) -> Option<Value> {
        let line = follow::message(line)?;
        let text = |key: &str| line.get(key).and_then(Value::as_str);
        let event = text("event")?;
        if text("type")? == "suite" {
            return Some(match event {
                "started" => self.announcement.clone(),
                _ => json!({"end": line.get("passed")?}),
            });
        }
        let name = format!("{}{}", self.prefix, text("name")?);
        if event == "started" {
            self.started = Instant::now();
            return Some(json!({"start": name}));
        }
        // None is ignored if the program has what it needs.
        let (status, reason) = match event {
            "ok" => ("pass", None),
            _ => ("fail", Some(text("stdout").map_or(event, error))),
        };
        let ms = self.started.elapsed().as_millis();
        let ms = u64::try_from(ms).unwrap_or(u64::MAX);
        Some(json!({"name": name, "status": status, "reason": reason, "ms": ms}))
    }
}

/// The error of a test that failed, from what is shown of it.
fn error(shown: &str) -> &str {
    let shown = shown.trim();
    let quoted = shown.strip_prefix("Error: \"");
    quoted
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw_test::follow::{Ending, Follower};
    use crate::hw_test::outcome::{Environment, Status};

    const LINES: [&str; 6] = [
        r#"{ "type": "suite", "event": "started", "test_count": 2 }"#,
        r#"{ "type": "test", "event": "started", "name": "a" }"#,
        r#"{ "type": "test", "name": "a", "event": "ok" }"#,
        r#"{ "type": "test", "event": "started", "name": "b" }"#,
        r#"{ "type": "test", "name": "b", "event": "ok" }"#,
        r#"{ "type": "suite", "event": "ok", "passed": 2, "failed": 0, "ignored": 0 }"#,
    ];

    fn follow(lines: &[&str]) -> Environment {
        let mut translator = Translator::new("sim::", "7.3", &["a".into(), "b".into()]);
        let mut follower = Follower::new("it");
        for message in lines.iter().filter_map(|line| translator.message(line)) {
            follower.message(message);
        }
        follower.finish(&Ending::Closed, None)
    }

    #[test]
    fn a_test_that_is_ok_passes_and_has_the_prefix_in_its_name() {
        let environment = follow(&LINES);
        assert!(environment.is_good(), "{environment:?}");
        assert_eq!(environment.kernel, "7.3");
        let names: Vec<&str> = environment.tests.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["sim::a", "sim::b"]);
    }

    #[test]
    fn a_test_that_failed_has_its_error_as_the_reason() {
        let mut lines = LINES;
        lines[4] =
            r#"{ "type": "test", "name": "b", "event": "failed", "stdout": "Error: \"x\"\n" }"#;
        let environment = follow(&lines);
        assert_eq!(environment.count(Status::Pass), 1);
        let outcome = environment.outcome("sim::b").expect("it is listed");
        assert_eq!(outcome.status, Status::Fail);
        assert_eq!(outcome.reason.as_deref(), Some("x"));
    }

    #[test]
    fn a_test_that_is_ignored_or_does_not_end_fails() {
        let mut lines = LINES;
        lines[4] = r#"{ "type": "test", "name": "b", "event": "ignored" }"#;
        for lines in [&lines[..], &LINES[..4], &LINES[..3]] {
            let environment = follow(lines);
            let outcome = environment.outcome("sim::b").expect("it is listed");
            assert_eq!(outcome.status, Status::Fail, "{outcome:?}");
        }
    }

    #[test]
    fn a_program_that_ends_before_its_summary_fails() {
        assert!(!follow(&LINES[..5]).is_good());
        assert!(!follow(&[]).is_good());
    }
}
