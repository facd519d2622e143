// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The types of the guest on architectures without guest code. They have no
//! values.

use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use kvm_slots::Errno;
use kvm_slots::exit::MmioHandler;

use super::poke::Order;
use super::stub::Stub;
use super::{Guest, GuestError, ProcessorError};
use crate::machine::Access;

/// The features of the processor.
#[derive(Debug)]
pub enum Processor {}

impl Processor {
    /// Fails: no guest runs on this architecture.
    ///
    /// # Errors
    /// Always [`ProcessorError::NoGuestCode`].
    pub fn probe(_kvm: &Kvm) -> Result<Self, ProcessorError> {
        Err(ProcessorError::NoGuestCode)
    }

    /// The width of guest-physical addresses, in bits.
    pub fn physical_bits(&self) -> u32 {
        match *self {}
    }
}

/// Runs a stub on a vCPU.
#[derive(Debug)]
pub enum VcpuGuest {}

impl VcpuGuest {
    /// Never called: there is no [`Processor`].
    ///
    /// # Errors
    /// None.
    pub fn new(_vm: &VmFd, processor: &Processor, _stub: &Stub) -> Result<Self, Errno> {
        match *processor {}
    }

    /// Never called: no value of this type exists.
    pub fn vcpu(&self) -> &VcpuFd {
        match *self {}
    }

    /// Never called: no value of this type exists.
    ///
    /// # Errors
    /// None.
    pub fn accumulator(&self) -> Result<u64, Errno> {
        match *self {}
    }

    /// Never called: no value of this type exists.
    ///
    /// # Errors
    /// None.
    pub fn poke(&mut self, _order: Order, _vmm: &mut dyn MmioHandler) -> Result<u64, GuestError> {
        match *self {}
    }
}

impl Guest for VcpuGuest {
    fn access(&mut self, _access: &Access, _vmm: &mut dyn MmioHandler) -> Result<u64, GuestError> {
        match *self {}
    }

    fn again(&mut self) -> Result<(), GuestError> {
        match *self {}
    }

    fn skip(&mut self) -> Result<(), GuestError> {
        match *self {}
    }
}
