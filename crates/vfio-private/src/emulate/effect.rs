// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The effects of a guest's write to configuration space.

use alloc::vec::Vec;

use super::msi::MsiState;
use crate::bar::BarIndex;
use crate::reach::ReachEvent;

/// One thing that the VMM must do. A write can have several effects, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
// Exhaustive: a VMM has to carry each of them out.
pub enum ConfigEffect {
    /// All memory BARs are about to become inaccessible, or are accessible again, at the addresses
    /// that they have then.
    Reach(ReachEvent),
    /// The I/O BARs answer from now on, or no longer.
    IoDecode(bool),
    /// A BAR has another address. `None` if it has no address, or while the guest reads its size.
    /// Whether the device answers there depends on [`Reach`](Self::Reach) and
    /// [`IoDecode`](Self::IoDecode).
    BarMoved {
        /// The BAR.
        bar: BarIndex,
        /// Its guest-physical address, or its first port.
        to: Option<u64>,
    },
    /// The device's line is disabled from now on, or no longer.
    IntxDisabled(bool),
    /// The guest's new setup of MSI; `None` if it is off.
    Msi(Option<MsiState>),
    /// The guest's new setup of MSI-X, for [`MsixTable::set_control`](super::MsixTable::set_control).
    Msix(MsixControl),
    /// Bytes to be written to the device, in one write.
    Forward {
        /// Where in configuration space, in bytes.
        offset: u64,
        /// The bytes, at least one.
        data: Vec<u8>,
    },
}

/// The two bits of the MSI-X capability that a guest writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MsixControl {
    /// MSI-X is on.
    pub enabled: bool,
    /// All vectors are masked.
    pub function_mask: bool,
}
