// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One PCI bus.

use std::fmt::Debug;

/// A PCI function as the bus sees it. Several vCPUs may call it at once.
pub trait Function: Debug + Send + Sync {
    /// The guest loads 1, 2 or 4 bytes of configuration space. `offset` is below
    /// 4096.
    fn config_read(&self, offset: u64, data: &mut [u8]);

    /// The guest stores 1, 2 or 4 bytes to configuration space.
    fn config_write(&self, offset: u64, data: &[u8]);
}
