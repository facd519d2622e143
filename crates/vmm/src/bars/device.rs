// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the sources say of a device, put together.

use vfio_private::config::{BarRegister, ConfigSpace, EaEntry, EaResource};
use vfio_private::{Bar, BarIndex, BarKind, Msix, MsixPart, Region};

use super::error::{BarsError, Fault};
use super::notes::{Note, Topic};
use super::regions::RegionFact;

/// The capability ID of MSI-X.
const MSIX: u8 = 0x11;

/// The most entries that a note names.
const MAX_NAMED: usize = 8;

/// What is known of a device without VFIO.
#[derive(Debug)]
pub(super) struct Facts {
    /// The device as its source names it.
    pub(super) name: String,
    /// The file to blame.
    pub(super) source: String,
    /// Its BARs, each number once.
    pub(super) bars: Vec<BarFact>,
    pub(super) msix: Option<Msix>,
    /// The place of that fact: the file, and the line or the offset.
    pub(super) msix_place: String,
    /// Notes about the device as a whole.
    pub(super) notes: Vec<String>,
}

/// What is known of a BAR without VFIO.
#[derive(Clone, Debug)]
pub(super) struct BarFact {
    pub(super) index: BarIndex,
    pub(super) kind: BarKind,
    /// Configuration space alone does not say it. 0 if the BAR is named and cannot be used.
    pub(super) size: Option<u64>,
    /// What the register holds as an address, if there is one: it is a multiple of the size.
    pub(super) register: Option<u64>,
    /// It takes the next number too.
    pub(super) is_64bit: bool,
    /// Width and such, in words.
    pub(super) note: String,
    /// The line of the text that says so.
    pub(super) line: Option<usize>,
    /// Notes about the BAR.
    pub(super) notes: Vec<String>,
}

impl BarFact {
    /// A BAR that is named and cannot be used.
    pub(super) fn unusable(index: BarIndex, why: String) -> Self {
        Self {
            index,
            kind: BarKind::Memory,
            size: Some(0),
            register: None,
            is_64bit: false,
            note: String::new(),
            line: None,
            notes: vec![why],
        }
    }

    /// Whether it is named and cannot be used.
    pub(super) fn is_unusable(&self) -> bool {
        self.size == Some(0)
    }

    /// The notes of a BAR that is not in the answer.
    fn without_bar(&self) -> impl Iterator<Item = Note> {
        let note = |text: &String| format!("{}: {text}", self.index);
        self.notes
            .iter()
            .map(move |text| Note::new(Topic::Device, note(text)))
    }

    /// The facts of configuration space and a line of `lspci` combined; `None` if
    /// they disagree.
    pub(super) fn with_text(&self, text: &Self) -> Option<Self> {
        let mut both = text.clone();
        both.register = self.register;
        both.notes.extend(self.notes.iter().cloned());
        if self.is_unusable() {
            return Some(both);
        }
        if text.note.is_empty() {
            both.note.clone_from(&self.note);
        }
        // Older versions of lspci do not mark a BAR of Enhanced Allocation.
        if text.note.is_empty() || self.size.is_some() {
            both.is_64bit = self.is_64bit;
        }
        both.size = text.size.or(self.size);
        let agrees = (self.kind, self.is_64bit) == (both.kind, both.is_64bit)
            && self.size.is_none_or(|size| both.size == Some(size));
        agrees.then_some(both)
    }

    /// Whether two lines say the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let said = |bar: &Self| (bar.index, bar.kind, bar.size, bar.is_64bit);
        said(self) == said(other)
    }
}

/// A BAR with its size, and with what VFIO lets userspace map of it.
#[derive(Debug)]
pub(super) struct MappedBar {
    pub(super) bar: Bar,
    pub(super) region: Region,
    pub(super) note: String,
    pub(super) notes: Vec<String>,
}

/// The BARs in ascending order, and all notes about them and the device.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    pub(super) bars: Vec<MappedBar>,
    pub(super) notes: Vec<Note>,
}

