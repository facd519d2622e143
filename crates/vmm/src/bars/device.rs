// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the sources say of a device, put together.

use vfio_private::config::BarRegister;
use vfio_private::{Bar, BarIndex, BarKind, Msix, MsixPart, Region};

use super::error::{BarsError, Fault};
use super::regions::RegionFact;

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
    /// What else is to be known of it.
    pub(super) notes: Vec<String>,
}

/// What is known of a BAR without VFIO.
#[derive(Clone, Debug)]
pub(super) struct BarFact {
    pub(super) index: BarIndex,
    pub(super) kind: BarKind,
    /// Configuration space alone does not say it.
    pub(super) size: Option<u64>,
    /// It takes the next number too.
    pub(super) is_64bit: bool,
    /// Width and such, in words.
    pub(super) note: String,
    /// What else is to be known of it.
    pub(super) notes: Vec<String>,
    /// The line of the text that says so.
    pub(super) line: Option<usize>,
}

impl BarFact {
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

/// The BARs of configuration space, whose sizes it does not say.
pub(super) fn of_registers(registers: &[BarRegister]) -> Vec<BarFact> {
    let fact = |register: &BarRegister| BarFact {
        index: register.index,
        kind: register.kind,
        size: None,
        is_64bit: register.is_64bit,
        note: note(register.kind, register.is_64bit, register.prefetchable),
        notes: Vec::new(),
        line: None,
    };
    registers.iter().map(fact).collect()
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

impl Facts {
    /// The BARs with their sizes, and the numbers of I/O BARs whose size no source
    /// has. The list of regions wins over what else is known.
    pub(super) fn mapped(
        &self,
        regions: Option<&[RegionFact]>,
    ) -> Result<(Vec<MappedBar>, Vec<u8>), BarsError> {
        let mut bars = Vec::new();
        let mut unsized_io_bars = Vec::new();
        for number in 0..BarIndex::COUNT {
            let fact = self.bars.iter().find(|fact| fact.index.get() == number);
            let said =
                regions.and_then(|all| all.iter().find(|said| said.index == u32::from(number)));
            let whole = Region::mappable();
            let (size, region) = match (said, fact) {
                (None, None) => continue,
                (Some(said), _) if said.size == 0 => continue,
                (Some(said), _) => (said.size, &said.region),
                (None, Some(fact)) => match fact.size {
                    Some(size) => (size, &whole),
                    None if fact.kind == BarKind::Io => {
                        unsized_io_bars.push(number);
                        continue;
                    }
                    None => return Err(self.unknown_size(fact, regions.is_some())),
                },
            };
            if self.is_upper_half(number) {
                let what = format!("number {number} is the upper half of BAR {}", number - 1);
                return Err(match (said, fact.and_then(|fact| fact.line)) {
                    (None, Some(line)) => Fault::at(line, what),
                    _ => Fault::whole(format!("--regions: {what}")),
                }
                .in_file(&self.source));
            }
            bars.push(MappedBar {
                bar: self.bar(number, fact, size)?,
                region: region.clone(),
                note: fact.map(|fact| fact.note.clone()).unwrap_or_default(),
                notes: fact.map(|fact| fact.notes.clone()).unwrap_or_default(),
            });
        }
        self.check_msix(&bars)?;
        Ok((bars, unsized_io_bars))
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

    fn unknown_size(&self, fact: &BarFact, has_regions: bool) -> BarsError {
        let why = match (has_regions, fact.line) {
            (true, _) => "--regions does not list it",
            (false, Some(_)) => {
                "`[size=…]` is missing, as when lspci reads a dump: give --regions FILE.json"
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

    /// That the MSI-X structures are in BARs that there are.
    fn check_msix(&self, bars: &[MappedBar]) -> Result<(), BarsError> {
        let Some(msix) = self.msix else {
            return Ok(());
        };
        for part in [MsixPart::Table, MsixPart::Pba] {
            let index = msix.place(part).bar;
            if !bars.iter().any(|mapped| mapped.bar.index() == index) {
                let what = format!("the {part} is in {index}, and the device has no such BAR");
                return Err(Fault::whole(what).in_file(&self.source));
            }
        }
        Ok(())
    }
}
