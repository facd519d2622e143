// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Follows the test program's output and determines the results. A test passes
//! only if its line says so. A missing line, a program that ends early and a
//! kernel that panics are failures.

use serde_json::{Value, json};

use super::outcome::{Environment, Outcome, Status};
use crate::lab::disk::Written;

/// How the output ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The writer closed it.
    Closed,
    /// There was no output for this many seconds.
    Silent(u64),
    /// The whole run took longer than this many seconds.
    TooLong(u64),
}

/// What a line reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The kernel has started its first program. Contains its release.
    Up(String),
    /// The test program has started, with this many tests.
    Begun(usize),
    /// A test has ended.
    Ended(Outcome),
    /// A remark.
    Note(String),
}

/// The message of a line. Lines of other programs are ignored. A garbled line of
/// the test program shows up as a missing result.
pub fn message(line: &str) -> Option<Value> {
    serde_json::from_str(line.trim()).ok()
}

/// The state of the test program's run.
#[derive(Clone, Debug)]
pub struct Follower {
    name: String,
    kernel: String,
    caps: Value,
    announced: Option<Vec<String>>,
    tests: Vec<Outcome>,
    running: Option<String>,
    notes: Vec<String>,
    faults: Vec<String>,
    written: Vec<(String, Written)>,
    end: Option<u64>,
    exit: Option<i64>,
}

