// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Combines one or more listings of a device. The listings must agree. A fact is unknown unless at
//! least one listing proves it.

use crate::error::Fault;
use crate::facts::BarFact;
use crate::sources::lspci::hexdump::Dump;
use crate::sources::lspci::listing::{Listing, MsixText, conflict};
use crate::wording::Wording;

const DENIED: &str = "the capabilities are hidden, and MSI-X with them: run lspci as root";
const CUT: &str = "the device has capabilities (Cap+), but the text shows none: was it cut off?";
const LEFT_OUT: &str = "lines are left out among the capabilities, so MSI-X may be hidden: give all \
                        that `lspci -vv` prints for the device";
const UNKNOWN: &str = "it shows neither `Status: …` nor `Capabilities: […]`, so whether the device \
                       has MSI-X is not known: give all that `lspci -vv` prints for it as root";
const NO_BARS: &str = "lines with BARs may be missing from here on: give all that `lspci -vv` prints \
                       for the device, from its first line on";
const UNREADABLE: &str = "lspci could not read the device: is it powered down?";
const MAY_BE_CUT: &str = "The text may have been cut off at its end, where lspci prints \
                          `Kernel driver in use: …` or an empty line. Then";

/// The combined facts about a device.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) regions: Vec<BarFact>,
    /// Whether there are no other BARs. A dump alone does not show this.
    pub(super) shows_all_bars: bool,
    /// The place of MSI-X, or the reason why it is unknown. A dump may contain it.
    pub(super) msix: Result<MsixText, Fault>,
    pub(super) dump: Option<Dump>,
    pub(super) notes: Vec<String>,
}

/// Combines the listings. None of them is empty.
pub(super) fn merged(listings: Vec<Listing>, wording: &Wording) -> Result<Merged, Fault> {
    readable(&listings)?;
    let regions = regions(&listings)?;
    let mut msix = msix(&listings)?;
    let has_dump = listings.iter().any(|one| one.dump.is_some());
    let bars = missing_bars(&listings);
    if !has_dump {
        // The lines that are missing in one place may have been of both kinds.
        let line = msix.as_ref().err().map(|fault| fault.line);
        match bars {
            Err(fault) if line == Some(fault.line) => return Err(fault),
            _ => msix = Ok(msix?),
        }
    }
    // A dump does not show these BARs either: the register of a BAR without an address may be 0.
    missing_bars(&listings)?;
    let enhanced = listings.iter().filter_map(|one| one.enhanced.as_ref());
    let dumps = || listings.iter().filter_map(|one| one.dump.as_ref());
    let mut notes = Vec::new();
    // A dump of the capabilities contains the entries themselves.
    if dumps().all(Dump::is_header) {
        enhanced
            .clone()
            .try_for_each(|one| one.check(&regions, wording))?;
        notes.extend(enhanced.flat_map(|one| one.left_out(&regions)));
    }
    if matches!(msix, Ok(None)) && !listings.iter().any(|one| one.is_whole) {
        // Capabilities follow the BARs, if there are any.
        let is_late = listings.iter().any(|one| one.capabilities.is_some());
        let what = if is_late { "MSI-X" } else { "BARs" };
        notes.push(format!("{MAY_BE_CUT} {what} may be missing here."));
    }
    Ok(Merged {
        regions,
        shows_all_bars: listings.iter().any(has_all_bars),
        msix,
        dump: dump(listings)?,
        notes,
    })
}

fn readable(listings: &[Listing]) -> Result<(), Fault> {
    let Some(line) = listings.iter().find_map(|one| one.unreadable) else {
        return Ok(());
    };
    let other = listings.iter().find(|one| one.unreadable.is_none());
    let what = match other {
        None => UNREADABLE.to_string(),
        Some(other) => format!(
            "lspci could not read the device here, but could in line {}: give only one of them",
            other.line
        ),
    };
    Err(Fault::at(line, what))
}

/// Combines all regions. A listing without gaps must have each of them.
fn regions(listings: &[Listing]) -> Result<Vec<BarFact>, Fault> {
    let mut regions: Vec<BarFact> = Vec::new();
    for bar in listings.iter().flat_map(|one| &one.regions) {
        let known = regions.iter_mut().find(|known| known.index == bar.index);
        match known {
            None => regions.push(bar.clone()),
            Some(known) if !known.states_same_as(bar) => return Err(conflict(known, bar)),
            Some(known) => {
                let new = bar.notes.iter().filter(|note| !known.notes.contains(note));
                let new: Vec<String> = new.cloned().collect();
                known.notes.extend(new);
                known.memory_type = known.memory_type.or(bar.memory_type);
            }
        }
    }
    for one in listings.iter().filter(|one| has_all_bars(one)) {
        let has = |bar: &&BarFact| !one.regions.iter().any(|own| own.index == bar.index);
        if let Some(bar) = regions.iter().find(has) {
            let what = format!(
                "{} is not in the other listing of the device, which starts in line {}",
                bar.index, one.line
            );
            let line = bar.line;
            return Err(Fault { line, what });
        }
    }
    Ok(regions)
}

