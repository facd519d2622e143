// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Combines the facts of a source and of VFIO about a device's BARs to the input of the classifier.

use vfio_private::{
    Bar, BarIndex, BarInput, BarKind, BarRange, ClassifyError, Msix, MsixPart, Region,
};

use crate::error::{BarReportError, Fault};
use crate::facts::{BarFact, DeviceFacts};
use crate::memory_type::MemoryType;
use crate::report::note::{Note, Topic};
use crate::sources::region_list::{RegionFact, RegionList, RegionSource};
use crate::wording::Wording;

/// A BAR with its size and the areas that VFIO lets userspace map.
#[derive(Clone, Debug)]
pub struct KnownBar {
    /// The BAR.
    pub bar: Bar,
    /// The areas that userspace may map.
    pub region: Region,
    /// The MSI-X structures of the device, which may be in other BARs.
    pub msix: Option<Msix>,
    /// The type of a memory BAR, if its source states it.
    pub memory_type: Option<MemoryType>,
    /// Whether the Enhanced Allocation capability describes the BAR.
    pub is_enhanced: bool,
}

impl KnownBar {
    /// Returns the input of [`vfio_private::classify`], without a TDISP report.
    pub fn input(&self) -> BarInput<'_> {
        BarInput::new(self.bar, &self.region).with_msix(self.msix)
    }
}

/// The BARs of a device, with all facts that decide their pieces except the TDISP report and the
/// choices. [`DeviceFacts::bars`] creates it.
#[derive(Clone, Debug)]
pub struct DeviceBars {
    pub(crate) name: String,
    pub(crate) bars: Vec<KnownBar>,
    pub(crate) unsized_io: Vec<BarIndex>,
    pub(crate) msix: Option<Msix>,
    /// The place in the source that describes MSI-X.
    pub(crate) msix_place: String,
    pub(crate) region_source: RegionSource,
    /// The source of the regions.
    pub(crate) region_place: String,
    pub(crate) region_note: Note,
    /// The other notes.
    pub(crate) notes: Vec<Note>,
    pub(crate) wording: Wording,
}

impl DeviceBars {
    /// Returns the name of the device in its source.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the BARs of known size in ascending order.
    pub fn bars(&self) -> &[KnownBar] {
        &self.bars
    }

    /// Returns the I/O BARs of unknown size in ascending order. All of their bytes trap.
    pub fn unsized_io(&self) -> &[BarIndex] {
        &self.unsized_io
    }

    /// Returns the MSI-X structures.
    pub const fn msix(&self) -> Option<Msix> {
        self.msix
    }

    /// Returns the notes: unknown facts, omitted parts and possible errors.
    pub fn notes(&self) -> impl Iterator<Item = &Note> {
        std::iter::once(&self.region_note).chain(&self.notes)
    }
}

/// Describes how a list of regions and the other sources differ about a BAR.
fn differs(listed: Option<&RegionFact>, fact: Option<&BarFact>) -> Option<String> {
    match (listed, fact.map(|fact| fact.size)) {
        (None, _) => Some("it has no such region: the BAR is taken as mappable".into()),
        (Some(_), None) => Some("no other source has the BAR".into()),
        (Some(listed), Some(Some(size))) if listed.size != size => Some(format!(
            "{:#x} bytes, other sources say {size:#x}",
            listed.size
        )),
        _ => None,
    }
}

