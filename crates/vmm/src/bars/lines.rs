// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lines that `lspci -vv` prints for one device.

use vfio_private::{BarIndex, BarKind, Msix};

use super::device::BarFact;
use super::error::Fault;
use super::hexdump::{Dump, line_of_dump};
use super::lspci::not_understood;

const DENIED: &str = "the capabilities are hidden, and MSI-X with them: run lspci as root";
const BROKEN: &str = "lspci could not follow the capabilities to their end, so MSI-X may be hidden";
const CUT: &str = "the device has capabilities (Cap+), and the text shows none: was it cut off?";
const UNREADABLE: &str = "lspci could not read the device: is it powered down?";
const NOT_VV: &str = "the BAR has no number: this is what `lspci -v` prints, and -vv is needed";

/// The MSI-X structures and the line they are named in; none without MSI-X.
pub(super) type MsixText = Option<(Msix, usize)>;

/// What the lines say. Lines of no interest are passed over.
#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) regions: Vec<BarFact>,
    pub(super) msix: MsixText,
    /// Whether `msix` is to be believed when it is none.
    pub(super) shows_capabilities: bool,
    /// Why the capabilities are not shown though there are some.
    pub(super) hidden: Option<(usize, &'static str)>,
    pub(super) dump: Option<Dump>,
    has_details: bool,
    /// The first capability has been seen: what follows belongs to capabilities.
    in_capabilities: bool,
    open_msix: Option<OpenMsix>,
}

/// An MSI-X capability whose places are in the lines that follow.
#[derive(Debug)]
struct OpenMsix {
    line: usize,
    vectors: u16,
    table: Option<(BarIndex, u64)>,
    pba: Option<(BarIndex, u64)>,
}

impl Device {
    /// Begins with the lines of the device, once more if it is pasted twice.
    pub(super) fn start(&mut self) {
        self.in_capabilities = false;
    }

    /// Whether the text has nothing to say of the device but its name.
    pub(super) fn is_empty(&self) -> bool {
        !self.has_details && self.regions.is_empty() && self.dump.is_none()
    }

