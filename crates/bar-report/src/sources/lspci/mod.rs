// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the output of `lspci -vv`, with or without a hex dump, as people paste it: several
//! devices, one device twice, without the first line, or quoted in a mail.

mod capability_name;
mod combine;
mod enhanced_allocation;
mod first_line;
mod hexdump;
mod listing;
mod msix_lines;
mod omission;
mod region_line;
mod second_device;
mod statement;
mod unquote;

use std::collections::BTreeSet;

use vfio_private::config::ConfigSpace;

use crate::bdf::Bdf;
use crate::error::{BarReportError, Fault};
use crate::facts::{BarFact, DeviceFacts};
use crate::quote::quoted;
use crate::sources::config_space;
use crate::sources::lspci::combine::{Merged, merged};
use crate::sources::lspci::listing::{Listing, MsixText};
use crate::sources::lspci::statement::{MSIX, mention, statements};
use crate::sources::lspci::unquote::Line;
use crate::wording::Wording;

const BASE64: &str = "this is base64, in which some mails are encoded: decode it first";

/// The most devices that an error names.
const MAX_NAMED: usize = 12;

/// The part of the text about one device.
struct Block<'a> {
    /// None if the text begins in the middle of a device.
    bdf: Option<Bdf>,
    /// The first line.
    name: String,
    /// Its number.
    number: usize,
    /// The other lines.
    lines: Vec<Line<'a>>,
}

/// Returns the facts of the text about the device `wanted`, or about its only device.
pub(super) fn facts(
    file: &str,
    text: &str,
    wanted: Option<Bdf>,
    wording: Wording,
) -> Result<DeviceFacts, BarReportError> {
    let fail = |fault: Fault| fault.in_file(file);
    let blocks = blocks(text).map_err(fail)?;
    let chosen = choose(&blocks, wanted).map_err(fail)?;
    let name = chosen.first().map_or("", |block| &block.name);
    let listings: Result<Vec<_>, _> = chosen.iter().map(|block| listing(block)).collect();
    let mut listings = listings.map_err(fail)?;
    listings.retain(|listing| !listing.is_empty());
    if listings.is_empty() {
        return Err(fail(nothing(text, &wording)));
    }
    let merged = merged(listings, &wording).map_err(fail)?;
    let dumped = read_dump(&merged, file)?;
    let bars = with_dumped(&merged, dumped.bars).map_err(fail)?;
    // Without sizes, lspci does not show BARs whose registers are 0.
    let is_sized = merged.regions.iter().all(|region| region.size.is_some());
    let is_shown = merged.dump.is_none() || merged.shows_all_bars;
    let is_told = is_shown && is_sized;
    let unknown = config_space::unknown(&bars).filter(|_| !is_told);
    let notes = merged.notes.iter().cloned();
    let notes = notes.chain(dumped.left_out).collect();
    let msix = msix(merged, dumped.msix).map_err(fail)?;
    let msix_place = match msix {
        Some((_, line)) => format!("{file}:{line}"),
        None => file.to_string(),
    };
    Ok(DeviceFacts {
        name: quoted(name),
        source: file.to_string(),
        bars,
        notes,
        unknown,
        msix: msix.map(|(msix, _)| msix),
        msix_place,
        wording,
    })
}

/// Creates the fault that the text has no facts about the device.
fn nothing(text: &str, wording: &Wording) -> Fault {
    match unquote::base64(text) {
        Some(line) => Fault::at(line, BASE64),
        None => Fault::whole(format!(
            "there is nothing about a device in it: {} what `lspci -vv` prints, or the bytes of \
             configuration space",
            wording.device_takes
        )),
    }
}

/// Combines the BARs of the text and of the dump, which must agree.
fn with_dumped(merged: &Merged, dumped: Vec<BarFact>) -> Result<Vec<BarFact>, Fault> {
    let mut bars = dumped;
    for region in &merged.regions {
        let index = region.index;
        match bars.iter_mut().find(|fact| fact.index == index) {
            Some(known) => {
                let both = known.with_text(region);
                let what = || format!("{index} differs from the hex dump");
                *known = both.ok_or_else(|| Fault {
                    line: region.line,
                    what: what(),
                })?;
            }
            None => bars.push(region.clone()),
        }
    }
    Ok(bars)
}

fn listing(block: &Block<'_>) -> Result<Listing, Fault> {
    let mut listing = Listing::new(block.number, block.bdf);
    for line in &block.lines {
        listing.line(line.number, &line.text)?;
    }
    listing.finish()?;
    Ok(listing)
}

fn blocks(text: &str) -> Result<Vec<Block<'_>>, Fault> {
    let mut blocks = vec![Block {
        bdf: None,
        name: "the device".into(),
        number: 1,
        lines: Vec::new(),
    }];
    // Whether the previous line must end with a size but has none yet.
    let mut lacks_size = false;
    for line in unquote::lines(text) {
        let address = first_line::address(&line.text);
        if let Some(bdf) = address.map_err(|what| Fault::at(line.number, what))? {
            if statements(&line.text) > 0 || mention(&line.text).is_some() {
                let what = "other lines follow a device's first line without line ends";
                return Err(Fault::at(line.number, what));
            }
            blocks.push(Block {
                bdf: Some(bdf),
                name: line.text.into_owned(),
                number: line.number,
                lines: Vec::new(),
            });
            lacks_size = false;
            continue;
        }
        let lines = blocks.last_mut().map(|block| &mut block.lines);
        let Some(lines) = lines else {
            continue;
        };
        match lines.last_mut() {
            // Among the lines of interest, only those with a size are long enough for mails to
            // break.
            Some(last) if lacks_size && is_end_of_region(&line.text) => {
                let text = last.text.to_mut();
                text.push(' ');
                text.push_str(&line.text);
                lacks_size = !line.text.contains("[size=");
            }
            _ => {
                let text = &line.text;
                let has_size = text.starts_with("Region ") || text.contains("Expansion ROM at ");
                lacks_size = has_size && !text.contains("[size=");
                lines.push(line);
            }
        }
    }
    Ok(blocks)
}

