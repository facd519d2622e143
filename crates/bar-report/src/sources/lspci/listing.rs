// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the lines that `lspci -vv` prints for one device.
//!
//! Each line is parsed, or is known not to concern BARs and MSI-X, or is an error.

use std::collections::BTreeMap;

use vfio_private::{BarIndex, Msix};

use crate::bdf::Bdf;
use crate::error::Fault;
use crate::facts::BarFact;
use crate::quote::quoted;
use crate::sources::lspci::capability_name::{allows_extended, is_id, may_be_msix};
use crate::sources::lspci::enhanced_allocation::Enhanced;
use crate::sources::lspci::hexdump::{Dump, line_of_dump};
use crate::sources::lspci::msix_lines::{self, OpenMsix};
use crate::sources::lspci::omission::{Omission, omission};
use crate::sources::lspci::region_line::region;
use crate::sources::lspci::second_device::{NO_HEADER, OtherDevice};
use crate::sources::lspci::statement::{mention, statements};

const BROKEN: &str = "lspci could not follow the capabilities to their end, so MSI-X may be hidden";
const UNKNOWN_MSIX: &str = "this is an MSI-X capability (0x11), which this lspci cannot read: use a \
                            newer one";
const UNKNOWN_ENHANCED: &str = "this is an Enhanced Allocation capability (0x14), which this lspci \
                                cannot read: use a newer one";
const NOT_VV: &str = "the BAR has no number: this is what `lspci -v` prints, and -vv is needed";
const ORPHAN: &str = "a region after the capabilities is not the device's: the line before, which \
                      names its owner, is missing";
const NO_MSIX: &str = "the line `MSI-X: … Count=` in front is missing";

/// The MSI-X structures and the line that names them; none without MSI-X.
pub(super) type MsixText = Option<(Msix, usize)>;

/// The facts in one listing of a device.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The line where the listing starts.
    pub(super) line: usize,
    /// The device, if the listing has its first line.
    device: Option<Bdf>,
    pub(super) regions: Vec<BarFact>,
    /// The line where BARs may be missing.
    pub(super) cut_bars: Option<usize>,
    pub(super) msix: MsixText,
    /// The line of the status register, and whether the register reports capabilities.
    pub(super) status: Option<(usize, bool)>,
    /// The line of the first capability.
    pub(super) capabilities: Option<usize>,
    /// The line where capabilities are missing.
    pub(super) cut_capabilities: Option<usize>,
    /// The line where lspci states that it could not read the capabilities.
    pub(super) denied: Option<usize>,
    /// The line where lspci states that it could not read the device.
    pub(super) unreadable: Option<usize>,
    pub(super) enhanced: Option<Enhanced>,
    pub(super) dump: Option<Dump>,
    /// Whether a line after all lines of interest has been seen.
    pub(super) is_whole: bool,
    /// Whether the previous line is empty.
    is_behind_empty: bool,
    /// Whether the listing has empty lines in the middle, so that another one does not end it.
    has_empty_lines: bool,
    section: Section,
    /// The first words of each capability, by the capability's place.
    names: BTreeMap<String, String>,
    /// Whether a capability has been seen that only devices with extended capabilities have.
    may_be_extended: bool,
    other_device: OtherDevice,
    /// The line where lines are missing. The next region shows whether they were BARs.
    gap: Option<usize>,
    /// The line where lines may be missing, if other lines follow.
    doubt: Option<usize>,
    /// The lowest possible number of a further BAR.
    next_bar: u8,
}

/// The part of the listing that contains the current line.
#[derive(Debug, Default)]
enum Section {
    /// The device itself.
    #[default]
    Device,
    /// The MSI-X capability. The following lines contain its places.
    Msix(OpenMsix),
    /// The capability that lists the regions of virtual functions.
    VirtualFunctions,
    Enhanced,
    /// Another capability, or the lines after all capabilities.
    Other,
}

impl Listing {
    /// Creates an empty listing. BARs may be missing until a line that precedes them is seen.
    pub(super) fn new(line: usize, device: Option<Bdf>) -> Self {
        Self {
            line,
            device,
            gap: Some(line),
            ..Self::default()
        }
    }

    /// Returns whether the listing has only the device's name.
    pub(super) fn is_empty(&self) -> bool {
        self.status.is_none()
            && self.capabilities.is_none()
            && self.denied.is_none()
            && self.unreadable.is_none()
            && self.regions.is_empty()
            && self.dump.is_none()
    }

