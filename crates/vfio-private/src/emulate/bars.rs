// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's BARs: registers whose writable bits are the address, so that all ones come back as
//! the size (PCI Express Base Specification, 7.5.1.2.1).

use alloc::vec::Vec;

use super::error::EmulateError;
use super::registers::Registers;
use crate::bar::{Bar, BarIndex, BarKind};
use crate::bytes::le32;

/// Where the first register is.
const BARS: usize = 0x10;

/// The bits that say what kind of BAR it is.
const IO: u32 = 1;
const IO_FLAGS: u64 = 0x3;
const MEMORY_FLAGS: u64 = 0xf;
const TYPE: u32 = 0x6;
const TYPE_64BIT: u32 = 0x4;

/// A BAR of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GuestBar {
    pub(super) bar: Bar,
    /// The bits of its registers that are its address.
    address: u64,
    is_64bit: bool,
}

impl GuestBar {
    /// Where it is; `None` if all bits of the address are zero, as they are before the guest has
    /// given it one, or all are one, as while it asks for the size.
    pub(super) fn place(self, registers: &Registers) -> Option<u64> {
        let at = register(self.bar.index());
        let value = match self.is_64bit {
            true => u64::from_le_bytes(registers.get(at)),
            false => u32::from_le_bytes(registers.get(at)).into(),
        };
        let address = value & self.address;
        (address != 0 && address != self.address).then_some(address)
    }
}

/// Emulates all six registers: those of `bars`, without an address, and zeros.
pub(super) fn emulate(
    config: &[u8],
    bars: &[Bar],
    registers: &mut Registers,
) -> Result<Vec<GuestBar>, EmulateError> {
    let none = [0; 4 * BarIndex::COUNT as usize];
    registers.emulate(BARS, &none, &none);
    let mut taken = [false; BarIndex::COUNT as usize];
    let mut all = Vec::new();
    for &bar in bars {
        let (guest, flags) = shape(config, bar)?;
        let first = usize::from(bar.index().get());
        let halves = if guest.is_64bit { 2 } else { 1 };
        for half in taken.iter_mut().skip(first).take(halves) {
            if core::mem::replace(half, true) {
                return Err(EmulateError::Taken { bar: bar.index() });
            }
        }
        let width = 4 * halves;
        let value = u64::from(flags).to_le_bytes();
        let writable = guest.address.to_le_bytes();
        registers.emulate(register(bar.index()), &value[..width], &writable[..width]);
        all.push(guest);
    }
    Ok(all)
}

/// What a BAR is by its register, and the register's fixed bits. A register of zeros says as much as
/// that it is a 32-bit one.
fn shape(config: &[u8], bar: Bar) -> Result<(GuestBar, u32), EmulateError> {
    let index = bar.index();
    let value = le32(config, register(index)).unwrap_or_default();
    let is_io = value & IO != 0;
    let kind = if is_io { BarKind::Io } else { BarKind::Memory };
    if value != 0 && kind != bar.kind() {
        return Err(EmulateError::Kind {
            bar: index,
            given: bar.kind(),
            register: kind,
        });
    }
    let (flags, fixed) = match bar.kind() {
        BarKind::Io => (IO, IO_FLAGS),
        BarKind::Memory => (value & 0xf, MEMORY_FLAGS),
    };
    let is_64bit = bar.kind() == BarKind::Memory && value & TYPE == TYPE_64BIT;
    let bits: u32 = if is_64bit { 64 } else { 32 };
    let largest = 1_u64 << (bits - 1);
    let has_upper = !is_64bit || index.get() + 1 < BarIndex::COUNT;
    if bar.size() > largest || bar.size() <= fixed || !has_upper {
        return Err(EmulateError::Size {
            bar: index,
            size: bar.size(),
            bits,
        });
    }
    let guest = GuestBar {
        bar,
        address: !(bar.size() - 1) & (u64::MAX >> (64 - bits)),
        is_64bit,
    };
    Ok((guest, flags))
}

fn register(bar: BarIndex) -> usize {
    BARS + 4 * usize::from(bar.get())
}
