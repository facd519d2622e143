// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Adds the planned regions to the model and places them.

use memory_model::{HostMemory, Memory, Region, RegionId, Switches, Transaction, TreeError};

use super::facts::Facts;
use super::plan::{PlannedKind, PlannedRegion};
use crate::error::Fault;
use crate::machine::RegionInfo;
use crate::parse::dump::Drawn;
use crate::parse::line::cut;
use crate::region_type::RegionType;
use crate::rules;

/// Converts the model's error to a fault at the region's line.
pub(super) fn refused(region: &Drawn, error: &dyn std::error::Error) -> Fault {
    Fault::new(region.line, error.to_string())
}

/// Adds every region. An alias is added after its target.
pub(super) fn add(
    facts: &Facts<'_>,
    planned: &[PlannedRegion],
    transaction: &mut Transaction<'_, RegionInfo>,
) -> Result<Vec<Option<RegionId>>, Fault> {
    let mut ids = vec![None; planned.len()];
    let mut add = |region, drawn: &Drawn| {
        let id = transaction.add(region);
        id.map_err(|error| refused(drawn, &error))
    };
    for (index, part) in planned.iter().enumerate() {
        if part.kind == PlannedKind::Region {
            let drawn = &facts.dump.regions[part.drawn];
            let region = plain(drawn, facts.answers[part.drawn])?;
            ids[index] = Some(add(region.with_switches(switches(drawn)), drawn)?);
        }
    }
    for index in 0..planned.len() {
        // An alias's target may be an alias. Every chain ends, because the plan
        // breaks cycles.
        let mut chain = vec![index];
        while let Some(&top) = chain.last() {
            let drawn = &facts.dump.regions[planned[top].drawn];
            let (target, offset, switches) = match planned[top].kind {
                PlannedKind::Alias { target, offset } => (target, offset, switches(drawn)),
                PlannedKind::WholeAlias { target } => (target, 0, Switches::default()),
                PlannedKind::Region | PlannedKind::Skipped => break,
            };
            match (ids[top], ids[target]) {
                (Some(_), _) => drop(chain.pop()),
                (None, None) => chain.push(target),
                (None, Some(target)) => {
                    let alias = Region::alias(&drawn.name, target, offset, drawn.size);
                    let alias = alias.with_handle(info(drawn)).with_switches(switches);
                    ids[top] = Some(add(alias, drawn)?);
                }
            }
        }
    }
    Ok(ids)
}

/// Makes a region that is not an alias.
fn plain(region: &Drawn, answers: bool) -> Result<Region<RegionInfo>, Fault> {
    let (name, size) = (&*region.name, region.size);
    let host = || {
        let bytes = u64::try_from(size).ok();
        let host = bytes.and_then(HostMemory::placeholder);
        host.ok_or_else(|| {
            let what = format!(
                "'{}' has {size:#x} bytes; expected memory of at most 2^63",
                cut(name)
            );
            Fault::new(region.line, what)
        })
    };
    let made = match region.kind {
        RegionType::Container | RegionType::Io if answers => Region::mmio(name, size),
        RegionType::Container | RegionType::Io => Region::container(name, size),
        RegionType::Ram => Region::ram(name, Memory::host_only(host()?)),
        RegionType::Rom => Region::rom(name, Memory::host_only(host()?)),
        RegionType::RomDevice => Region::rom_device(name, Memory::host_only(host()?)),
        RegionType::DeviceRam => Region::device_ram(name, host()?),
    };
    Ok(made.with_handle(info(region)))
}

fn info(region: &Drawn) -> RegionInfo {
    RegionInfo {
        kind: region.kind,
        priority: region.priority,
    }
}

fn switches(region: &Drawn) -> Switches {
    let alias = region.alias.is_some();
    let readonly = match alias {
        true => rules::readonly_alias(&region.name, region.kind),
        false => region.kind == RegionType::Rom,
    };
    Switches {
        // The model has no regions of 0 bytes. Disabling them has the same
        // effect.
        enabled: !region.disabled && !rules::is_empty(region.size, region.kind, alias),
        readonly,
        nonvolatile: region.nonvolatile,
        ..Switches::default()
    }
}

/// Places every region in its parent, the loser first.
pub(super) fn place(
    facts: &Facts<'_>,
    planned: &[PlannedRegion],
    ids: &[Option<RegionId>],
    transaction: &mut Transaction<'_, RegionInfo>,
) -> Result<(), Fault> {
    for (index, parent) in planned.iter().enumerate() {
        for &(child, address) in parent.children.iter().rev() {
            let drawn = &facts.dump.regions[planned[child].drawn];
            let (Some(child), Some(parent)) = (ids[child], ids[index]) else {
                continue;
            };
            let placed = transaction.place(child, parent, address, drawn.priority);
            placed.map_err(|error| refused(drawn, &error))?;
        }
    }
    Ok(())
}

/// Returns the root to use for an address space that starts from `region`. QEMU
/// places that region at its own address, the model at address 0. If the two
/// differ, a container as large as the address space holds an alias of the
/// region at its address.
pub(super) fn frame(
    transaction: &mut Transaction<'_, RegionInfo>,
    region: &Drawn,
    id: RegionId,
) -> Result<RegionId, TreeError> {
    if region.address == 0 {
        return Ok(id);
    }
    let info = info(region);
    let frame = Region::container("frame", 1 << 64).with_handle(info);
    let frame = transaction.add(frame)?;
    let all = Region::alias("all", id, 0, region.size).with_handle(info);
    let all = transaction.add(all)?;
    transaction.place(all, frame, region.address, 0)?;
    Ok(frame)
}
