// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the line of a BAR: `Region 0: Memory at f7c00000 (64-bit, prefetchable) [size=16K]`.

use vfio_private::{BarIndex, BarKind};

use crate::error::Fault;
use crate::facts::BarFact;
use crate::memory_type::{AddressWidth, MemoryType};

/// Parses the text after `Region `.
pub(super) fn region(line: usize, text: &str) -> Result<BarFact, Fault> {
    let expected =
        "a region as in `Region 0: Memory at f7c00000 (64-bit, prefetchable) [size=16K]`";
    let fault = || Fault::not_understood(line, text, expected);
    let (number, rest) = text.split_once(':').ok_or_else(fault)?;
    let number = number_of(number).ok_or_else(fault)?;
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
    // The size is missing if lspci read a dump instead of a device.
    let size = rest.split_once("[size=").map(|(_, size)| {
        let size = size.split_once(']').and_then(|(size, _)| bytes(size));
        let size =
            size.ok_or_else(|| Fault::not_understood(line, text, "a size as in `[size=16K]`"))?;
        match vfio_private::Bar::new(index, kind, size) {
            Ok(_) => Ok(size),
            Err(error) => Err(Fault::at(line, error.to_string())),
        }
    });
    let size = size.transpose()?;
    let memory_type = rest.split_once('(').map(|(_, words)| {
        let words = words.split_once(')').map(|(words, _)| words);
        words.and_then(MemoryType::parse).ok_or_else(|| {
            Fault::not_understood(line, text, "a type as in `(64-bit, prefetchable)`")
        })
    });
    let memory_type = memory_type.transpose()?;
    // A BAR of Enhanced Allocation has no register, and therefore no second one.
    let has_register = !rest.contains("[enhanced]");
    let is_wide = |known: MemoryType| known.width == AddressWidth::Bits64;
    let is_64bit = memory_type.is_some_and(is_wide) && has_register;
    if is_64bit && number + 1 == BarIndex::COUNT {
        let what = format!("{index} has no register behind it, so it cannot be 64-bit");
        return Err(Fault::at(line, what));
    }
    let is_narrow = kind == BarKind::Memory && memory_type.is_some() && !is_64bit && has_register;
    if let Some(size) = size.filter(|&size| is_narrow && size > MAX_32BIT) {
        let what =
            format!("{index} has {size:#x} bytes, and a 32-bit BAR has {MAX_32BIT:#x} at most");
        return Err(Fault::at(line, what));
    }
    Ok(BarFact {
        index,
        kind,
        size,
        register: None,
        is_64bit,
        memory_type,
        is_enhanced: !has_register,
        line: Some(line),
        notes: notes(rest),
    })
}

/// The largest size of a BAR with a 32-bit register.
const MAX_32BIT: u64 = 1 << 31;

/// Parses a number of one digit: `lspci` prints neither more digits nor a sign.
fn number_of(text: &str) -> Option<u8> {
    let is_digit = text.len() == 1 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digit.then(|| text.parse().ok())?
}

/// Returns the reasons why the guest may see the BAR at another address, or not at all.
fn notes(text: &str) -> Vec<String> {
    let known = [
        ("<unassigned>", "the host has assigned no address to it"),
        (
            "<ignored>",
            "the host ignores the address that is in its register",
        ),
        ("[disabled]", "the device does not decode it at present"),
    ];
    let found = known.iter().filter(|(mark, _)| text.contains(mark));
    found.map(|(_, words)| (*words).to_string()).collect()
}

/// Parses a size as `lspci` prints it: `256`, `16K`, `32M`.
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
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = is_number.then(|| digits.parse().ok())??;
    number.checked_mul(1 << shift)
}