    pub(super) fn line(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        if let Some((offset, bytes)) = line_of_dump(text) {
            return Dump::read(&mut self.dump, line, offset, bytes);
        }
        if text.starts_with("!!! ") {
            return Err(Fault::at(line, UNREADABLE));
        }
        if let Some(capability) = text.strip_prefix("Capabilities: ") {
            self.close_msix()?;
            self.in_capabilities = true;
            return self.capability(line, capability);
        }
        if self.in_capabilities {
            // Also the regions of virtual functions, which are not the device's.
            return self.place(line, text);
        }
        if let Some(status) = text.strip_prefix("Status: ") {
            self.has_details = true;
            if status.starts_with("Cap+") {
                self.hidden.get_or_insert((line, CUT));
            }
        }
        if let Some(region) = text.strip_prefix("Region ") {
            return self.region(line, region);
        }
        if text.starts_with("Memory at ") || text.starts_with("I/O ports at ") {
            return Err(Fault::at(line, NOT_VV));
        }
        // Of a capability whose own line is missing.
        if text.starts_with("Vector table: BAR=") {
            return Err(Fault::at(
                line,
                "the line `MSI-X: … Count=` in front is missing",
            ));
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.close_msix()
    }

    fn capability(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        if text.starts_with("<access denied>") {
            self.hidden = Some((line, DENIED));
            return Ok(());
        }
        if text.contains("<chain looped>") || text.contains("<chain broken>") {
            return Err(Fault::at(line, BROKEN));
        }
        self.shows_capabilities = true;
        let Some((_, msix)) = text.split_once("] MSI-X: ") else {
            return Ok(());
        };
        let expected = "the number of vectors as in `MSI-X: Enable+ Count=33`";
        // Before 2010 it was called `TabSize`.
        let vectors = value(msix, "Count=").or(value(msix, "TabSize="));
        let vectors = vectors.and_then(|digits| digits.parse().ok());
        self.open_msix = Some(OpenMsix {
            line,
            vectors: vectors.ok_or_else(|| not_understood(line, text, expected))?,
            table: None,
            pba: None,
        });
        Ok(())
    }

    /// A line below the one that names a capability.
    fn place(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        let Some(open) = &mut self.open_msix else {
            return Ok(());
        };
        let (place, rest) = match (
            text.strip_prefix("Vector table: "),
            text.strip_prefix("PBA: "),
        ) {
            (Some(rest), _) => (&mut open.table, rest),
            (_, Some(rest)) => (&mut open.pba, rest),
            (None, None) => return Ok(()),
        };
        let expected = "a BAR and a hexadecimal offset as in `BAR=0 offset=00002000`";
        let read = || {
            let bar = value(rest, "BAR=")?.parse().ok()?;
            let offset = u64::from_str_radix(value(rest, "offset=")?, 16).ok()?;
            Some((bar, offset))
        };
        let (bar, offset) = read().ok_or_else(|| not_understood(line, text, expected))?;
        let bar = BarIndex::new(bar).map_err(|error| Fault::at(line, error.to_string()))?;
        *place = Some((bar, offset));
        Ok(())
    }

    fn close_msix(&mut self) -> Result<(), Fault> {
        let Some(open) = self.open_msix.take() else {
            return Ok(());
        };
        let (Some(table), Some(pba)) = (open.table, open.pba) else {
            let what = "the lines `Vector table: …` and `PBA: …` do not follow: \
                        `lspci -vv` prints them, and -v does not";
            return Err(Fault::at(open.line, what));
        };
        let msix = Msix::with_vectors(open.vectors, table, pba);
        let msix = msix.map_err(|error| Fault::at(open.line, error.to_string()))?;
        match self.msix {
            Some((other, line)) if other != msix => {
                let what = format!("MSI-X is elsewhere in line {line}");
                Err(Fault::at(open.line, what))
            }
            _ => {
                self.msix = Some((msix, open.line));
                Ok(())
            }
        }
    }

    fn region(&mut self, line: usize, text: &str) -> Result<(), Fault> {
        let bar = region(line, text)?;
        let same = |known: &&BarFact| known.index == bar.index;
        match self.regions.iter().find(same) {
            Some(known) if !known.is_like(&bar) => {
                let other = known.line.unwrap_or_default();
                let what = format!("{} is not what it is in line {other}", bar.index);
                Err(Fault::at(line, what))
            }
            Some(_) => Ok(()),
            None => {
                self.regions.push(bar);
                Ok(())
            }
        }
    }
}

/// What follows `Region `: `0: Memory at f7c00000 (64-bit, prefetchable) [size=16K]`.
fn region(line: usize, text: &str) -> Result<BarFact, Fault> {
    let expected =
        "a region as in `Region 0: Memory at f7c00000 (64-bit, prefetchable) [size=16K]`";
    let fault = || not_understood(line, text, expected);
    let (number, rest) = text.split_once(':').ok_or_else(fault)?;
    let number = number.parse().map_err(|_| fault())?;
    let index = BarIndex::new(number).map_err(|error| Fault::at(line, error.to_string()))?;
    let kind = match (rest.contains("Memory at "), rest.contains("I/O ports at ")) {
        (true, false) => BarKind::Memory,
        (false, true) => BarKind::Io,
        _ => return Err(fault()),
    };
    // It is missing where lspci read a dump rather than a device.
    let size = rest.split_once("[size=").map(|(_, size)| {
        let size = size.split_once(']').and_then(|(size, _)| bytes(size));
        let size = size.ok_or_else(|| not_understood(line, text, "a size as in `[size=16K]`"))?;
        match vfio_private::Bar::new(index, kind, size) {
            Ok(_) => Ok(size),
            Err(error) => Err(Fault::at(line, error.to_string())),
        }
    });
    let size = size.transpose()?;
    let words = rest
        .split_once('(')
        .and_then(|(_, words)| words.split_once(')'));
    let note = words.map(|(words, _)| words).unwrap_or_default();
    Ok(BarFact {
        index,
        kind,
        size,
        is_64bit: note.contains("64-bit"),
        note: note.to_string(),
        line: Some(line),
        notes: Vec::new(),
    })
}

/// A size as `lspci` prints it: `256`, `16K`, `32M`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)? {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return None,
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift)
}

/// The word behind `key`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, behind) = text.split_once(key)?;
    behind.split_whitespace().next()
}
