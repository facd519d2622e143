// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `vmm boot --json` prints at its end.

use serde::{Deserialize, Deserializer};

use super::Bars;
use super::native::RAM_START;
use super::run::RAM;
use crate::subject::host_page_size;

/// The BARs with an MSI-X table in them, and where it is: nvme's, and e1000e's.
const TABLES: [(u8, u64); 2] = [(0, 0x2000), (3, 0)];

/// Whether this is the piece of a BAR with an MSI-X table in it, on a host with pages of
/// this size.
fn is_table(region: &str, page: u64) -> bool {
    let ends = TABLES.map(|(bar, at)| format!(" BAR {bar} trap {:#x}", at / page * page));
    ends.iter().any(|end| region.ends_with(end))
}

/// The report of a run.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// How the guest ended.
    ended: String,
    /// What happened, if it was a fault.
    fault: Option<String>,
    /// The exits to the VMM by region.
    exits: Vec<Exits>,
    /// The memslots at the end.
    slots: Vec<Slot>,
    /// The eventfds that are connected to interrupts. No interrupt of a device
    /// arrives in another way.
    irqfds: u64,
    /// What devices reach by DMA.
    dma: Option<Dma>,
    /// What the VMM has to say.
    notes: Vec<String>,
}

/// What devices reach, in bytes.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Dma {
    /// What is mapped at the end.
    pub mapped: u64,
    /// RAM that is shared at the end.
    pub shared: u64,
}

/// The exits that one region caused.
#[derive(Clone, Debug, Deserialize)]
struct Exits {
    region: String,
    count: u64,
}

/// A memslot.
#[derive(Clone, Debug, Deserialize)]
struct Slot {
    #[serde(deserialize_with = "hex")]
    gpa: u64,
    #[serde(deserialize_with = "hex")]
    size: u64,
    backing: String,
}

fn hex<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    parse_hex(&text).ok_or_else(|| serde::de::Error::custom(format!("'{text}' is no number")))
}

/// A hexadecimal number as Linux and the VMM print it.
fn parse_hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// A BAR that the guest reported: `FUNCTION start=0x… last=0x…`.
fn guest_bar(line: &str) -> Option<(u64, u64)> {
    let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name));
    Some((parse_hex(field("start=")?)?, parse_hex(field("last=")?)?))
}

fn is_revocation(note: &str) -> bool {
    note.ends_with(" were revoked: the device does not respond")
}

