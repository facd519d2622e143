// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What pre-faulting saves a guest after a conversion, in the lab.

use serde_json::Value;

use super::{line, wrapped};
use crate::lab::architecture::X86_64;
use crate::lab::command;
use crate::shell::build_static_program;

/// An environment whose VMs can have private pages.
const ENVIRONMENT: &str = "lab-7.3";

/// The table, or the reason if the lab is not available.
pub fn table() -> String {
    let title =
        "Converting 4 MiB to private, and the guest's first load from each page, under emulation";
    match measured() {
        Ok(rows) => format!("{}\n\n{rows}", wrapped(title)),
        Err(why) => format!("{title}: not measured: {why}\n"),
    }
}

fn measured() -> Result<String, String> {
    eprintln!("xtask: converting memory without and with pre-faulting in {ENVIRONMENT}");
    let tests = build_static_program("tests", "hw-tests", &X86_64.target)?;
    let files = [("bin/hw-tests", tests.as_path())];
    let words = ["hw-tests", "--conversion-costs"];
    let printed = command::output(ENVIRONMENT, &files, &words, &[])?;
    let lines = printed.split(|&byte| byte == b'\n');
    let rows: Vec<Value> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    table_of(&rows).ok_or_else(|| "it said nothing".into())
}

fn table_of(rows: &[Value]) -> Option<String> {
    let mut table = String::from("| pages are mapped | faults | conversion, ms | loads, ms |\n");
    line(&mut table, "| --- | ---: | ---: | ---: |");
    for (pre_faulted, words) in [(false, "by the guest's faults"), (true, "in advance")] {
        let row = rows.iter().find(|row| row["pre_faulted"] == pre_faulted)?;
        let ms = |what: &str| Some(format!("{:.1}", row[what].as_f64()? / 1000.0));
        let faults = row["faults"].as_u64()?;
        let (converted, accessed) = (ms("converted_us")?, ms("accessed_us")?);
        line(
            &mut table,
            &format!("| {words} | {faults} | {converted} | {accessed} |"),
        );
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_are_a_line_and_a_missing_one_is_not_invented() {
        let row = |pre_faulted: bool| {
            json!({
                "pre_faulted": pre_faulted, "faults": 1024,
                "converted_us": 1500.0, "accessed_us": 20_000.0,
            })
        };
        let table = table_of(&[row(true), row(false)]).expect("both are there");
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[2], "| by the guest's faults | 1024 | 1.5 | 20.0 |");
        assert_eq!(lines[3], "| in advance | 1024 | 1.5 | 20.0 |");
        assert_eq!(table_of(&[row(true)]), None);
    }
}
