// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a machine runs on: the real KVM, or the simulated one.

pub mod kvm;
pub mod sim;

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use kvm_slots::{AbiProfile, Errno, Vm};

use crate::devices::assigned::{AssignError, BarWindow};
use crate::guest::stub::Stub;
use crate::guest::{Guest, GuestError};
use crate::machine::AssignedBar;

/// A place to run a machine on.
pub trait Platform {
    /// The VM.
    type Vm: Vm + Clone + Debug + Send + Sync + 'static;
    /// The guest that runs the script.
    type Guest: Guest;

    /// The word for it in reports: `kvm` or `sim`.
    fn name(&self) -> &'static str;

    /// Which kernel it is.
    fn kernel(&self) -> String;

    /// The VM.
    fn vm(&self) -> &Self::Vm;

    /// How this kernel takes slots without a host address.
    fn abi(&self) -> AbiProfile;

    /// The width of guest-physical addresses, in bits.
    fn physical_bits(&self) -> u32;

    /// The file that stands for a device's registers of `size` bytes.
    ///
    /// # Errors
    /// What the host says where it cannot be made.
    fn device_file(&self, size: u64) -> Result<OwnedFd, Errno>;

    /// A BAR of a real device, assigned to this VM; `None` where there are no
    /// real devices, and [`device_file`](Self::device_file) stands for it.
    ///
    /// # Errors
    /// [`AssignError`].
    fn assigned(&self, bar: AssignedBar) -> Result<Option<BarWindow>, AssignError>;

    /// A guest that is about to run the stub, which lies in its memory.
    ///
    /// # Errors
    /// What KVM says.
    fn start(&self, stub: &Stub) -> Result<Self::Guest, GuestError>;
}
