// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks BARs of TEE device interfaces.

use std::collections::HashSet;

use memory_model::PAGE_SIZE;
use vfio_private::BarIndex;

use super::error::MachineError;
use super::fields::Subject;
use super::limits::name_problem;
use super::raw::RawRegion;
use super::spec::{Kind, Region, TdiBar};

/// The interface that the BAR belongs to, if any.
pub(super) fn tdi(subject: &Subject<'_>, raw: &RawRegion) -> Result<Option<TdiBar>, MachineError> {
    let Some(field) = &raw.tdi else {
        return Ok(None);
    };
    let why = "a 'tdi': real devices are not locked";
    subject.refuse(("device", &raw.device), why)?;
    let name = subject.numbered(field.as_ref());
    if let Some(problem) = name_problem(&name) {
        return Err(subject.wrong("tdi", field.span(), problem));
    }
    let bar = match &raw.bar {
        Some(number) => {
            let bar = BarIndex::new(*number.as_ref());
            bar.map_err(|e| subject.wrong("bar", number.span(), e.to_string()))?
        }
        None => BarIndex::new(0).map_err(|e| subject.wrong("tdi", field.span(), e.to_string()))?,
    };
    for (name, parts) in [("private", &raw.private), ("shared", &raw.shared)] {
        for part in parts.iter().flat_map(|parts| parts.as_ref()) {
            let (at, size) = subject.part(name, part)?;
            if at % PAGE_SIZE != 0 || size % PAGE_SIZE != 0 {
                let problem = "a report lists whole pages of 4096 bytes".into();
                return Err(subject.wrong(name, part.at.span(), problem));
            }
        }
    }
    Ok(Some(TdiBar { name, bar }))
}

/// Checks that no other region is the same BAR of the same interface.
pub(super) fn check_unique(
    subject: &Subject<'_>,
    known: &mut HashSet<(String, BarIndex)>,
    region: &Region,
    raw: &RawRegion,
) -> Result<(), MachineError> {
    let (Kind::Bar(bar), Some(field)) = (&region.kind, &raw.tdi) else {
        return Ok(());
    };
    let Some(tdi) = &bar.tdi else { return Ok(()) };
    match known.insert((tdi.name.clone(), tdi.bar)) {
        true => Ok(()),
        false => {
            let problem = format!("another region is {} of '{}'", tdi.bar, tdi.name);
            Err(subject.wrong("tdi", field.span(), problem))
        }
    }
}