impl DeviceFacts {
    /// Returns the BARs with their sizes, and notes. The list of regions overrides the other
    /// sources.
    ///
    /// # Errors
    /// [`BarReportError`] if the size of a BAR is unknown, or if facts contradict each other.
    pub fn bars(&self, list: &RegionList) -> Result<DeviceBars, BarReportError> {
        let regions = list.regions.as_deref();
        let whole = Region::mappable();
        let mut bars = Vec::new();
        let mut unsized_io = Vec::new();
        let device = |text: &String| Note::new(Topic::Device, text.clone());
        let mut notes: Vec<Note> = self.notes.iter().map(device).collect();
        let unknown = self.unknown.as_ref().filter(|_| regions.is_none());
        notes.extend(unknown.map(device));
        let mut notes_of_bars = Vec::new();
        for number in 0..BarIndex::COUNT {
            let fact = self.bars.iter().find(|fact| fact.index.get() == number);
            let listed =
                regions.and_then(|all| all.iter().find(|listed| listed.index == u32::from(number)));
            let is_there = match (listed, fact) {
                (Some(listed), _) => listed.size > 0,
                (None, fact) => fact.is_some_and(|fact| !fact.is_unusable()),
            };
            if is_there && self.is_upper_half(number) {
                let what = format!("number {number} is the upper half of BAR {}", number - 1);
                return Err(match (listed, fact.and_then(|fact| fact.line)) {
                    (Some(_), _) => Fault::whole(format!("{}: {what}", self.wording.regions)),
                    (None, Some(line)) => Fault::at(line, what),
                    (None, None) => Fault::whole(what),
                }
                .in_file(&self.source));
            }
            let (size, region) = match (listed, fact) {
                (None, None) => continue,
                (Some(listed), fact) if listed.size == 0 => {
                    if fact.is_some_and(|fact| !fact.is_unusable()) {
                        let what = format!("BAR {number} is left out: VFIO has no bytes of it");
                        notes.push(Note::new(Topic::Regions, what));
                    }
                    continue;
                }
                (Some(listed), _) => (listed.size, &listed.region),
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
                        unsized_io.push(fact.index);
                        continue;
                    }
                    None => return Err(self.unknown_size(fact, regions.is_some())),
                },
            };
            let bar = self.bar(number, fact, size)?;
            if let Some(fact) = fact {
                self.check_register(fact, bar, listed.is_some())?;
            }
            if let Some(what) = regions.and_then(|_| differs(listed, fact)) {
                notes.push(Note::new(Topic::Regions, what).of_bar(bar.index()));
            }
            let of_bar = |text: &String| device(text).of_bar(bar.index());
            notes_of_bars.extend(fact.iter().flat_map(|fact| &fact.notes).map(of_bar));
            bars.push(KnownBar {
                bar,
                region: region.clone(),
                msix: self.msix,
                memory_type: fact.and_then(|fact| fact.memory_type),
                is_enhanced: fact.is_some_and(|fact| fact.is_enhanced),
            });
        }
        self.check_msix(&bars, &unsized_io)?;
        notes.extend(notes_of_bars);
        Ok(DeviceBars {
            name: self.name.clone(),
            bars,
            unsized_io,
            msix: self.msix,
            msix_place: self.msix_place.clone(),
            region_source: list.source.clone(),
            region_place: list.file.as_ref().unwrap_or(&self.source).clone(),
            region_note: list.source.note(&self.wording),
            notes,
            wording: self.wording,
        })
    }

    fn is_upper_half(&self, number: u8) -> bool {
        let below = |fact: &BarFact| fact.is_64bit && fact.index.get() + 1 == number;
        self.bars.iter().any(below)
    }

    fn bar(&self, number: u8, fact: Option<&BarFact>, size: u64) -> Result<Bar, BarReportError> {
        let kind = fact.map_or(BarKind::Memory, |fact| fact.kind);
        BarIndex::new(number)
            .and_then(|index| Bar::new(index, kind, size))
            .map_err(|source| BarReportError::Input {
                file: self.source.clone(),
                source,
            })
    }

    /// Checks that the register can hold its value: no bits below the size are set.
    fn check_register(
        &self,
        fact: &BarFact,
        bar: Bar,
        is_said: bool,
    ) -> Result<(), BarReportError> {
        let address = match fact.register {
            Some(address) if address & (bar.size() - 1) != 0 => address,
            _ => return Ok(()),
        };
        let source = match is_said {
            true => format!(" by {}", self.wording.regions),
            false => String::new(),
        };
        let what = format!(
            "{} has {:#x} bytes{source}, and its register holds {address:#x}, which is not a \
             multiple of that",
            fact.index,
            bar.size()
        );
        let line = fact.line;
        Err(Fault { line, what }.in_file(&self.source))
    }

    fn unknown_size(&self, fact: &BarFact, has_regions: bool) -> BarReportError {
        let Wording {
            regions,
            give_regions,
            as_device,
            ..
        } = self.wording;
        let why = match (has_regions, fact.line) {
            (true, _) => format!("{regions} does not list it"),
            (false, Some(_)) => format!(
                "`[size=…]` is missing, as when lspci reads a dump: give {give_regions}, or what \
                 `lspci -vv` prints on the device's own machine"
            ),
            (false, None) => format!(
                "configuration space does not have it: give {give_regions}, or the text of \
                 `lspci -vv`{as_device}"
            ),
        };
        let mut what = format!("the size of {} is not known: {why}", fact.index);
        for note in &fact.notes {
            what += &format!("; {note}");
        }
        let line = fact.line;
        Fault { line, what }.in_file(&self.source)
    }

    /// Checks that the MSI-X structures are in existing BARs.
    fn check_msix(&self, bars: &[KnownBar], unsized_io: &[BarIndex]) -> Result<(), BarReportError> {
        let Some(msix) = self.msix else {
            return Ok(());
        };
        for part in [MsixPart::Table, MsixPart::Pba] {
            let BarRange { bar: index, range } = msix.place(part);
            if unsized_io.contains(&index) {
                return Err(BarReportError::Classify {
                    place: self.msix_place.clone(),
                    source: ClassifyError::MsixInIoBar {
                        bar: index,
                        part,
                        range,
                    },
                });
            }
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
