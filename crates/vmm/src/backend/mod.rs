// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The platforms that a machine runs on: the real KVM and the simulated one.

pub mod kvm;
pub mod sim;

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use kvm_slots::{AbiProfile, Errno, Vm};

use crate::devices::assigned::{AssignError, BarWindow};
use crate::guest::stub::Stub;
use crate::guest::{Code, Guest, GuestError};
use crate::machine::AssignedBar;

/// A platform to run a machine on, with one VM.
pub trait Platform {
    /// The VM.
    type Vm: Vm + Clone + Debug + Send + Sync + 'static;
    /// The guest that runs the script.
    type Guest: Guest;

    /// Its word in reports: `kvm` or `sim`.
    fn name(&self) -> &'static str;

    /// The version of its kernel.
    fn kernel(&self) -> String;

    /// The VM.
    fn vm(&self) -> &Self::Vm;

    /// The ABI for memslots without a host address.
    fn abi(&self) -> AbiProfile;

    /// The width of guest-physical addresses, in bits.
    fn physical_bits(&self) -> u32;

    /// The machine code of its guest.
    fn code(&self) -> Code;

    /// A file in place of a device's registers of `size` bytes.
    ///
    /// # Errors
    /// The error of the system call.
    fn device_file(&self, size: u64) -> Result<OwnedFd, Errno>;

    /// A BAR of a real device, assigned to this VM; `None` if the platform has no
    /// real devices, and uses [`device_file`](Self::device_file) instead.
    ///
    /// # Errors
    /// [`AssignError`].
    fn assigned(&self, bar: AssignedBar) -> Result<Option<BarWindow>, AssignError>;

    /// A guest that is about to run the stub, which is in its memory.
    ///
    /// # Errors
    /// The error of KVM.
    fn start(&self, stub: &Stub) -> Result<Self::Guest, GuestError>;
}
