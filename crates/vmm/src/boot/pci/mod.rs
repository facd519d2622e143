// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One PCI bus.
//!
//! ```text
//! Ecam, ConfigPorts ─► PciBus ─► Function: HostBridge
//!                                        └ EmulatedFunction: a device's own bytes
//!                                           ├─ GuestConfig: what the guest sees
//!                                           └─ GuestBars: where it sees the memory
//! ```

use std::fmt::Debug;

use function::WriteError;

pub mod assigned;
pub mod bars;
pub mod bus;
pub mod config_ports;
pub mod function;
mod header;
pub mod host_bridge;
pub mod memory;
pub mod messages;
pub mod windows;

/// A PCI function as the bus sees it. Several vCPUs may call it at once.
pub trait Function: Debug + Send + Sync {
    /// The guest loads 1, 2 or 4 bytes of configuration space. `offset` is below
    /// 4096. What is not filled in reads as ones.
    fn config_read(&self, offset: u64, data: &mut [u8]);

    /// The guest stores 1, 2 or 4 bytes to configuration space.
    fn config_write(&self, offset: u64, data: &[u8]);

    /// The first error of a store since the last call. PCI has no way to report it to
    /// the guest. Does not block: `None` also while a store is under way.
    fn take_error(&self) -> Option<WriteError> {
        None
    }
}