/// The BARs of configuration space, which has sizes only for those of Enhanced
/// Allocation.
pub(super) fn of_registers(registers: &[BarRegister]) -> Vec<BarFact> {
    let fact = |register: &BarRegister| {
        let mut note = note(register.kind, register.is_64bit, register.prefetchable);
        if register.size.is_some() {
            let separator = if note.is_empty() { "" } else { ", " };
            note += &format!("{separator}by Enhanced Allocation");
        }
        BarFact {
            index: register.index,
            kind: register.kind,
            size: register.size,
            register: register.size.is_none().then_some(register.address),
            is_64bit: register.takes_next(),
            note,
            line: None,
            notes: Vec::new(),
        }
    };
    registers.iter().map(fact).collect()
}

/// The same, and those that Enhanced Allocation names and disables.
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

/// The BARs that configuration space does not describe, because their registers
/// are 0.
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

/// The entries of Enhanced Allocation that are no BAR of the device.
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

/// Where a file with configuration space has the MSI-X capability.
pub(super) fn msix_place(file: &str, config: ConfigSpace<'_>) -> String {
    let chain = config.capabilities().unwrap_or_default();
    match chain.iter().find(|capability| capability.id == MSIX) {
        Some(found) => format!("{file}: capability at offset {:#x}", found.offset),
        None => file.to_string(),
    }
}

/// The words of `lspci` for what a BAR is.
pub(super) fn note(kind: BarKind, is_64bit: bool, prefetchable: bool) -> String {
    if kind == BarKind::Io {
        return String::new();
    }
    let width = if is_64bit { "64-bit" } else { "32-bit" };
    let non = if prefetchable { "" } else { "non-" };
    format!("{width}, {non}prefetchable")
}

/// Vendor and device ID of a header.
pub(super) fn ids(config: &[u8]) -> String {
    match config {
        [v0, v1, d0, d1, ..] => format!("[{v1:02x}{v0:02x}:{d1:02x}{d0:02x}]"),
        _ => String::new(),
    }
}

/// How a list of regions and the other sources differ about a BAR.
fn differs(said: Option<&RegionFact>, fact: Option<&BarFact>) -> Option<String> {
    match (said, fact.map(|fact| fact.size)) {
        (None, _) => Some("it has no such region: the BAR is taken as mappable".into()),
        (Some(_), None) => Some("no other source has the BAR".into()),
        (Some(said), Some(Some(size))) if said.size != size => Some(format!(
            "{:#x} bytes, other sources say {size:#x}",
            said.size
        )),
        _ => None,
    }
}

impl Facts {
    /// The BARs with their sizes, and notes. The list of regions overrides the
    /// other sources.
    pub(super) fn mapped(&self, regions: Option<&[RegionFact]>) -> Result<Mapped, BarsError> {
        let whole = Region::mappable();
        let mut bars = Vec::new();
        let device = |text: &String| Note::new(Topic::Device, text.clone());
        let mut notes: Vec<Note> = self.notes.iter().map(device).collect();
        for number in 0..BarIndex::COUNT {
            let fact = self.bars.iter().find(|fact| fact.index.get() == number);
            let said =
                regions.and_then(|all| all.iter().find(|said| said.index == u32::from(number)));
            let is_there = match (said, fact) {
                (Some(said), _) => said.size > 0,
                (None, fact) => fact.is_some_and(|fact| !fact.is_unusable()),
            };
            if is_there && self.is_upper_half(number) {
                let what = format!("number {number} is the upper half of BAR {}", number - 1);
                return Err(match (said, fact.and_then(|fact| fact.line)) {
                    (Some(_), _) => Fault::whole(format!("--regions: {what}")),
                    (None, Some(line)) => Fault::at(line, what),
                    (None, None) => Fault::whole(what),
                }
                .in_file(&self.source));
            }
            let (size, region) = match (said, fact) {
                (None, None) => continue,
                (Some(said), fact) if said.size == 0 => {
                    if fact.is_some_and(|fact| !fact.is_unusable()) {
                        let what = format!("BAR {number} is left out: VFIO has no bytes of it");
                        notes.push(Note::new(Topic::Regions, what));
                    }
                    continue;
                }
                (Some(said), _) => (said.size, &said.region),
                (None, Some(fact)) => match fact.size {
                    Some(0) => {
                        notes.extend(fact.without_bar());
                        continue;
                    }
                    Some(size) => (size, &whole),
                    None if fact.kind == BarKind::Io => {
                        let what =
                            format!("BAR {number}: I/O ports of unknown size. All of it traps.");
                        notes.push(Note::new(Topic::Device, what));
                        notes.extend(fact.without_bar());
                        continue;
                    }
                    None => return Err(self.unknown_size(fact, regions.is_some())),
                },
            };
            let bar = self.bar(number, fact, size)?;
            if let Some(fact) = fact {
                self.check_register(fact, bar, said.is_some())?;
            }
            if let Some(what) = regions.and_then(|_| differs(said, fact)) {
                notes.push(Note::new(Topic::Regions, what).of_bar(bar.index()));
            }
            bars.push(MappedBar {
                bar,
                region: region.clone(),
                note: fact.map(|fact| fact.note.clone()).unwrap_or_default(),
                notes: fact.map(|fact| fact.notes.clone()).unwrap_or_default(),
            });
        }
        self.check_msix(&bars)?;
        for mapped in &bars {
            let of_bar = |text: &String| device(text).of_bar(mapped.bar.index());
            notes.extend(mapped.notes.iter().map(of_bar));
        }
        Ok(Mapped { bars, notes })
    }

