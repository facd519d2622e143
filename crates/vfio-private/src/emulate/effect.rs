// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a guest's write to configuration space asks for.

use super::msi::MsiState;
use crate::bar::BarIndex;
use crate::reach::ReachEvent;

/// One thing to do. A write asks for several, which are done in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigEffect {
    /// The memory BARs are about to be out of reach, all of them, or are within reach again, at the
    /// addresses that they have then.
    Reach(ReachEvent),
    /// The I/O BARs answer from now on, or no longer.
    IoDecode(bool),
    /// A BAR has another address, `None` for none: it has not been given one, or its size is being
    /// asked for. Whether it shows there is another matter: see [`Reach`](Self::Reach) and
    /// [`IoDecode`](Self::IoDecode).
    BarMoved {
        /// The BAR.
        bar: BarIndex,
        /// Its guest-physical address, or its first port.
        to: Option<u64>,
    },
    /// The device's line is disabled from now on, or no longer.
    IntxDisabled(bool),
    /// What the guest has made of MSI; `None` if it is off.
    Msi(Option<MsiState>),
    /// What the guest has made of MSI-X: for [`MsixTable::set_control`](super::MsixTable::set_control).
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
