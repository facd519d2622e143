// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `vmm boot --json` prints at its end.

use serde::Deserialize;

/// The pieces of BARs with an MSI-X table in them: nvme's, and e1000e's.
const TABLES: [&str; 2] = [" BAR 0 trap 0x2000", " BAR 3 trap 0x0"];

/// The report of a run.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// How the guest ended.
    ended: String,
    /// What happened, if it was a fault.
    fault: Option<String>,
    /// The exits to the VMM by region.
    exits: Vec<Exits>,
    /// The eventfds that are connected to interrupts. No interrupt of a device
    /// arrives in another way.
    irqfds: u64,
}

/// The exits that one region caused.
#[derive(Clone, Debug, Deserialize)]
struct Exits {
    region: String,
    count: u64,
}

impl Report {
    /// Reads the report.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|e| format!("vmm boot's report: {e}: '{text}'"))
    }

    /// The guest switched itself off.
    pub fn is_power_off(&self) -> Result<(), String> {
        let fault = self.fault.as_deref().unwrap_or_default();
        match self.ended.as_str() {
            "power-off" => Ok(()),
            other => Err(format!("the guest ended by {other}: {fault}")),
        }
    }

    /// The eventfds that are connected to interrupts.
    pub fn irqfds(&self) -> u64 {
        self.irqfds
    }

    /// The exits at BARs.
    pub fn exits_at_bars(&self) -> u64 {
        self.at_bars().map(|exits| exits.count).sum()
    }

    fn at_bars(&self) -> impl Iterator<Item = &Exits> {
        let is_bar = |exits: &&Exits| exits.region.contains(" BAR ") && exits.count > 0;
        self.exits.iter().filter(is_bar)
    }

    /// No access to a BAR left the guest, but for those to an MSI-X table's
    /// page.
    pub fn only_msix_tables_are_trapped(&self) -> Result<(), String> {
        let is_table = |exits: &Exits| TABLES.iter().any(|table| exits.region.ends_with(table));
        let wrong: Vec<&Exits> = self.at_bars().filter(|exits| !is_table(exits)).collect();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("exits at registers: {wrong:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_at_registers_are_found_beside_those_at_a_table() {
        let serial = r#"{"region": "serial", "count": 9}"#;
        let table = r#"{"region": "0000:00:04.0 BAR 0 trap 0x2000", "count": 9}"#;
        let doorbell = r#"{"region": "0000:00:04.0 BAR 0 trap 0x1000", "count": 1}"#;
        let of = |exits: &[&str]| {
            let exits = exits.join(",");
            let text = format!(r#"{{"ended": "power-off", "exits": [{exits}], "irqfds": 1}}"#);
            let report = Report::parse(&text).expect("a report");
            report.only_msix_tables_are_trapped()
        };
        assert_eq!(of(&[serial, table]), Ok(()));
        let error = of(&[serial, doorbell]).expect_err("a doorbell was trapped");
        assert!(error.contains("trap 0x1000"), "{error}");
    }
}