    fn is_upper_half(&self, number: u8) -> bool {
        let below = |fact: &BarFact| fact.is_64bit && fact.index.get() + 1 == number;
        self.bars.iter().any(below)
    }

    fn bar(&self, number: u8, fact: Option<&BarFact>, size: u64) -> Result<Bar, BarsError> {
        let kind = fact.map_or(BarKind::Memory, |fact| fact.kind);
        BarIndex::new(number)
            .and_then(|index| Bar::new(index, kind, size))
            .map_err(|source| BarsError::Input {
                file: self.source.clone(),
                source,
            })
    }

    /// That the register can hold what it does: it has no bits below the size.
    fn check_register(&self, fact: &BarFact, bar: Bar, is_said: bool) -> Result<(), BarsError> {
        let address = match fact.register {
            Some(address) if address & (bar.size() - 1) != 0 => address,
            _ => return Ok(()),
        };
        let source = if is_said { " by --regions" } else { "" };
        let what = format!(
            "{} has {:#x} bytes{source}, and its register holds {address:#x}, which is not a \
             multiple of that",
            fact.index,
            bar.size()
        );
        let line = fact.line;
        Err(Fault { line, what }.in_file(&self.source))
    }

    fn unknown_size(&self, fact: &BarFact, has_regions: bool) -> BarsError {
        let why = match (has_regions, fact.line) {
            (true, _) => "--regions does not list it",
            (false, Some(_)) => {
                "`[size=…]` is missing, as when lspci reads a dump: give --regions FILE.json, or \
                 what `lspci -vv` prints on the device's own machine"
            }
            (false, None) => {
                "configuration space does not have it: give --regions FILE.json, \
                 or the text of `lspci -vv` as --config"
            }
        };
        let mut what = format!("the size of {} is not known: {why}", fact.index);
        for note in &fact.notes {
            what += &format!("; {note}");
        }
        let line = fact.line;
        Fault { line, what }.in_file(&self.source)
    }

    /// Checks that the MSI-X structures are in existing BARs.
    fn check_msix(&self, bars: &[MappedBar]) -> Result<(), BarsError> {
        let Some(msix) = self.msix else {
            return Ok(());
        };
        for part in [MsixPart::Table, MsixPart::Pba] {
            let index = msix.place(part).bar;
            if !bars.iter().any(|mapped| mapped.bar.index() == index) {
                let known = self.bars.iter().find(|fact| fact.index == index);
                let why: String = known
                    .into_iter()
                    .flat_map(|fact| &fact.notes)
                    .map(|note| format!(": {note}"))
                    .collect();
                let what = format!("the {part} is in {index}, and the device has no such BAR{why}");
                return Err(Fault::whole(what).in_file(&self.msix_place));
            }
        }
        Ok(())
    }
}
