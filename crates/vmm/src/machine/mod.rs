// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A [`Machine`]: its regions and the script of its guest. Plain data, checked when
//! it is read from a file.

mod action;
mod alias_expansion;
mod bar_pieces;
mod device_name;
mod error;
mod fields;
mod limits;
pub(crate) mod number;
mod raw;
mod reach;
mod region_totals;
mod regions;
mod spec;
mod steps;
mod tdi_bar;
mod tdi_report;
mod toml_size;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use error::{Source, line_of};
use fields::Subject;
use limits::{MAX_FILE, name_problem};
use raw::RawMachine;

pub use action::{Action, ActionKind, ErrorCode, GpaRange, TdiChange};
pub use bar_pieces::{RealBar, attested_pieces, pieces};
pub use device_name::ParseDeviceNameError;
pub use error::MachineError;
pub use spec::{
    Access, AccessKind, AssignedBar, Backing, Bar, DeviceKind, DeviceName, How, Init, Kind,
    Machine, OnMemoryFault, Place, Region, Step, TdiBar,
};
pub use tdi_report::tdi_report;

/// The machine that `vmm` runs without an argument.
const BUILT_IN: &str = include_str!("../built-in.toml");

impl Machine {
    /// The built-in machine.
    ///
    /// # Errors
    /// None that a user could cause: the tests read it too.
    pub fn built_in() -> Result<Self, MachineError> {
        parse("built-in machine", BUILT_IN)
    }

    /// Reads a machine file.
    ///
    /// # Errors
    /// [`MachineError`] with the file, the line and the field.
    pub fn read(path: &Path) -> Result<Self, MachineError> {
        let file = path.display().to_string();
        let unreadable = |why: String| MachineError::unreadable(&file, why);
        let opened = File::open(path).map_err(|e| unreadable(e.to_string()))?;
        // Pipes and devices do not have a size.
        let mut text = Vec::new();
        let read = opened.take(MAX_FILE + 1).read_to_end(&mut text);
        read.map_err(|e| unreadable(e.to_string()))?;
        if text.len() as u64 > MAX_FILE {
            return Err(too_large(&file));
        }
        match std::str::from_utf8(&text) {
            Ok(text) => parse(&file, text),
            Err(error) => Err(MachineError {
                line: Some(line_of(&text, error.valid_up_to())),
                ..unreadable("not UTF-8; expected text".into())
            }),
        }
    }

    /// Reads a machine from text; `name` stands for the file in errors.
    ///
    /// # Errors
    /// [`MachineError`] with the name, the line and the field.
    pub fn from_text(name: &str, text: &str) -> Result<Self, MachineError> {
        parse(name, text)
    }
}

fn too_large(file: &str) -> MachineError {
    MachineError::unreadable(file, format!("it is larger than {MAX_FILE} bytes"))
}

/// Parses and checks a machine.
fn parse(file: &str, text: &str) -> Result<Machine, MachineError> {
    if text.len() as u64 > MAX_FILE {
        return Err(too_large(file));
    }
    let source = Source { file, text };
    toml_size::check(&source)?;
    let raw: RawMachine = toml::from_str(text).map_err(|e| source.toml_error(&e))?;
    let regions = regions::check(&source, &raw.region)?;
    let steps = steps::check(&source, &regions, &raw.step)?;
    let on_memory_fault = on_memory_fault(&source, &raw)?;
    let plain_vm = plain_vm(&source, &raw, &regions)?;
    Ok(Machine {
        name: name(&source, &raw)?.unwrap_or(file).to_string(),
        regions,
        steps,
        on_memory_fault,
        plain_vm,
    })
}

/// The machine's name.
fn name<'a>(source: &Source<'_>, raw: &'a RawMachine) -> Result<Option<&'a str>, MachineError> {
    let Some(name) = &raw.name else {
        return Ok(None);
    };
    match name_problem(name.as_ref()) {
        None => Ok(Some(name.as_ref())),
        Some(problem) => Err(Subject::of_file(source).wrong("name", name.span(), problem)),
    }
}

/// Whether the file asks for a VM without private pages. It cannot have private RAM.
fn plain_vm(
    source: &Source<'_>,
    raw: &RawMachine,
    regions: &[Region],
) -> Result<bool, MachineError> {
    let Some(plain) = &raw.plain_vm else {
        return Ok(false);
    };
    let is_private = |region: &&Region| region.kind == Kind::Ram(Backing::Private);
    match regions.iter().find(is_private).filter(|_| *plain.as_ref()) {
        Some(region) => {
            let problem = format!("region '{}' has private pages", region.name);
            Err(Subject::of_file(source).wrong("plain-vm", plain.span(), problem))
        }
        None => Ok(*plain.as_ref()),
    }
}

fn on_memory_fault(source: &Source<'_>, raw: &RawMachine) -> Result<OnMemoryFault, MachineError> {
    let Some(word) = &raw.on_memory_fault else {
        return Ok(OnMemoryFault::default());
    };
    let words = [
        ("report", OnMemoryFault::Report),
        ("convert", OnMemoryFault::Convert),
    ];
    Subject::of_file(source).word("on-memory-fault", word, &words)
}
