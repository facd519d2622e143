// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads a live device from sysfs.

use std::path::Path;

use vfio_private::config::{ConfigError, ConfigSpace};
use vfio_private::{BarIndex, BarKind};

use crate::bdf::Bdf;
use crate::error::{BarReportError, Fault};
use crate::facts::{BarFact, DeviceFacts};
use crate::quote::quoted;
use crate::sources::{config_space, file};
use crate::wording::Wording;

/// The limits: all of configuration space, and a page of text.
const MAX_FILE: u64 = 1 << 20;

/// Bits of a resource's flags (`include/linux/ioport.h`).
mod flag {
    /// The resource is from an Enhanced Allocation entry. A 64-bit one takes no second register.
    pub(super) const EA: u64 = 0x20;
    pub(super) const IO: u64 = 0x100;
    pub(super) const PREFETCH: u64 = 0x2000;
    pub(super) const MEM_64: u64 = 0x10_0000;
    /// The resource has a size but no address yet.
    pub(super) const UNSET: u64 = 0x2000_0000;
}

/// Returns the facts in sysfs about the device at `bdf`.
pub(super) fn facts(
    sysfs: &Path,
    bdf: Bdf,
    wording: Wording,
) -> Result<DeviceFacts, BarReportError> {
    let folder = sysfs.join("bus/pci/devices").join(bdf.to_string());
    if !folder.exists() {
        let what = format!("there is no device {bdf}; `lspci -D` lists those there are");
        return Err(Fault::whole(what).in_file(&folder.display().to_string()));
    }
    let resource = folder.join("resource");
    let text = file::whole(&resource, MAX_FILE)?;
    let bars = bars(&String::from_utf8_lossy(&text));
    let mut bars = bars.map_err(|fault| fault.in_file(&resource.display().to_string()))?;

    let config = folder.join("config");
    let bytes = file::whole(&config, MAX_FILE)?;
    let space = ConfigSpace::new(&bytes).and_then(|space| Ok((space, space.msix()?)));
    let (space, msix) = space.map_err(|source| BarReportError::Config {
        file: config.display().to_string(),
        source,
    })?;
    let notes = add_registers(&mut bars, space);
    let notes = notes.map_err(|fault| fault.in_file(&resource.display().to_string()))?;
    Ok(DeviceFacts {
        name: format!("{bdf} {}", config_space::ids(&bytes)),
        source: folder.display().to_string(),
        bars,
        msix,
        msix_place: config_space::msix_place(&config.display().to_string(), space),
        notes,
        unknown: None,
        wording,
    })
}

/// Adds the BARs that configuration space has but the kernel does not use, and checks that the two
/// agree on the others. Returns notes.
fn add_registers(bars: &mut Vec<BarFact>, space: ConfigSpace<'_>) -> Result<Vec<String>, Fault> {
    let read = || Ok::<_, ConfigError>((space.bars()?, space.enhanced_allocation()?));
    let (registers, entries) = match read() {
        Ok(read) => read,
        Err(error) => {
            return Ok(vec![format!(
                "configuration space: {error}; the BARs are those of the kernel"
            )]);
        }
    };
    for mut fact in config_space::of_config(&registers, &entries) {
        let known = bars.iter().find(|known| known.index == fact.index);
        if let Some(known) = known {
            if !fact.is_unusable() && !fact.allows(known) {
                let line = usize::from(fact.index.get()) + 1;
                let what = format!("{} differs from configuration space", fact.index);
                return Err(Fault::at(line, what));
            }
            continue;
        }
        if fact.notes.is_empty() {
            let why = "configuration space has it, and the kernel has no resource for it";
            fact = BarFact::unusable(fact.index, why.into());
        }
        bars.push(fact);
    }
    Ok(config_space::left_out(&entries).into_iter().collect())
}

/// Parses the first six lines, which are the BARs: first address, last address, flags. They include
/// the sizes of a virtual function, which has no registers for them.
fn bars(text: &str) -> Result<Vec<BarFact>, Fault> {
    let found = text.lines().count();
    if found < usize::from(BarIndex::COUNT) {
        let what = format!(
            "{found} lines, and a device has at least {}",
            BarIndex::COUNT
        );
        return Err(Fault::whole(what));
    }
    let mut bars = Vec::new();
    for (number, line) in (0..BarIndex::COUNT).zip(text.lines()) {
        let fault = |what: &str| {
            let what = format!(
                "{what} in '{}': first and last address and flags",
                quoted(line)
            );
            Fault::at(usize::from(number) + 1, what)
        };
        let numbers: Option<Vec<u64>> = line.split_whitespace().map(hex).collect();
        let Some([first, last, flags]) = numbers.as_deref() else {
            return Err(fault("expected three hexadecimal numbers"));
        };
        // Linux itself interprets this as a resource without bytes, whatever the flags.
        if [*first, *last] == [0, 0] {
            continue;
        }
        let size = last
            .checked_sub(*first)
            .and_then(|size| size.checked_add(1));
        let size = size.ok_or_else(|| fault("the last address is below the first"))?;
        let has = |flag: u64| flags & flag != 0;
        let mut notes = Vec::new();
        if *first == 0 || has(flag::UNSET) {
            let why =
                "the kernel has not assigned it an address: it cannot be reached until it has one";
            notes.push(why.to_string());
        }
        let kind = match has(flag::IO) {
            true => BarKind::Io,
            false => BarKind::Memory,
        };
        bars.push(BarFact {
            index: BarIndex::new(number).map_err(|error| fault(&error.to_string()))?,
            kind,
            size: Some(size),
            register: None,
            is_64bit: has(flag::MEM_64) && !has(flag::EA),
            memory_type: config_space::memory_type(kind, has(flag::MEM_64), has(flag::PREFETCH)),
            is_enhanced: has(flag::EA),
            line: None,
            notes,
        });
    }
    Ok(bars)
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