impl Report {
    /// Reads the report.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|e| format!("vmm boot's report: {e}: '{text}'"))
    }

    /// The guest switched itself off, and nothing was wrong until then. What it had
    /// accepted was revoked at most if it `may_revoke`.
    pub fn is_power_off(&self, may_revoke: bool) -> Result<(), String> {
        let fault = self.fault.as_deref().unwrap_or_default();
        let is_wrong = |note: &&String| !(may_revoke && is_revocation(note));
        match (self.ended.as_str(), self.notes.iter().find(is_wrong)) {
            ("power-off", None) => Ok(()),
            ("power-off", Some(_)) => Err(format!("the VMM has notes: {:?}", self.notes)),
            (other, _) => Err(format!("the guest ended by {other}: {fault}")),
        }
    }

    /// The guest ended at a register that it had not accepted.
    pub fn is_fault_before_acceptance(&self, address: u64) -> Result<(), String> {
        let fault = self.fault.as_deref().unwrap_or_default();
        let start = format!("a memory fault at {address:#x} in ");
        let region = fault.strip_prefix(&start);
        let region =
            region.and_then(|rest| rest.split(", which the guest has not accepted").next());
        match region.is_some_and(|region| region.ends_with(" BAR 0 private 0x0")) {
            true if self.ended == "fault" => Ok(()),
            _ => Err(format!("the guest ended by {}: {fault}", self.ended)),
        }
    }

    /// How often registers that the guest had accepted were revoked.
    pub fn revocations(&self) -> usize {
        self.notes.iter().filter(|note| is_revocation(note)).count()
    }

    /// What devices reach by DMA.
    pub fn dma(&self) -> Option<Dma> {
        self.dma
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
        self.only_tables_are_trapped(host_page_size())
    }

    fn only_tables_are_trapped(&self, page: u64) -> Result<(), String> {
        let is_wrong = |exits: &&Exits| !is_table(&exits.region, page);
        let wrong: Vec<&Exits> = self.at_bars().filter(is_wrong).collect();
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("exits at registers: {wrong:?}")),
        }
    }

    /// The memslots of devices are at the BARs that the guest reported, of which each
    /// that is larger than a page has at least one, and nowhere else. They have a host address
    /// if they are host-mapped. Trapped ones have none.
    pub fn slots_are_at_bars<'a>(
        &self,
        bars: Bars,
        reported: impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        let places = reported.map(|line| guest_bar(line).ok_or(format!("no BAR: '{line}'")));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let is_in = |slot: &Slot, (start, last): (u64, u64)| {
            slot.gpa >= start && slot.gpa + (slot.size - 1) <= last
        };
        let ram = RAM_START..RAM_START + (RAM << 20);
        let devices = self.slots.iter().filter(|slot| !ram.contains(&slot.gpa));
        for slot in devices.clone() {
            if !places.iter().any(|place| is_in(slot, *place)) {
                return Err(format!("a stale slot: {slot:?}; the guest has {places:x?}"));
            }
            let is_private = slot.backing.contains("no host address");
            if bars == Bars::Trapped || is_private != (bars == Bars::Private) {
                return Err(format!("a slot with the wrong backing: {slot:?}"));
            }
        }
        let is_large = |(start, last): &(u64, u64)| last - start >= host_page_size();
        if bars == Bars::Trapped {
            return Ok(());
        }
        for place in places.into_iter().filter(is_large) {
            if !devices.clone().any(|slot| is_in(slot, place)) {
                return Err(format!("no slot at the BAR {place:x?}: {:?}", self.slots));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(exits: &[&str], slots: &[&str]) -> Report {
        let (exits, slots) = (exits.join(","), slots.join(","));
        let text = format!(
            r#"{{"ended": "power-off", "exits": [{exits}], "slots": [{slots}], "irqfds": 1,
                "notes": []}}"#
        );
        Report::parse(&text).expect("a report")
    }

    #[test]
    fn a_large_page_has_registers_beside_the_table() {
        let is = |piece: &str, page| is_table(&format!("0000:00:04.0 BAR 0 {piece}"), page);
        assert!(is("trap 0x2000", 0x1000) && !is("trap 0x0", 0x1000));
        assert!(is("trap 0x0", 0x4000) && !is("trap 0x2000", 0x4000));
    }

    #[test]
    fn exits_at_registers_are_found_beside_those_at_a_table() {
        let serial = r#"{"region": "serial", "count": 9}"#;
        let table = r#"{"region": "0000:00:04.0 BAR 0 trap 0x2000", "count": 9}"#;
        let doorbell = r#"{"region": "0000:00:04.0 BAR 0 trap 0x1000", "count": 1}"#;
        let of = |exits: &[&str]| report(exits, &[]).only_tables_are_trapped(0x1000);
        assert_eq!(of(&[serial, table]), Ok(()));
        let error = of(&[serial, doorbell]).expect_err("a doorbell was trapped");
        assert!(error.contains("trap 0x1000"), "{error}");
    }

    #[test]
    fn a_slot_that_is_stale_missing_or_of_the_wrong_kind_is_found() {
        let ram = format!(
            r#"{{"gpa": "{RAM_START:#x}", "size": "0x10000000", "backing": "host memory at 0x7f"}}"#
        );
        let ram = ram.as_str();
        let slot = |gpa: &str| {
            format!(r#"{{"gpa": "{gpa}", "size": "0x1000", "backing": "fd 7, no host address"}}"#)
        };
        let (first, other) = (slot("0xc0001000"), slot("0xd0000000"));
        let place = "0000:00:01.0 start=0x00000000c0000000 last=0x00000000c001ffff";
        let of = |kind, slots: &[&str], places: &[&str]| {
            report(&[], slots).slots_are_at_bars(kind, places.iter().copied())
        };
        assert_eq!(of(Bars::Private, &[ram, &first], &[place]), Ok(()));
        let small = "0000:00:02.0 start=0x00000000c0020000 last=0x00000000c00200ff";
        assert_eq!(of(Bars::Private, &[ram], &[small]), Ok(()));
        for (kind, slots, places, problem) in [
            (
                Bars::Private,
                vec![ram, &first, &other],
                vec![place],
                "stale",
            ),
            (Bars::Private, vec![ram], vec![place], "no slot"),
            (Bars::HostMapped, vec![ram, &first], vec![place], "backing"),
            (
                Bars::Private,
                vec![ram],
                vec!["0000:00:01.0 start=0x"],
                "no BAR",
            ),
        ] {
            let error = of(kind, &slots, &places).expect_err(problem);
            assert!(error.contains(problem), "{error}");
        }
    }
}
