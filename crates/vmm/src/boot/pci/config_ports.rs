// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! PCI configuration space through ports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::boot::bus::TrapDevice;
use crate::boot::pci::bus::{PciBus, pieces};

/// Bits of the address register: on, bus, device, function and register. The others
/// are reserved and read as zeros.
const ENABLE: u32 = 1 << 31;
const ADDRESS: u32 = ENABLE | 0xff_fffc;

/// Configuration space through ports: four of an address, then four of data (PCI
/// Local Bus Specification 3.0, 3.2.2.3.2).
///
/// The address is a register of four bytes. Smaller accesses to its ports reach the
/// I/O bus on hardware, where no device is: they read as ones and change nothing.
#[derive(Debug)]
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    address: AtomicU32,
}

impl ConfigPorts {
    /// The ports of a bus.
    pub fn new(bus: Arc<PciBus>) -> Self {
        let address = AtomicU32::new(0);
        Self { bus, address }
    }

    /// The address as in ECAM of data at `port`; `None` if the register is off.
    fn selected(&self, port: u64) -> Option<u64> {
        let address = self.address.load(Ordering::SeqCst);
        let function = u64::from(address & !ENABLE) >> 8;
        let register = u64::from(address & 0xff) + port - 4;
        (address & ENABLE != 0).then_some(function << 12 | register)
    }
}

impl TrapDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        for piece in pieces(offset, data.len()) {
            let port = offset.wrapping_add(piece.start as u64);
            let data = &mut data[piece];
            match (port, data.len()) {
                (0, 4) => {
                    let address = self.address.load(Ordering::SeqCst);
                    data.copy_from_slice(&address.to_le_bytes());
                }
                (4..8, _) => {
                    if let Some(address) = self.selected(port) {
                        self.bus.read(address, data);
                    }
                }
                _ => {}
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for piece in pieces(offset, data.len()) {
            let port = offset.wrapping_add(piece.start as u64);
            match (port, &data[piece]) {
                (0, &[a, b, c, d]) => {
                    let address = u32::from_le_bytes([a, b, c, d]) & ADDRESS;
                    self.address.store(address, Ordering::SeqCst);
                }
                (4..8, data) => {
                    if let Some(address) = self.selected(port) {
                        self.bus.write(address, data);
                    }
                }
                _ => {}
            }
        }
    }
}
