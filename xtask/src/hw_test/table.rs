// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results as text: a table of tests and environments, and the reasons.

use std::fmt::Write as _;

use super::outcome::Status;
use super::report::{Report, Table};

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
        let (name, state, reason) = (&missing.name, missing.state(), &missing.reason);
        writeln!(to, "{name}: {state}: {reason}")?;
    }
    if let Some(table) = report.own_tests() {
        write_table("test", &table, to)?;
    }
    if let Some(table) = report.selftests() {
        write_table("the kernel's own", &table, to)?;
    }
    write_reasons(report, Status::Skip, "skipped", to)?;
    write_reasons(report, Status::Known, "known to fail", to)?;
    write_reasons(report, Status::Fail, "FAILED", to)?;
    if let Some(fault) = report.regression() {
        writeln!(to, "\nFAILED: {fault}")?;
    }
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

fn write_table(title: &str, table: &Table<'_>, to: &mut String) -> std::fmt::Result {
    let Table {
        environments,
        names,
    } = table;
    let longest = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let wide = longest.max(title.len());
    write!(to, "\n{title:<wide$}")?;
    for environment in environments {
        write!(to, "  {}", environment.name)?;
    }
    writeln!(to)?;
    for test in names {
        write!(to, "{test:<wide$}")?;
        for environment in environments {
            let outcome = environment.outcome(test);
            let word = outcome.map_or("-", |outcome| outcome.status.word());
            write!(to, "  {word:<width$}", width = environment.name.len())?;
        }
        writeln!(to)?;
    }
    for (status, what) in [
        (Status::Pass, "passed"),
        (Status::Skip, "skipped"),
        (Status::Known, "known to fail"),
        (Status::Fail, "failed"),
    ] {
        let counts = environments.iter().map(|environment| {
            let outcomes = names.iter().filter_map(|name| environment.outcome(name));
            (
                outcomes.filter(|outcome| outcome.status == status).count(),
                environment.name.len(),
            )
        });
        let counts: Vec<(usize, usize)> = counts.collect();
        // Only the kernel's own selftests have known failures.
        if status == Status::Known && counts.iter().all(|(count, _)| *count == 0) {
            continue;
        }
        write!(to, "{what:>wide$}")?;
        for (count, width) in counts {
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

    #[test]
    fn the_kernels_own_selftests_have_a_table_of_their_own() {
        let mut report = examples::selftests();
        let mut other = examples::report().environments.remove(0);
        other.tests[1].name = "selftest::kvm".into();
        report.environments.insert(0, other);
        let text = text(&report);
        let has =
            |line: &str| assert!(text.lines().any(|l| l.trim_end() == line), "{line}\n{text}");
        has("test          host");
        has("a_slot_moves  pass");
        has("the kernel's own           lab-7.3  lab-7.3-private-mmio");
        has("selftest::kvm::debug_regs  pass     known");
        has("            known to fail  1        2");
        has("known to fail on lab-7.3, lab-7.3-private-mmio: the emulator's clock");
        let own = report.environments[0].tests[0].clone();
        report.environments[1].tests.push(own);
        let text = super::text(&report);
        assert!(text.contains("\ntest          host  lab-7.3\n"), "{text}");
        report.environments.remove(0);
        report.environments[0].tests.pop();
        let text = super::text(&report);
        assert!(!text.contains("\ntest "), "no other tests ran:\n{text}");
        has("FAILED: passes on lab-7.3 and not on lab-7.3-private-mmio: selftest::kvm::debug_regs");
    }
}
