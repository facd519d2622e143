// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A BAR's line: `Region 0: Memory at f7c00000 (64-bit, prefetchable) [size=16K]`.

use vfio_private::{BarIndex, BarKind};

use super::device::BarFact;
use super::error::Fault;
use super::lspci::not_understood;

/// What follows `Region `.
pub(super) fn region(line: usize, text: &str) -> Result<BarFact, Fault> {
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
    if rest.contains("-64bit-slot>") || rest.contains("-64-bit-slot>") {
        let what = "lspci found a 64-bit BAR that has no register for its upper half";
        return Err(Fault::at(line, what));
    }
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
        // A BAR of Enhanced Allocation has no register, and so no second one.
        is_64bit: note.contains("64-bit") && !rest.contains("[enhanced]"),
        note: note.to_string(),
        line: Some(line),
        notes: notes(rest),
    })
}

/// Why the guest may find the BAR elsewhere, or not at all.
fn notes(text: &str) -> Vec<String> {
    let known = [
        ("<unassigned>", "the host has assigned no address to it"),
        (
            "<ignored>",
            "the host ignores the address that is in its register",
        ),
        ("[disabled]", "the device does not decode it at present"),
    ];
    let said = known.iter().filter(|(mark, _)| text.contains(mark));
    said.map(|(_, words)| (*words).to_string()).collect()
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
