// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Bytes of configuration space that the VMM answers for.

use alloc::vec::Vec;
use core::ops::Range;

use crate::bytes::written;

/// How many there are. Extended configuration space is the device's.
const SIZE: usize = 0x100;

/// The end of configuration space, PCI Express's included.
const END: u64 = 0x1000;

/// One byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Register {
    /// What the guest reads.
    value: u8,
    /// Which bits it can change.
    writable: u8,
    /// Whether it is emulated; if not, the byte is the device's.
    emulated: bool,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registers([Register; SIZE]);

impl Registers {
    /// All are the device's.
    pub(super) fn new() -> Self {
        Self([Register::default(); SIZE])
    }

    /// Emulates bytes from `offset` on, with the bits of `writable` for the guest to change. What is
    /// past the end is left out.
    pub(super) fn emulate(&mut self, offset: usize, values: &[u8], writable: &[u8]) {
        let registers = self.0.iter_mut().skip(offset);
        for ((register, value), writable) in registers.zip(values).zip(writable) {
            *register = Register {
                value: *value,
                writable: *writable,
                emulated: true,
            };
        }
    }

    /// The `N` bytes at `offset`; zeros where there are none.
    pub(super) fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        core::array::from_fn(|at| self.0.get(offset + at).map_or(0, |register| register.value))
    }

    /// Fills in what is emulated of bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        for (place, register) in (0_u64..).zip(&self.0) {
            let within = place.checked_sub(offset);
            let within = within.and_then(|within| usize::try_from(within).ok());
            let byte = within.and_then(|within| data.get_mut(within));
            if let Some(byte) = byte.filter(|_| register.emulated) {
                *byte = register.value;
            }
        }
    }

    /// Changes what is emulated and can be written.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (place, register) in (0_u64..).zip(&mut self.0) {
            let new = written(place, offset, data).filter(|_| register.emulated);
            if let Some(new) = new {
                let kept = register.value & !register.writable;
                register.value = kept | new & register.writable;
            }
        }
    }

    /// Which runs of `len` bytes at `offset` are the device's, as positions in them.
    pub(super) fn devices(&self, offset: u64, len: usize) -> Vec<Range<usize>> {
        let inside = END.saturating_sub(offset);
        let len = len.min(usize::try_from(inside).unwrap_or(usize::MAX));
        let is_devices = |at: usize| {
            let place = usize::try_from(offset)
                .ok()
                .and_then(|from| from.checked_add(at));
            let register = place.and_then(|place| self.0.get(place));
            register.is_none_or(|register| !register.emulated)
        };
        super::runs(len, is_devices)
    }
}
