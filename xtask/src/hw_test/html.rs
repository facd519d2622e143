// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The results as one self-contained HTML page: the table, every skip with its
//! reason, and every failure with its machine's console.

use std::fmt::Write as _;

use super::outcome::{Environment, Status};
use super::report::{Report, Table};

const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Hardware tests</title>
<style>
:root { color-scheme: light dark; --line: #8886; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .7rem; text-align: left; }
thead th { position: sticky; top: 0; background: Canvas; }
td.pass { color: #1a7f37; }
td.skip, td.known { color: #7a6a00; }
td.fail, p.fail { background: #c0202022; color: #c02020; font-weight: bold; }
td.none { color: #888; }
pre { border: 1px solid var(--line); max-height: 40rem; overflow: auto; padding: .7rem; white-space: pre-wrap; }
code { font-size: .92em; }
@media (prefers-color-scheme: dark) {
  td.pass { color: #4cc266; } td.skip, td.known { color: #d2b93a; } td.fail, p.fail { color: #ff7b72; }
}
</style>
</head>
<body>
";

/// The page. `console` returns the console's text of an environment.
pub fn page(report: &Report, console: impl Fn(&Environment) -> String) -> String {
    let mut page = String::from(HEAD);
    // Writing to a string cannot fail.
    let _ = write_page(report, console, &mut page);
    page
}

fn write_page(
    report: &Report,
    console: impl Fn(&Environment) -> String,
    to: &mut String,
) -> std::fmt::Result {
    writeln!(to, "<h1>Hardware tests</h1>")?;
    write_environments(report, to)?;
    if let Some(table) = report.own_tests() {
        write_table("Tests", &table, to)?;
    }
    if let Some(table) = report.selftests() {
        write_table("The kernel's own selftests", &table, to)?;
    }
    if let Some(fault) = report.regression() {
        writeln!(to, "<p class=\"fail\">{}</p>", escape(&fault))?;
    }
    write_failures(report, console, to)?;
    write_reasons(report, Status::Skip, "Skipped", to)?;
    write_reasons(report, Status::Known, "Known to fail", to)?;
    writeln!(to, "</body>\n</html>")
}

fn write_environments(report: &Report, to: &mut String) -> std::fmt::Result {
    writeln!(to, "<h2>Environments</h2>\n<div class=\"wide\"><table>")?;
    writeln!(
        to,
        "<thead><tr><th>name<th>kernel<th>passed<th>skipped<th>known to fail<th>failed<th>capabilities of its KVM</thead>"
    )?;
    for environment in &report.environments {
        let caps = environment.caps.as_object().into_iter().flatten();
        let caps: Vec<String> = caps
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let [pass, skip, known, fail] =
            [Status::Pass, Status::Skip, Status::Known, Status::Fail].map(|s| environment.count(s));
        let name = escape(&environment.name);
        let kernel = escape(&environment.kernel);
        let caps = escape(&caps.join(", "));
        let class = if environment.is_good() {
            "pass"
        } else {
            "fail"
        };
        writeln!(
            to,
            "<tr><td class=\"{class}\">{name}<td>{kernel}<td>{pass}<td>{skip}<td>{known}<td>{fail}<td>{caps}"
        )?;
    }
    for missing in &report.unavailable {
        let (name, reason) = (escape(&missing.name), escape(&missing.reason));
        let class = if missing.is_fault { "fail" } else { "none" };
        let state = missing.state();
        writeln!(
            to,
            "<tr><td class=\"{class}\">{name}<td colspan=\"6\">{state}: {reason}"
        )?;
    }
    writeln!(to, "</table></div>")
}

fn write_table(title: &str, table: &Table<'_>, to: &mut String) -> std::fmt::Result {
    let Table {
        environments,
        names,
    } = table;
    writeln!(
        to,
        "<h2>{title}</h2>\n<div class=\"wide\"><table>\n<thead><tr><th>test"
    )?;
    for environment in environments {
        writeln!(to, "<th>{}", escape(&environment.name))?;
    }
    writeln!(to, "</thead>")?;
    for test in names {
        writeln!(to, "<tr><td><code>{}</code>", escape(test))?;
        for environment in environments {
            match environment.outcome(test) {
                None => writeln!(to, "<td class=\"none\">–")?,
                Some(outcome) => {
                    let word = outcome.status.word();
                    let reason = escape(outcome.reason.as_deref().unwrap_or_default());
                    let ms = outcome.ms;
                    writeln!(
                        to,
                        "<td class=\"{word}\" title=\"{ms} ms. {reason}\">{word}"
                    )?;
                }
            }
        }
    }
    writeln!(to, "</table></div>")
}

fn write_failures(
    report: &Report,
    console: impl Fn(&Environment) -> String,
    to: &mut String,
) -> std::fmt::Result {
    let bad: Vec<&Environment> = report
        .environments
        .iter()
        .filter(|e| !e.is_good())
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    writeln!(to, "<h2>Failures</h2>")?;
    for environment in bad {
        writeln!(to, "<h3>{}</h3>\n<ul>", escape(&environment.name))?;
        if let Some(failure) = &environment.failure {
            writeln!(to, "<li>{}", escape(failure))?;
        }
        let failed = environment.tests.iter();
        for outcome in failed.filter(|outcome| outcome.status == Status::Fail) {
            let reason = escape(outcome.reason.as_deref().unwrap_or("no reason given"));
            let name = escape(&outcome.name);
            writeln!(to, "<li><code>{name}</code><pre>{reason}</pre>")?;
        }
        writeln!(to, "</ul>")?;
        if environment.console.is_some() {
            let text = escape(&console(environment));
            writeln!(
                to,
                "<details open><summary>Its console</summary>\n<pre>{text}</pre></details>"
            )?;
        }
    }
    Ok(())
}

fn write_reasons(
    report: &Report,
    status: Status,
    title: &str,
    to: &mut String,
) -> std::fmt::Result {
    let reasons = report.reasons(status);
    if reasons.is_empty() {
        return Ok(());
    }
    writeln!(to, "<h2>{title}</h2>")?;
    for (reason, pairs) in reasons {
        writeln!(to, "<h3>{}</h3>\n<ul>", escape(reason))?;
        for (environment, test) in pairs {
            let (environment, test) = (escape(environment), escape(test));
            writeln!(to, "<li>{environment}: <code>{test}</code>")?;
        }
        writeln!(to, "</ul>")?;
    }
    Ok(())
}

/// Escapes text for HTML. Characters that a page cannot show become dots.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\t' => escaped.push(sign),
            sign if sign.is_control() => escaped.push('·'),
            sign => escaped.push(sign),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw_test::report::examples;

    #[test]
    fn every_skip_has_its_reason_and_every_failure_its_console() {
        let mut report = examples::report();
        report.environments[1].console = Some("console.log".into());
        let page = page(&report, |environment| {
            format!("{}: <panic> & \u{1b}[0m\n", environment.name)
        });
        for part in [
            "<h3>no &lt;attributes&gt;</h3>",
            "<li>host: <code>a_page_is_private</code>",
            "<li>lab-7.3: <code>only_here</code>",
            "<pre>it took too long</pre>",
            "<li>Kernel panic",
            "lab-7.3: &lt;panic&gt; &amp; ·[0m",
            "not available: apt cannot be reached",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(
            !page.contains("host: &lt;panic&gt;"),
            "only failures have a console"
        );
    }

    #[test]
    fn a_good_report_has_no_failures() {
        let mut report = examples::report();
        report.environments.truncate(1);
        assert!(!page(&report, |_| String::new()).contains("<h2>Failures</h2>"));
    }

    #[test]
    fn the_kernels_own_selftests_have_a_table_with_their_fault() {
        let page = page(&examples::selftests(), |_| String::new());
        for part in [
            "<h2>The kernel's own selftests</h2>",
            "<td class=\"known\" title=\"1 ms. the emulator's clock\">known",
            "<p class=\"fail\">passes on lab-7.3 and not on lab-7.3-private-mmio: \
             selftest::kvm::debug_regs</p>",
            "<h2>Known to fail</h2>\n<h3>the emulator's clock</h3>",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }
}
