// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host bridge, without which Linux takes a bus for absent.

use super::Function;
use super::header::{Header, header, read};

/// QEMU's generic PCI Express host bridge, 1b36:0008: Linux has neither a driver nor
/// a quirk for it.
const DEVICE: u16 = 0x0008;
const CLASS: u16 = 0x0600;

/// A host bridge whose registers are fixed.
#[derive(Debug)]
pub struct HostBridge(Header);

impl HostBridge {
    /// The host bridge.
    pub fn new() -> Self {
        Self(header(DEVICE, CLASS))
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl Function for HostBridge {
    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read(&self.0, offset, data);
    }

    fn config_write(&self, _offset: u64, _data: &[u8]) {}
}
