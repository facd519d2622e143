// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results as text: a table of tests and environments, and the reasons.

use std::fmt::Write as _;

use super::report::{Report, Status};

/// The whole report for a terminal.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(report, &mut text);
    text
}

fn write_text(report: &Report, to: &mut String) -> std::fmt::Result {
    for environment in &report.environments {
        let caps = environment.caps.as_object().into_iter().flatten();
        let caps: Vec<String> = caps
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        match environment.kernel.as_str() {
            "" => writeln!(to, "{}: no kernel came up", environment.name)?,
            kernel => writeln!(to, "{}: Linux {kernel}", environment.name)?,
        }
        if !caps.is_empty() {
            writeln!(to, "  {}", caps.join(" "))?;
        }
        for note in &environment.notes {
            writeln!(to, "  note: {note}")?;
        }
    }
    for missing in &report.unavailable {
        writeln!(to, "{}: not available: {}", missing.name, missing.reason)?;
    }
    write_table(report, to)?;
    write_reasons(report, Status::Skip, "skipped", to)?;
    write_reasons(report, Status::Fail, "FAILED", to)?;
    for environment in &report.environments {
        if let Some(failure) = &environment.failure {
            writeln!(to, "\nFAILED: {}: {failure}", environment.name)?;
        }
        if let (false, Some(console)) = (environment.is_good(), &environment.console) {
            writeln!(to, "  its console: {}", console.display())?;
        }
    }
    Ok(())
}

/// Each reason once, with its environments and tests.
fn write_reasons(report: &Report, status: Status, word: &str, to: &mut String) -> std::fmt::Result {
    for (reason, pairs) in report.reasons(status) {
        let mut environments: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
        environments.dedup();
        writeln!(to, "\n{word} on {}: {reason}", environments.join(", "))?;
        let mut tests: Vec<&str> = Vec::new();
        for (_, test) in pairs {
            if !tests.contains(&test) {
                tests.push(test);
                writeln!(to, "  {test}")?;
            }
        }
    }
    Ok(())
}

fn write_table(report: &Report, to: &mut String) -> std::fmt::Result {
    let names = report.test_names();
    let wide = names
        .iter()
        .map(|name| name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    write!(to, "\n{:<wide$}", "test")?;
    for environment in &report.environments {
        write!(to, "  {}", environment.name)?;
    }
    writeln!(to)?;
    for test in names {
        write!(to, "{test:<wide$}")?;
        for environment in &report.environments {
            let outcome = environment.outcome(test);
            let word = outcome.map_or("-", |outcome| outcome.status.word());
            write!(to, "  {word:<width$}", width = environment.name.len())?;
        }
        writeln!(to)?;
    }
    for (status, what) in [
        (Status::Pass, "passed"),
        (Status::Skip, "skipped"),
        (Status::Fail, "failed"),
    ] {
        write!(to, "{what:>wide$}")?;
        for environment in &report.environments {
            let (count, width) = (environment.count(status), environment.name.len());
            write!(to, "  {count:<width$}")?;
        }
        writeln!(to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw_test::report::examples;

    #[test]
    fn the_table_has_a_row_a_test_and_a_column_an_environment() {
        let text = text(&examples::report());
        let has =
            |line: &str| assert!(text.lines().any(|l| l.trim_end() == line), "{line}\n{text}");
        has("test               host  lab-7.3");
        has("a_slot_moves       pass  fail");
        has("a_page_is_private  skip  -");
        has("only_here          -     skip");
        has("           failed  0     1");
        has("debian-6.1: not available: apt cannot be reached");
        has("skipped on host, lab-7.3: no <attributes>");
        has("FAILED on lab-7.3: it took too long");
        has("FAILED: lab-7.3: Kernel panic");
    }
}