fn has_all_bars(listing: &Listing) -> bool {
    listing.status.is_some() && listing.cut_bars.is_none()
}

/// Checks that a listing shows all BARs. Otherwise lines with BARs may be missing.
fn missing_bars(listings: &[Listing]) -> Result<(), Fault> {
    // A listing that is only a dump has no lines of BARs.
    let mut texts = listings
        .iter()
        .filter(|one| one.dump.is_none() || !one.regions.is_empty());
    match texts.clone().any(|one| one.cut_bars.is_none()) {
        true => Ok(()),
        false => match texts.find_map(|one| one.cut_bars) {
            Some(line) => Err(Fault::at(line, NO_BARS)),
            None => Ok(()),
        },
    }
}

/// Combines the places of MSI-X from all listings that prove them. The outer error means that the
/// listings disagree. The inner error means that none of them contains the place.
fn msix(listings: &[Listing]) -> Result<Result<MsixText, Fault>, Fault> {
    let mut known: Option<(MsixText, usize)> = None;
    let mut unknown = None;
    for one in listings {
        if let (Some((line, false)), Some(capability)) = (one.status, one.capabilities) {
            let what = format!("the device has no capabilities (Cap-) by line {line}");
            return Err(Fault::at(capability, what));
        }
        let found = match own_msix(one) {
            Ok(found) => found,
            Err(fault) => {
                unknown.get_or_insert(fault);
                continue;
            }
        };
        let line = found.map_or(one.line, |(_, line)| line);
        let place = |msix: MsixText| msix.map(|(msix, _)| msix);
        match known {
            Some((other, other_line)) if place(other) != place(found) => {
                let what = match (other, found) {
                    (Some(_), Some(_)) => format!("MSI-X has another place in line {other_line}"),
                    (Some(_), None) => {
                        format!("no MSI-X here, but line {other_line} has it")
                    }
                    _ => format!("the listing in line {other_line} has no MSI-X"),
                };
                return Err(Fault::at(line, what));
            }
            Some(_) => {}
            None => known = Some((found, line)),
        }
    }
    Ok(match (known, unknown) {
        (Some((msix, _)), _) => Ok(msix),
        (None, Some(fault)) => Err(fault),
        (None, None) => Err(Fault::whole(UNKNOWN)),
    })
}

/// Returns the place of MSI-X, or `None` without MSI-X, if this listing proves it.
fn own_msix(listing: &Listing) -> Result<MsixText, Fault> {
    if listing.msix.is_some() {
        return Ok(listing.msix);
    }
    match (listing.capabilities, listing.status) {
        (Some(_), _) => match (listing.cut_capabilities, listing.denied) {
            (Some(line), _) => Err(Fault::at(line, LEFT_OUT)),
            (None, Some(line)) => Err(Fault::at(line, DENIED)),
            (None, None) => Ok(None),
        },
        (None, _) if listing.denied.is_some() => {
            Err(Fault::at(listing.denied.unwrap_or_default(), DENIED))
        }
        (None, Some((line, true))) => Err(Fault::at(line, CUT)),
        (None, Some((_, false))) => Ok(None),
        (None, None) => Err(Fault::at(listing.line, UNKNOWN)),
    }
}

/// Returns the longest dump. The other dumps must be its beginning.
fn dump(listings: Vec<Listing>) -> Result<Option<Dump>, Fault> {
    let mut longest: Option<Dump> = None;
    for dump in listings.into_iter().filter_map(|one| one.dump) {
        let Some(known) = &longest else {
            longest = Some(dump);
            continue;
        };
        let shorter = known.bytes.len().min(dump.bytes.len());
        if known.bytes[..shorter] != dump.bytes[..shorter] {
            let what = format!("another hex dump of the device is in line {}", known.line);
            return Err(Fault::at(dump.line, what));
        }
        if dump.bytes.len() > shorter {
            longest = Some(dump);
        }
    }
    Ok(longest)
}