/// Returns whether a mail moved the text from the end of a region's line to this line:
/// `non-prefetchable) [size=16K]`.
fn is_end_of_region(text: &str) -> bool {
    let is_part = |word: &str| {
        let is_address = word.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_address || word.starts_with("[size=") || PARTS.contains(&word)
    };
    !text.is_empty() && text.split_whitespace().all(is_part)
}

/// The words of a region's line after its kind, except address and size.
const PARTS: [&str; 11] = [
    "(32-bit,",
    "(64-bit,",
    "(low-1M,",
    "non-prefetchable)",
    "prefetchable)",
    "[virtual]",
    "[enhanced]",
    "[disabled]",
    "<unassigned>",
    "<ignored>",
    "at",
];

/// Returns the parts of the text about one device.
fn choose<'a, 'b>(
    blocks: &'a [Block<'b>],
    wanted: Option<Bdf>,
) -> Result<Vec<&'a Block<'b>>, Fault> {
    let devices: BTreeSet<Bdf> = blocks.iter().filter_map(|block| block.bdf).collect();
    let named = || {
        let names: Vec<String> = devices.iter().take(MAX_NAMED).map(Bdf::to_string).collect();
        let more = match devices.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{}{more}", names.join(", "))
    };
    let only = match (wanted, devices.first()) {
        (Some(wanted), None) => {
            let what = format!("the text does not say which device it is of; leave {wanted} out");
            return Err(Fault::whole(what));
        }
        (Some(wanted), _) if !devices.contains(&wanted) => {
            let what = format!("there is no {wanted} in the text, only {}", named());
            return Err(Fault::whole(what));
        }
        (None, _) if devices.len() > 1 => {
            let what = format!("the text is of several devices, name one: {}", named());
            let mut named = blocks.iter().filter(|block| block.bdf.is_some());
            let first = named.next().and_then(|block| block.bdf);
            let second = named.find(|block| block.bdf != first);
            let line = second.map(|block| block.number);
            return Err(Fault { line, what });
        }
        (Some(wanted), _) => Some(wanted),
        (None, Some(first)) => {
            // Otherwise the lines of this part would be ignored.
            let nameless = blocks.iter().filter(|block| block.bdf.is_none());
            let mut lines = nameless.flat_map(|block| &block.lines);
            if let Some(line) = lines.find(|line| is_statement(&line.text)) {
                let what =
                    format!("this precedes the first line of {first}: which device is it of?");
                return Err(Fault::at(line.number, what));
            }
            Some(*first)
        }
        (None, None) => None,
    };
    Ok(blocks.iter().filter(|block| block.bdf == only).collect())
}

/// Returns whether a line belongs to a device. Subjects of mails can mention MSI-X.
fn is_statement(text: &str) -> bool {
    statements(text) > 0 || mention(text).is_some_and(|what| what != MSIX)
}

/// The facts in the hex dump.
#[derive(Default)]
struct Dumped {
    bars: Vec<BarFact>,
    /// `None` if the dump does not include the capabilities.
    msix: Option<MsixText>,
    /// The entries of Enhanced Allocation that are not BARs.
    left_out: Option<String>,
}

fn read_dump(merged: &Merged, file: &str) -> Result<Dumped, BarReportError> {
    let Some(dump) = &merged.dump else {
        return Ok(Dumped::default());
    };
    let read = || {
        let config = ConfigSpace::new(&dump.bytes)?;
        let registers = config.bars()?;
        let in_dump = |mut facts: Vec<BarFact>| {
            let line = Some(dump.line);
            facts.iter_mut().for_each(|fact| fact.line = line);
            facts
        };
        // The dump need not contain the capabilities if the text does.
        if merged.msix.is_ok() && dump.is_header() {
            return Ok(Dumped {
                bars: in_dump(config_space::of_registers(&registers)),
                ..Dumped::default()
            });
        }
        let entries = config.enhanced_allocation()?;
        Ok(Dumped {
            bars: in_dump(config_space::of_config(&registers, &entries)),
            msix: Some(config.msix()?.map(|msix| (msix, dump.line))),
            left_out: config_space::left_out(&entries),
        })
    };
    read().map_err(|source| BarReportError::Config {
        file: format!("{file}:{}", dump.line),
        source,
    })
}

/// Combines the places of MSI-X in the text and in the dump, which must agree.
fn msix(merged: Merged, dumped: Option<MsixText>) -> Result<MsixText, Fault> {
    let place = |text: MsixText| text.map(|(msix, _)| msix);
    match (dumped, merged.msix) {
        (None, text) => text,
        (Some(dumped), Err(_)) => Ok(dumped),
        (Some(dumped), Ok(text)) if place(dumped) == place(text) => Ok(text),
        (Some(dumped), Ok(text)) => {
            let line = text.or(dumped).map(|(_, line)| line);
            let what = "the place of MSI-X differs from the hex dump".to_string();
            Err(Fault { line, what })
        }
    }
}
