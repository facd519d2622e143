// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `lspci -vv` printed, with or without a hex dump, as people paste it:
//! several devices, one device twice, without its first line, quoted in a mail.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use vfio_private::Msix;
use vfio_private::config::{BarRegister, ConfigSpace};

use super::bdf::Bdf;
use super::device::{self, Facts};
use super::error::{BarsError, Fault, shown};
use super::lines::{Device, MsixText};

/// So many devices are named in an error.
const MAX_NAMED: usize = 12;

/// A device's part of the text.
struct Block<'a> {
    /// None in a text that begins in the middle of a device.
    bdf: Option<Bdf>,
    /// The first line.
    name: &'a str,
    /// The other lines, with their numbers.
    lines: Vec<(usize, Cow<'a, str>)>,
}

/// What the text says of the device at `wanted`, or of its only one.
pub(super) fn facts(path: &Path, text: &str, wanted: Option<Bdf>) -> Result<Facts, BarsError> {
    let file = path.display().to_string();
    let blocks = blocks(text);
    let fail = |fault: Fault| fault.in_file(&file);
    let chosen = choose(&blocks, wanted).map_err(fail)?;
    let name = chosen.first().map(|block| block.name).unwrap_or_default();
    let mut device = Device::default();
    for block in chosen {
        device.start();
        for (line, text) in &block.lines {
            device.line(*line, text).map_err(fail)?;
        }
    }
    device.finish().map_err(fail)?;
    let (registers, dumped) = read_dump(&device, &file)?;
    let mut facts = Facts {
        name: shown(name),
        source: file.clone(),
        bars: device::of_registers(&registers),
        msix: msix(&device, dumped).map_err(fail)?,
        notes: Vec::new(),
    };
    for region in &device.regions {
        let index = region.index;
        let register = facts.bars.iter_mut().find(|fact| fact.index == index);
        match register {
            Some(register) if register.kind != region.kind => {
                let what = format!("{index} is not what it is in the hex dump");
                let line = region.line;
                return Err(fail(Fault { line, what }));
            }
            Some(register) => *register = region.clone(),
            None => facts.bars.push(region.clone()),
        }
    }
    Ok(facts)
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = vec![Block {
        bdf: None,
        name: "the device",
        lines: Vec::new(),
    }];
    for (n, line) in text.lines().enumerate() {
        let line = unquoted(line);
        if let Some(bdf) = header(line) {
            blocks.push(Block {
                bdf: Some(bdf),
                name: line,
                lines: Vec::new(),
            });
            continue;
        }
        let Some(block) = blocks.last_mut() else {
            continue;
        };
        match block.lines.last_mut() {
            // A region's line is the only one of interest that is so long that mails break it.
            // Once: a longer chain would copy the whole of it each time.
            Some((_, region @ Cow::Borrowed(_)))
                if line.starts_with('[') && region.starts_with("Region ") =>
            {
                *region = Cow::Owned(format!("{region} {}", decoded(line)));
            }
            _ => block.lines.push((n + 1, decoded(line))),
        }
    }
    blocks
}

/// A line without indentation and without the marks of a quoted mail.
fn unquoted(line: &str) -> &str {
    line.trim_start_matches(|c: char| c == '>' || c.is_whitespace())
        .trim_end()
}

/// Mail encodes `=`, and archives leave it so. No number that `lspci` prints
/// behind a `=` has capital letters, so that nothing else looks like it.
fn decoded(line: &str) -> Cow<'_, str> {
    match line.contains("=3D") {
        true => Cow::Owned(line.replace("=3D", "=")),
        false => Cow::Borrowed(line),
    }
}

/// The address in a device's first line, which is followed by its class and name.
fn header(line: &str) -> Option<Bdf> {
    let (bdf, name) = line.split_once(' ')?;
    name.contains(": ").then(|| bdf.parse().ok())?
}

/// The parts of the text that are about one device.
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
            return Err(Fault::whole(what));
        }
        (Some(wanted), _) => Some(wanted),
        (None, first) => first.copied(),
    };
    Ok(blocks.iter().filter(|block| block.bdf == only).collect())
}

/// What the hex dump says of BARs and MSI-X.
type Dumped = (Vec<BarRegister>, Option<MsixText>);

fn read_dump(device: &Device, file: &str) -> Result<Dumped, BarsError> {
    let Some(dump) = &device.dump else {
        return Ok((Vec::new(), None));
    };
    let read = || {
        let config = ConfigSpace::new(&dump.bytes)?;
        // The header alone has no capabilities. If the text has, it need not.
        let msix = match device.shows_capabilities && dump.bytes.len() == 64 {
            true => None,
            false => Some(config.msix()?.map(|msix| (msix, dump.line))),
        };
        Ok((config.bars()?, msix))
    };
    read().map_err(|source| BarsError::Config {
        file: format!("{file}:{}", dump.line),
        source,
    })
}

/// Where MSI-X is by the text and by the dump, which must agree.
fn msix(device: &Device, dumped: Option<MsixText>) -> Result<Option<Msix>, Fault> {
    let place = |text: MsixText| text.map(|(msix, _)| msix);
    match dumped {
        Some(dumped) if !device.shows_capabilities => Ok(place(dumped)),
        Some(dumped) if place(dumped) == place(device.msix) => Ok(place(dumped)),
        Some(dumped) => {
            let line = device.msix.or(dumped).map(|(_, line)| line);
            let what = "MSI-X is not where it is in the hex dump".to_string();
            Err(Fault { line, what })
        }
        None if device.shows_capabilities => Ok(place(device.msix)),
        None => match &device.hidden {
            Some((line, why)) => Err(Fault::at(*line, *why)),
            None if device.is_empty() => Err(Fault::whole(
                "there is nothing about a device in it: --config takes what `lspci -vv` prints, \
                 or the bytes of configuration space",
            )),
            None => Ok(None),
        },
    }
}

/// What an error shows of a line that was not understood.
pub(super) fn not_understood(line: usize, text: &str, expected: &str) -> Fault {
    Fault::at(line, format!("expected {expected} in '{}'", shown(text)))
}
