// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The port on which the code in the boot image reports that it cannot go on.

use crate::boot::bus::TrapDevice;
use crate::boot::outcome::{End, Outcome};

/// The first of 4 ports. The code writes a [`LoaderFault`] there, and halts.
pub const FAULT_PORT: u16 = 0x61c;

/// Why the code in the boot image cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u32)]
pub enum LoaderFault {
    /// A piece in private RAM does not have the checksum of the boot image.
    #[error("a piece of the boot image has another checksum in private RAM")]
    Checksum = 1,
    /// The hypercall that makes the staging area private failed.
    #[error("the staging area was not made private")]
    NotPrivate = 2,
}

impl LoaderFault {
    /// The fault that the code reports by this value.
    pub fn from_code(code: u32) -> Option<Self> {
        let all = [Self::Checksum, Self::NotPrivate];
        all.into_iter().find(|fault| *fault as u32 == code)
    }
}

/// The device at [`FAULT_PORT`]: a fault ends the guest.
#[derive(Clone, Debug)]
pub struct FaultPort(pub End);

impl TrapDevice for FaultPort {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        let code = data.try_into().ok().map(u32::from_le_bytes);
        let fault = code
            .filter(|_| offset == 0)
            .and_then(LoaderFault::from_code);
        if let Some(fault) = fault {
            self.0.report(Outcome::Fault(fault.to_string()));
        }
    }
}
