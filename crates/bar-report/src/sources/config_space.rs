// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads the facts in raw configuration space or a dump of it.

use vfio_private::config::{BarRegister, ConfigSpace, EaEntry, EaResource};
use vfio_private::{BarIndex, BarKind};

use crate::error::BarReportError;
use crate::facts::{BarFact, DeviceFacts};
use crate::memory_type::{AddressWidth, MemoryType};
use crate::wording::Wording;

/// The capability ID of MSI-X.
const MSIX: u8 = 0x11;

/// The most entries that a note lists.
const MAX_NAMED: usize = 8;

/// Returns the facts about the device with these bytes of configuration space.
pub(super) fn facts(
    file: &str,
    bytes: &[u8],
    wording: Wording,
) -> Result<DeviceFacts, BarReportError> {
    let config = || {
        let config = ConfigSpace::new(bytes)?;
        let registers = config.bars()?;
        let entries = config.enhanced_allocation()?;
        let bars = of_config(&registers, &entries);
        Ok(DeviceFacts {
            name: format!("{file} {}", ids(bytes)),
            source: file.to_string(),
            unknown: unknown(&bars),
            bars,
            msix: config.msix()?,
            msix_place: msix_place(file, config),
            notes: left_out(&entries).into_iter().collect(),
            wording,
        })
    };
    config().map_err(|source| BarReportError::Config {
        file: file.to_string(),
        source,
    })
}

/// Returns the BARs of configuration space. Only BARs of Enhanced Allocation
/// have sizes.
pub(super) fn of_registers(registers: &[BarRegister]) -> Vec<BarFact> {
    let fact = |register: &BarRegister| BarFact {
        index: register.index,
        kind: register.kind,
        size: register.size,
        register: register.size.is_none().then_some(register.address),
        is_64bit: register.takes_next(),
        memory_type: memory_type(register.kind, register.is_64bit, register.prefetchable),
        is_enhanced: register.size.is_some(),
        line: None,
        notes: Vec::new(),
    };
    registers.iter().map(fact).collect()
}

/// Returns the same BARs, and those that Enhanced Allocation names and
/// disables.
pub(super) fn of_config(registers: &[BarRegister], entries: &[EaEntry]) -> Vec<BarFact> {
    let mut facts = of_registers(registers);
    for entry in entries {
        let EaResource::Disabled(index) = entry.resource else {
            continue;
        };
        if !facts.iter().any(|fact| fact.index == index) {
            let why = format!(
                "its Enhanced Allocation entry at {:#x} is disabled",
                entry.offset
            );
            facts.push(BarFact::unusable(index, why));
        }
    }
    facts
}

/// Notes the BARs that configuration space does not describe, because their
/// registers are 0.
pub(super) fn unknown(facts: &[BarFact]) -> Option<String> {
    let is_known = |number: &u8| {
        facts.iter().any(|fact| {
            let index = fact.index.get();
            index == *number || fact.is_64bit && index + 1 == *number
        })
    };
    let numbers: Vec<String> = (0..BarIndex::COUNT)
        .filter(|number| !is_known(number))
        .map(|number| number.to_string())
        .collect();
    let text = || {
        let numbers = numbers.join(", ");
        format!(
            "BAR registers that are 0 are left out ({numbers}): not implemented, without an address, \
             or of a virtual function"
        )
    };
    (!numbers.is_empty()).then(text)
}

/// Notes the entries of Enhanced Allocation that are not BARs of the device.
pub(super) fn left_out(entries: &[EaEntry]) -> Option<String> {
    let is_bar =
        |entry: &&EaEntry| matches!(entry.resource, EaResource::Bar(_) | EaResource::Disabled(_));
    let others = || entries.iter().filter(|entry| !is_bar(entry));
    let name = |entry: &EaEntry| format!("{:#x} ({})", entry.offset, entry.resource);
    let mut names: Vec<String> = others().take(MAX_NAMED).map(name).collect();
    match others().count().saturating_sub(MAX_NAMED) {
        0 => {}
        more => names.push(format!("and {more} more")),
    }
    let text = || {
        let names = names.join(", ");
        format!(
            "Enhanced Allocation entries that are not BARs of this device are left out: {names}"
        )
    };
    (!names.is_empty()).then(text)
}

/// Returns the place of the MSI-X capability in a file of configuration space.
pub(super) fn msix_place(file: &str, config: ConfigSpace<'_>) -> String {
    let chain = config.capabilities().unwrap_or_default();
    match chain.iter().find(|capability| capability.id == MSIX) {
        Some(found) => format!("{file}: capability at offset {:#x}", found.offset),
        None => file.to_string(),
    }
}

/// Returns the type of a BAR; `None` for I/O ports.
pub(super) fn memory_type(kind: BarKind, is_64bit: bool, prefetchable: bool) -> Option<MemoryType> {
    let width = match is_64bit {
        true => AddressWidth::Bits64,
        false => AddressWidth::Bits32,
    };
    (kind == BarKind::Memory).then_some(MemoryType {
        width,
        prefetchable,
    })
}

/// Formats the vendor and device ID of a header.
pub(super) fn ids(config: &[u8]) -> String {
    match config {
        [v0, v1, d0, d1, ..] => format!("[{v1:02x}{v0:02x}:{d1:02x}{d0:02x}]"),
        _ => String::new(),
    }
}