impl Follower {
    /// A run without output so far.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            kernel: String::new(),
            caps: json!({}),
            announced: None,
            tests: Vec::new(),
            running: None,
            notes: Vec::new(),
            faults: Vec::new(),
            written: Vec::new(),
            end: None,
            exit: None,
        }
    }

    /// Takes a message of the test program.
    pub fn message(&mut self, line: Value) -> Option<Event> {
        let text = |key: &str| line.get(key).and_then(Value::as_str).map(str::to_string);
        if let Some(release) = text("init") {
            self.kernel.clone_from(&release);
            return Some(Event::Up(release));
        }
        if let Some(note) = text("note") {
            self.notes.push(note.clone());
            return Some(Event::Note(note));
        }
        if let Some(fault) = text("fault") {
            self.faults.push(fault.clone());
            return Some(Event::Note(fault));
        }
        if let Some(tests) = line.get("tests").and_then(Value::as_array) {
            self.kernel = text("kernel").unwrap_or_default();
            self.caps = line.get("caps").cloned().unwrap_or_else(|| json!({}));
            let names = tests.iter().filter_map(Value::as_str).map(String::from);
            let names: Vec<String> = names.collect();
            let event = Event::Begun(names.len());
            self.announced = Some(names);
            return Some(event);
        }
        if let Some(name) = text("start") {
            self.running = Some(name);
            return None;
        }
        if let Some(written) = line.get("wrote") {
            let written = serde_json::from_value(written.clone()).ok()?;
            self.written.push((self.running.clone()?, written));
            return None;
        }
        if let Some(count) = line.get("end").and_then(Value::as_u64) {
            self.end = Some(count);
            return None;
        }
        if let Some(status) = line.get("exit").and_then(Value::as_i64) {
            self.exit = Some(status);
            return None;
        }
        let outcome: Outcome = serde_json::from_value(line).ok()?;
        if self.running.as_ref() == Some(&outcome.name) {
            self.running = None;
        }
        self.tests.push(outcome.clone());
        Some(Event::Ended(outcome))
    }

    /// Whether the program has started its tests.
    pub fn has_begun(&self) -> bool {
        self.announced.is_some()
    }

    /// Whether the program has reported the end of its tests.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// The result, given how the output ended and, if there is one, the
    /// console's line with an error of the kernel.
    pub fn finish(mut self, ending: &Ending, complaint: Option<&str>) -> Environment {
        let complaint = complaint.map(|words| format!("the kernel says: {words}"));
        let cause = complaint.clone().unwrap_or_else(|| self.cause(ending));
        let fault = (!self.faults.is_empty()).then(|| self.faults.join(", "));
        let mut failure = complaint.or(fault);
        let announced = self.announced.take();
        let is_idle = announced.as_ref().is_some_and(Vec::is_empty)
            && self.end == Some(0)
            && failure.is_none();
        let announced = announced.unwrap_or_default();
        if is_idle {
            failure = Some("no test has that text in its name".into());
        } else if announced.is_empty() {
            failure = Some(format!("no test began: {cause}"));
        }
        let mut reached_end = self.end.is_some();
        for name in announced {
            if self.tests.iter().any(|outcome| outcome.name == name) {
                continue;
            }
            reached_end = false;
            let reason = match self.running.as_ref() == Some(&name) {
                true => format!("it did not end: {cause}"),
                false => format!("it did not run: {cause}"),
            };
            self.tests.push(Outcome {
                name,
                status: Status::Fail,
                reason: Some(reason),
                ms: 0,
                is_unsteady: false,
            });
        }
        if !reached_end && failure.is_none() {
            failure = Some(format!("the tests did not come to their end: {cause}"));
        }
        Environment {
            name: self.name,
            kernel: self.kernel,
            caps: self.caps,
            tests: self.tests,
            failure,
            is_idle,
            notes: self.notes,
            console: None,
            console_end: String::new(),
            written: self.written,
        }
    }

    /// The reason why the output ended, as far as the lines tell.
    fn cause(&self, ending: &Ending) -> String {
        match (self.exit, ending) {
            (Some(status), _) if self.end.is_none() => {
                format!("the test program ended early, with status {status}")
            }
            (_, Ending::Closed) => "it ended in the middle of it".into(),
            (_, Ending::Silent(seconds)) => format!("nothing was heard for {seconds} s: hung"),
            (_, Ending::TooLong(seconds)) => format!("the whole took longer than {seconds} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: &str = r#"{"init": "7.3.4-lab"}"#;
    const BEGIN: &str = r#"{"kernel":"7.3.4-lab","caps":{"GUEST_MEMFD":1},"tests":["a","b"]}"#;
    const A_STARTS: &str = r#"{"start":"a"}"#;
    const A_PASSES: &str = r#"{"name":"a","status":"pass","reason":null,"ms":3}"#;
    const B_STARTS: &str = r#"{"start":"b"}"#;
    const B_SKIPS: &str = r#"{"name":"b","status":"skip","reason":"no KVM","ms":0}"#;
    const END: &str = r#"{"end":2}"#;

    const ALL: [&str; 7] = [UP, BEGIN, A_STARTS, A_PASSES, B_STARTS, B_SKIPS, END];

    fn follow(lines: &[&str]) -> Follower {
        let mut follower = Follower::new("lab");
        for line in lines {
            message(line).and_then(|message| follower.message(message));
        }
        follower
    }

    fn reason(environment: &Environment, test: &str) -> String {
        let outcome = environment.outcome(test).expect("it is listed");
        assert_eq!(outcome.status, Status::Fail, "{test}");
        outcome.reason.clone().expect("a failure has a reason")
    }

    #[test]
    fn a_whole_run_is_good() {
        let follower = follow(&ALL);
        assert!(follower.has_begun() && follower.has_ended());
        let environment = follower.finish(&Ending::Closed, None);
        assert!(environment.is_good(), "{environment:?}");
        assert_eq!(environment.kernel, "7.3.4-lab");
        assert_eq!(environment.caps["GUEST_MEMFD"], 1);
        assert_eq!(environment.count(Status::Pass), 1);
        assert_eq!(environment.count(Status::Skip), 1);
    }

    #[test]
    fn a_fault_of_the_environment_fails_it_although_all_tests_passed() {
        let fault = r#"{"fault": "02-kvm_amd.ko cannot be loaded"}"#;
        let lines = [&ALL[..1], &[fault], &ALL[1..]].concat();
        let environment = follow(&lines).finish(&Ending::Closed, None);
        assert!(!environment.is_good());
        let failure = environment.failure.expect("it failed");
        assert!(failure.contains("kvm_amd.ko cannot be loaded"), "{failure}");
    }

    #[test]
    fn what_a_test_wrote_to_the_disk_is_noted_with_its_name() {
        let wrote = r#"{"wrote":{"offset":512,"length":3,"sha256":"ab"}}"#;
        let lines = [&ALL[..3], &[wrote], &ALL[3..], &[wrote]].concat();
        let written = follow(&lines).finish(&Ending::Closed, None).written;
        assert_eq!(written.len(), 1, "the second one is of no test");
        assert_eq!((written[0].0.as_str(), written[0].1.offset), ("a", 512));
    }

    #[test]
    fn a_run_that_lacks_an_important_line_is_not_good() {
        // The first line and the starts only help to find reasons.
        for missing in [BEGIN, A_PASSES, B_SKIPS, END] {
            let lines: Vec<&str> = ALL.into_iter().filter(|line| *line != missing).collect();
            let environment = follow(&lines).finish(&Ending::Closed, None);
            assert!(!environment.is_good(), "without {missing}");
            assert!(environment.failure.is_some(), "without {missing}");
        }
    }

    #[test]
    fn a_run_cut_anywhere_is_not_good() {
        let text = ALL.join("\n");
        // The last line counts without its line end.
        for cut in 0..text.len() {
            let lines: Vec<&str> = text[..cut].lines().collect();
            let environment = follow(&lines).finish(&Ending::Closed, None);
            assert!(!environment.is_good(), "cut after {cut}");
        }
    }

    #[test]
    fn a_kernel_that_never_starts_its_first_program_fails() {
        let panic = "[0.9] Kernel panic - not syncing: No working init found.";
        let environment = follow(&[]).finish(&Ending::Closed, Some(panic));
        assert!(!environment.is_good());
        let failure = environment.failure.expect("it failed");
        assert!(failure.contains("No working init found"), "{failure}");
    }

    #[test]
    fn a_hang_fails_the_running_test_and_those_that_never_ran() {
        let environment = follow(&ALL[..3]).finish(&Ending::Silent(120), None);
        assert!(reason(&environment, "a").contains("did not end: nothing was heard for 120 s"));
        assert!(reason(&environment, "b").contains("did not run"));
        assert!(environment.failure.is_some());
    }

    #[test]
    fn a_panic_in_a_test_fails_that_test() {
        let panic = "[9.9] Kernel panic - not syncing: Fatal exception";
        let environment = follow(&ALL[..5]).finish(&Ending::Closed, Some(panic));
        assert!(reason(&environment, "b").contains("did not end: the kernel says"));
        assert_eq!(
            environment.outcome("a").map(|a| a.status),
            Some(Status::Pass)
        );
    }

    #[test]
    fn a_panic_after_the_last_test_is_a_failure() {
        let environment = follow(&ALL).finish(&Ending::Closed, Some("Kernel panic"));
        assert!(!environment.is_good());
        assert_eq!(environment.count(Status::Fail), 0);
    }

    #[test]
    fn a_program_that_dies_is_reported_with_its_status() {
        let lines = [&ALL[..3], &[r#"{"exit": 139}"#]].concat();
        let environment = follow(&lines).finish(&Ending::Closed, None);
        assert!(reason(&environment, "a").contains("ended early, with status 139"));
    }

    #[test]
    fn no_test_at_all_is_a_failure() {
        let empty = r#"{"kernel":"7.3.4","caps":{},"tests":[]}"#;
        let environment = follow(&[empty, r#"{"end":0}"#]).finish(&Ending::Closed, None);
        assert!(!environment.is_good() && environment.is_idle);
        let environment = follow(&[empty]).finish(&Ending::Closed, None);
        assert!(!environment.is_good() && !environment.is_idle);
    }

    #[test]
    fn noise_between_the_lines_is_ignored() {
        let mut follower = Follower::new("lab");
        for line in ALL {
            assert_eq!(message("random: crng init done"), None);
            assert_eq!(message("{\"half\":"), None);
            assert_eq!(follower.message(json!([1, 2])), None);
            message(&format!("{line}\r")).and_then(|message| follower.message(message));
        }
        assert!(follower.finish(&Ending::Closed, None).is_good());
    }
}
