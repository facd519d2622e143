// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! edu's DMA engine, and mappings for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_ranges::AddrRange;
use vfio_dma::{DmaAccess, DmaRange, DmaRefusal};
use vfio_private::device::{Device, Mapping};

use super::registers::mapping;
use super::{at, iommu_of};
use crate::subject::Arena;

/// The engine's registers, and the device's own memory: 4 KiB.
mod engine {
    pub(super) const SOURCE: u64 = 0x80;
    pub(super) const DESTINATION: u64 = 0x88;
    pub(super) const COUNT: u64 = 0x90;
    pub(super) const COMMAND: u64 = 0x98;
    pub(super) const START: u64 = 1;
    pub(super) const TO_MEMORY: u64 = 2;
    pub(super) const OWN: u64 = 0x4_0000;
}

/// edu with its registers mapped and bus mastering on. Its DMA addresses have
/// 28 bits.
pub(super) struct Edu<'a> {
    device: &'a Device,
    registers: Mapping,
}

impl<'a> Edu<'a> {
    pub(super) fn new(device: &'a Device) -> Result<Self, String> {
        let (_, registers) = mapping(device, 0)?;
        let edu = Self { device, registers };
        edu.set_bus_master(true)?;
        Ok(edu)
    }

    pub(super) fn set_bus_master(&self, on: bool) -> Result<(), String> {
        let mut command = [0; 2];
        let read = self.device.read_config(4, &mut command);
        read.map_err(at("the command register"))?;
        command[0] = command[0] & !4 | u8::from(on) << 2;
        let written = self.device.write_config(4, &command);
        written.map_err(at("the command register"))
    }

    /// Copies eight bytes between `iova` and the device, and waits for the end.
    fn copy(&self, iova: u64, to_memory: bool) -> Result<(), String> {
        let (source, destination) = match to_memory {
            true => (engine::OWN, iova),
            false => (iova, engine::OWN),
        };
        let direction = if to_memory { engine::TO_MEMORY } else { 0 };
        let orders = [
            (engine::SOURCE, source),
            (engine::DESTINATION, destination),
            (engine::COUNT, 8),
            (engine::COMMAND, engine::START | direction),
        ];
        for (register, value) in orders {
            let written = self.registers.write(register, value);
            written.map_err(at("a register"))?;
        }
        let start = Instant::now();
        loop {
            let command = self.registers.read::<u64>(engine::COMMAND);
            if command.map_err(at("a register"))? & engine::START == 0 {
                return Ok(());
            }
            if start.elapsed() > Duration::from_secs(20) {
                return Err("edu copies forever".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Makes the device load eight bytes from one IOVA and store them at
    /// another.
    pub(super) fn carry(&self, from: u64, to: u64) -> Result<(), String> {
        self.copy(from, false)?;
        self.copy(to, true)
    }
}

/// A page that devices reach.
pub(super) fn range(
    iova: u64,
    arena: &Arc<Arena>,
    page: usize,
    access: DmaAccess,
) -> Result<DmaRange, String> {
    DmaRange::new(iova, arena.host_memory(page, 1), access).map_err(at("a range"))
}

pub(super) fn map(device: &Device, range: &DmaRange) -> Result<(), DmaRefusal> {
    iommu_of(device).map_dma(range)
}

pub(super) fn unmap(device: &Device, iova: u64, size: u64) -> Result<u64, DmaRefusal> {
    let iova = AddrRange::new(iova, size.into()).expect("a few pages");
    iommu_of(device).unmap_dma(iova)
}