    /// Reads the next line.
    pub(super) fn line(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        if statements(text) > 1 {
            let what = "this is more than one line of `lspci -vv`: line ends are lost";
            return Err(Fault::at(line, what));
        }
        if text.is_empty() {
            // `lspci` prints an empty line after each device.
            self.is_whole |= !self.has_empty_lines && self.doubt.is_none();
            self.is_behind_empty = true;
            return Ok(());
        }
        let is_behind_empty = std::mem::take(&mut self.is_behind_empty);
        if is_behind_empty && statements(text) > 0 {
            self.has_empty_lines = true;
        }
        let is_orphan = text.starts_with("Region ") && !matches!(self.section, Section::Device);
        if !is_orphan {
            self.other_device.check(line, text)?;
        }
        if let Some((offset, bytes)) = line_of_dump(text) {
            self.close()?;
            self.is_whole = true;
            return Dump::read(&mut self.dump, line, offset, bytes);
        }
        if text.starts_with("!!! Unknown header type") {
            self.unreadable.get_or_insert(line);
            return Ok(());
        }
        if let Some(capability) = text.strip_prefix("Capabilities: ") {
            self.close()?;
            return self.capability(line, capability);
        }
        if let Some(status) = text.strip_prefix("Status: Cap") {
            return self.status(line, status);
        }
        if let Some(rest) = text.strip_prefix("Region ") {
            return self.region(line, rest);
        }
        if text.starts_with("Memory at ") || text.starts_with("I/O ports at ") {
            return Err(Fault::at(line, NOT_VV));
        }
        if let Some(rest) = text.strip_prefix("Vector table: ") {
            return self.place(line, rest, |open| &mut open.table);
        }
        if let Some(rest) = text.strip_prefix("PBA: ") {
            return self.place(line, rest, |open| &mut open.pba);
        }
        self.other(line, text)
    }

