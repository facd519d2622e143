// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! I/O ports in memory, for I/O BARs.

use memory_model::ViewReader;

use crate::boot::bus::{self, Handle, TrapDevice};

/// A region of memory whose bytes are the ports of the same numbers.
#[derive(Debug)]
pub struct PortWindow {
    ports: ViewReader<Handle>,
}

impl PortWindow {
    /// A window to this address space.
    pub fn new(ports: ViewReader<Handle>) -> Self {
        Self { ports }
    }
}

impl TrapDevice for PortWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        bus::read(&self.ports.snapshot(), offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        bus::write(&self.ports.snapshot(), offset, data);
    }
}
