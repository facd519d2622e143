// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `vmm boot --json` prints at its end.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The report of a run.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// How the guest ended.
    ended: String,
    /// The exits to the VMM by region.
    exits: Vec<Exits>,
    /// The memslots at the end.
    #[expect(dead_code, reason = "shown in messages")]
    slots: Vec<Value>,
    /// The interrupts by the way of their delivery.
    interrupts: BTreeMap<String, u64>,
}

/// The exits that one region caused.
#[derive(Clone, Debug, Deserialize)]
struct Exits {
    region: String,
    count: u64,
}

impl Report {
    /// Reads the report, which is at the end of the output.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(lines: &[String]) -> Result<Self, String> {
        let start = lines.iter().rposition(|line| line.starts_with('{'));
        let start = start.ok_or("vmm boot printed no report")?;
        let text = lines[start..].join("\n");
        serde_json::from_str(&text).map_err(|e| format!("vmm boot's report: {e}: {text}"))
    }

    /// The guest switched itself off.
    pub fn is_power_off(&self) -> Result<(), String> {
        match self.ended.as_str() {
            "power-off" => Ok(()),
            _ => Err(format!("the guest did not switch itself off: {self:?}")),
        }
    }

    /// At least one interrupt came from a device, and all by irqfd.
    pub fn interrupts_are_by_irqfd(&self) -> Result<(), String> {
        let others = |(way, count): (&String, &u64)| way != "irqfd" && *count > 0;
        match self.interrupts.get("irqfd") {
            Some(1..) if !self.interrupts.iter().any(others) => Ok(()),
            _ => Err(format!("interrupts by {:?}", self.interrupts)),
        }
    }

    /// No access to a BAR left the guest, but for those to an MSI-X table's
    /// page.
    pub fn only_msix_tables_are_trapped(&self) -> Result<(), String> {
        let is_bar = |exits: &&Exits| exits.region.contains("bar") && exits.count > 0;
        let is_table = |exits: &Exits| exits.region.contains("msix");
        let bars = self.exits.iter().filter(is_bar);
        let wrong: Vec<&Exits> = bars.filter(|exits| !is_table(exits)).collect();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("exits at registers: {wrong:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(exits: &str, interrupts: &str) -> Report {
        let text = format!(
            "[   1.0] {{ it boots }}\n{{\n \"ended\": \"power-off\", \"slots\": [], \n \
             \"exits\": [{exits}],\n \"interrupts\": {{{interrupts}}}\n}}"
        );
        let lines: Vec<String> = text.lines().map(String::from).collect();
        Report::parse(&lines).expect("a report")
    }

    #[test]
    fn exits_at_registers_are_found_beside_those_at_a_table() {
        let serial = r#"{"region": "serial", "count": 9}"#;
        let table = r#"{"region": "nvme.bar0.msix@0x2000", "count": 9}"#;
        let doorbell = r#"{"region": "nvme.bar0@0x1000", "count": 1}"#;
        let of = |exits: &[&str]| report(&exits.join(","), "").only_msix_tables_are_trapped();
        assert_eq!(of(&[serial, table]), Ok(()));
        let error = of(&[serial, doorbell]).expect_err("a doorbell was trapped");
        assert!(error.contains("bar0@0x1000"), "{error}");
    }

    #[test]
    fn an_interrupt_that_is_not_by_irqfd_is_found() {
        let of = |interrupts: &str| report("", interrupts).interrupts_are_by_irqfd();
        assert_eq!(of(r#""irqfd": 3, "line": 0"#), Ok(()));
        for wrong in ["", r#""irqfd": 0"#, r#""irqfd": 3, "line": 1"#] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