    /// Ends the listing.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.close()?;
        self.end_of_bars();
        Ok(())
    }

    /// Reads the status register: `+ 66MHz- …`, after `Cap`.
    fn status(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        let has_capabilities = match text.chars().next() {
            Some('+') => true,
            Some('-') => false,
            _ => return Err(Fault::not_understood(line, text, "`Cap+` or `Cap-`")),
        };
        let is_other = matches!(self.status, Some((_, other)) if other != has_capabilities);
        if is_other || self.is_late() {
            return Err(Fault::at(line, NO_HEADER));
        }
        self.status = Some((line, has_capabilities));
        (self.gap, self.doubt) = (None, None);
        Ok(())
    }

    /// Returns whether a line that follows the device's registers has been seen.
    fn is_late(&self) -> bool {
        !self.regions.is_empty() || !matches!(self.section, Section::Device)
    }

    fn region(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        match self.section {
            Section::Device => {}
            // `lspci` does not print the sizes of these regions.
            Section::VirtualFunctions if !text.contains("[size=") => return Ok(()),
            _ => return Err(Fault::at(line, ORPHAN)),
        }
        let bar = region(line, text)?;
        let number = bar.index.get();
        let same = |known: &&BarFact| known.index == bar.index;
        match self.regions.iter().find(same) {
            Some(known) if !known.states_same_as(&bar) => return Err(conflict(known, &bar)),
            Some(_) => return Ok(()),
            None if self.regions.iter().any(|known| known.index > bar.index) => {
                let what = format!(
                    "{} follows a BAR with a higher number: {NO_HEADER}",
                    bar.index
                );
                return Err(Fault::at(line, what));
            }
            None => {}
        }
        self.settle_doubt();
        if let Some(gap) = self.gap.take().filter(|_| number > self.next_bar) {
            self.cut_bars.get_or_insert(gap);
        }
        self.next_bar = number + 1 + u8::from(bar.is_64bit);
        self.is_whole = false;
        self.regions.push(bar);
        Ok(())
    }

    /// Records that lines are missing here, because another line follows.
    fn settle_doubt(&mut self) {
        let missing = match self.section {
            Section::Device => &mut self.gap,
            _ => &mut self.cut_capabilities,
        };
        *missing = missing.or(self.doubt.take());
    }

    /// Records that no BAR follows: missing lines may have been BARs.
    fn end_of_bars(&mut self) {
        if let Some(gap) = self.gap.take().filter(|_| self.next_bar < BarIndex::COUNT) {
            self.cut_bars.get_or_insert(gap);
        }
    }

    /// Reads the text after `Capabilities: `.
    fn capability(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        self.settle_doubt();
        // Lines omitted before the first capability may have been other capabilities.
        self.cut_capabilities = self.cut_capabilities.or(self.gap);
        self.end_of_bars();
        self.section = Section::Other;
        if text.starts_with('<') {
            self.denied.get_or_insert(line);
            return Ok(());
        }
        let expected = "a capability as in `[b0] MSI-X: Enable+ Count=33 Masked-`";
        let fault = || Fault::not_understood(line, text, expected);
        let (place, name) = text
            .strip_prefix('[')
            .and_then(|text| text.split_once("] "))
            .ok_or_else(fault)?;
        let is_extended = place.len() > 2;
        if name.starts_with("<chain") {
            return Err(Fault::at(line, BROKEN));
        }
        let first = name.split_whitespace().next().unwrap_or_default();
        let known = self.names.entry(place.to_string());
        if known.or_insert_with(|| first.to_string()) != first {
            let what = format!("another capability is at [{place}] in front: {NO_HEADER}");
            return Err(Fault::at(line, what));
        }
        self.capabilities.get_or_insert(line);
        self.may_be_extended |= allows_extended(name);
        if is_extended && !self.may_be_extended {
            self.cut_capabilities.get_or_insert(line);
        }
        // Extended capabilities follow the others, including MSI-X.
        self.is_whole = is_extended;
        if !is_extended && is_id(name, "11") {
            return Err(Fault::at(line, UNKNOWN_MSIX));
        }
        if !is_extended && is_id(name, "14") {
            return Err(Fault::at(line, UNKNOWN_ENHANCED));
        }
        if name.starts_with("Single Root I/O Virtualization") {
            self.section = Section::VirtualFunctions;
        } else if let Some(entries) = name.strip_prefix("Enhanced Allocation (EA): ") {
            self.section = Section::Enhanced;
            self.enhanced
                .get_or_insert_with(|| Enhanced::new(line, entries));
        } else if let Some(msix) = name.strip_prefix("MSI-X: ") {
            let open = OpenMsix::new(line, msix);
            self.section = Section::Msix(open.ok_or_else(|| {
                let expected = "the number of vectors as in `MSI-X: Enable+ Count=33 Masked-`";
                Fault::not_understood(line, text, expected)
            })?);
        } else if may_be_msix(name) {
            return Err(fault());
        }
        Ok(())
    }

    /// Reads the place of the MSI-X structure that `part` selects.
    fn place(
        &mut self,
        line: usize,
        text: &str,
        part: fn(&mut OpenMsix) -> &mut Option<(BarIndex, u64)>,
    ) -> Result<(), Fault> {
        let Section::Msix(open) = &mut self.section else {
            return Err(Fault::at(line, NO_MSIX));
        };
        let (bar, offset) = msix_lines::place(line, text)?;
        match part(open).replace((bar, offset)) {
            Some(other) if other != (bar, offset) => {
                Err(Fault::at(line, "this place differs from the line before"))
            }
            _ => Ok(()),
        }
    }

    /// Ends a capability.
    fn close(&mut self) -> Result<(), Fault> {
        let Section::Msix(open) = &self.section else {
            return Ok(());
        };
        let (Some(table), Some(pba)) = (open.table, open.pba) else {
            let what = "the lines `Vector table: …` and `PBA: …` do not follow: \
                        `lspci -vv` prints them, and -v does not";
            return Err(Fault::at(open.line, what));
        };
        let line = open.line;
        let msix = Msix::with_vectors(open.vectors, table, pba);
        let msix = msix.map_err(|error| Fault::at(line, error.to_string()))?;
        self.section = Section::Other;
        match self.msix {
            Some((other, other_line)) if other != msix => {
                let what = format!("MSI-X has another place in line {other_line}");
                Err(Fault::at(line, what))
            }
            _ => {
                self.msix = Some((msix, line));
                Ok(())
            }
        }
    }

    /// Reads a line that states no fact about BARs or MSI-X.
    fn other(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        if let Some(what) = mention(text) {
            let what = format!(
                "this is about {what} and was not understood: '{}'. Give the lines as `lspci -vv` \
                 prints them, without anything in front",
                quoted(text)
            );
            return Err(Fault::at(line, what));
        }
        let is_begun = self.device.is_some() || !self.is_empty();
        let is_late = self.is_late();
        self.other_device
            .note(line, text, self.device, is_begun, is_late);
        match omission(text) {
            Some(Omission::Certain) => {
                self.doubt.get_or_insert(line);
                self.settle_doubt();
                return Ok(());
            }
            Some(Omission::Possible) => {
                self.doubt.get_or_insert(line);
                return Ok(());
            }
            None => {}
        }
        if text.starts_with("Kernel driver in use:") || text.starts_with("Kernel modules:") {
            self.close()?;
            self.settle_doubt();
            self.end_of_bars();
            self.section = Section::Other;
            self.is_whole = true;
            self.other_device.note_end(line);
        } else if text.starts_with("Control: I/O") {
            if self.is_late() {
                return Err(Fault::at(line, NO_HEADER));
            }
            (self.gap, self.doubt) = (None, None);
        } else if let (Section::Enhanced, Some(enhanced)) = (&self.section, &mut self.enhanced) {
            enhanced.line(line, text);
        }
        Ok(())
    }
}

/// Creates the fault that two lines about one BAR differ.
pub(super) fn conflict(known: &BarFact, bar: &BarFact) -> Fault {
    let other = known.line.unwrap_or_default();
    let what = format!("{} differs from line {other}", bar.index);
    Fault {
        line: bar.line,
        what,
    }
}
