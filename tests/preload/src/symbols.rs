// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The functions of the program, by the symbol table in its file.
//!
//! The program is an ELF file with fixed addresses, as the selftests are
//! (`-no-pie`). Compare elf(5).

use std::ops::Range;

/// A function, as the symbol table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) addresses: Range<usize>,
}

/// The functions of a program, by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Functions(Vec<Function>);

impl Functions {
    /// Reads the symbols of a program's file. `None` if it is not a 64-bit
    /// little-endian ELF program with fixed addresses and a symbol table.
    pub(crate) fn of(file: &[u8]) -> Option<Self> {
        const FIXED_ADDRESSES: u16 = 2;
        let header = file.get(..64)?;
        let is_program = header.starts_with(b"\x7fELF\x02\x01");
        if !is_program || short(header, 16)? != FIXED_ADDRESSES {
            return None;
        }
        let (start, count) = (word(header, 40)?, usize::from(short(header, 60)?));
        let sections = file.get(start..)?.chunks_exact(64).take(count);
        let sections: Vec<&[u8]> = sections.collect();
        const SYMBOL_TABLE: u32 = 2;
        let is_table = |section: &&&[u8]| half(section, 4) == Some(SYMBOL_TABLE);
        let table = sections.iter().find(is_table)?;
        let names = sections.get(usize::try_from(half(table, 40)?).ok()?)?;
        let names = content(file, names)?;
        let symbols = content(file, table)?.chunks_exact(24);
        let mut functions: Vec<Function> = symbols
            .filter_map(|symbol| function(symbol, names))
            .collect();
        functions.sort_by_key(|function| function.addresses.start);
        Some(Self(functions))
    }

    /// The function that contains an address.
    pub(crate) fn at(&self, address: usize) -> Option<&Function> {
        let after = self.0.partition_point(|f| f.addresses.start <= address);
        // Several names may have one address.
        let before = self.0.get(..after)?.iter().rev();
        before
            .take(8)
            .find(|function| function.addresses.contains(&address))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|function| function.name == name)
    }
}

fn function(symbol: &[u8], names: &[u8]) -> Option<Function> {
    const FUNCTION: u8 = 2;
    if symbol.get(4)? & 0xf != FUNCTION {
        return None;
    }
    let name = names.get(usize::try_from(half(symbol, 0)?).ok()?..)?;
    let name = name.split(|byte| *byte == 0).next()?;
    let start = word(symbol, 8)?;
    Some(Function {
        name: String::from_utf8(name.to_vec()).ok()?,
        addresses: start..start.checked_add(word(symbol, 16)?)?,
    })
}

/// The bytes of a section.
fn content<'a>(file: &'a [u8], section: &[u8]) -> Option<&'a [u8]> {
    let start = word(section, 24)?;
    file.get(start..start.checked_add(word(section, 32)?)?)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?);
    usize::try_from(word).ok()
}
