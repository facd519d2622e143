// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bus 0, and its configuration space in memory. [`config_ports`](super::config_ports)
//! has another way to it.

use std::ops::Range;
use std::sync::Arc;

use crate::boot::bus::TrapDevice;
use crate::boot::pci::Function;
use crate::boot::pci::function::WriteError;

/// How many device numbers a bus has.
const DEVICES: usize = 32;

/// Bus 0. Each device number has one function, and there is no other bus. What is
/// absent reads as ones, and ignores writes.
#[derive(Debug)]
pub struct PciBus {
    functions: [Option<Arc<dyn Function>>; DEVICES],
}

/// All device numbers are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {DEVICES} device numbers of the PCI bus are in use")]
pub struct BusFull;

impl PciBus {
    /// A bus with a host bridge as device 0.
    pub fn new(host_bridge: Arc<dyn Function>) -> Self {
        let mut functions = [const { None }; DEVICES];
        functions[0] = Some(host_bridge);
        Self { functions }
    }

    /// Adds a function. Returns its device number, the lowest that was free.
    ///
    /// # Errors
    /// [`BusFull`].
    pub fn add(&mut self, function: Arc<dyn Function>) -> Result<usize, BusFull> {
        let mut slots = self.functions.iter_mut().enumerate();
        let (device, slot) = slots.find(|(_, slot)| slot.is_none()).ok_or(BusFull)?;
        *slot = Some(function);
        Ok(device)
    }

    /// The errors of stores since the last call, at most one for each function, with
    /// its device number. PCI has no way to report them to the guest.
    pub fn take_errors(&self) -> impl Iterator<Item = (usize, WriteError)> {
        let functions = self.functions.iter().enumerate();
        functions.filter_map(|(number, function)| Some((number, function.as_ref()?.take_error()?)))
    }

    /// Loads from configuration space. `address` is as in ECAM.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        for piece in pieces(address, data.len()) {
            let at = address.wrapping_add(piece.start as u64);
            if let Some((function, register)) = self.find(at) {
                function.config_read(register, &mut data[piece]);
            }
        }
    }

    /// Stores to configuration space. `address` is as in ECAM.
    pub fn write(&self, address: u64, data: &[u8]) {
        for piece in pieces(address, data.len()) {
            let at = address.wrapping_add(piece.start as u64);
            if let Some((function, register)) = self.find(at) {
                function.config_write(register, &data[piece]);
            }
        }
    }

    /// The function and the register at an address of ECAM: 12 bits are the register,
    /// 3 the function, 5 the device, and the rest is the bus.
    fn find(&self, address: u64) -> Option<(&Arc<dyn Function>, u64)> {
        let device = usize::try_from(address >> 15).ok()?;
        let is_first = address >> 12 & 7 == 0;
        let function = self.functions.get(device)?.as_ref();
        Some((function.filter(|_| is_first)?, address & 0xfff))
    }
}

/// Cuts an access into aligned ones of 1, 2 or 4 bytes. A configuration request
/// addresses one double word, so a host bridge makes several of an access that is
/// larger or crosses one.
pub fn pieces(address: u64, len: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let at = address.wrapping_add(start as u64);
        let fits = |size: &usize| at.is_multiple_of(*size as u64) && *size <= len - start;
        let size = [4, 2, 1].into_iter().find(fits)?;
        start += size;
        Some(start - size..start)
    })
}

/// Configuration space in memory (PCI Express Base Specification, 7.2.2).
#[derive(Debug)]
pub struct Ecam(Arc<PciBus>);

impl Ecam {
    /// ECAM of a bus.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self(bus)
    }
}

impl TrapDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
    }
}
