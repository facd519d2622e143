// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Architectures without guest code. No guest runs on the real KVM there; the
//! simulated KVM interprets the script.

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use kvm_slots::{Errno, KvmVm};

use super::poke::Order;
use super::stub::{GuestCode, Stub};
use super::vcpu::Ending;
use super::windows::PageTableFormat;
use super::{ProcessorError, VmError};

/// The features of the processor. It has no values.
#[derive(Debug)]
pub enum Processor {}

impl Processor {
    /// Not known: no guest runs.
    pub const SPLITS_ACCESSES: bool = false;

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

    /// Never called: no value of this type exists.
    pub fn reach(&mut self, _bits: u32) {
        match *self {}
    }

    /// The machine code for this processor.
    pub fn code(&self) -> Code {
        match *self {}
    }

    /// Never called: no value of this type exists.
    ///
    /// # Errors
    /// None.
    pub fn plain_vm(&self, _kvm: &Kvm) -> Result<KvmVm, VmError> {
        match *self {}
    }

    /// Never called: no value of this type exists.
    ///
    /// # Errors
    /// None.
    pub fn private_vm(&self, _kvm: &Kvm) -> Result<KvmVm, VmError> {
        match *self {}
    }

    /// Never called: no value of this type exists.
    ///
    /// # Errors
    /// None.
    pub(super) fn vcpu(&self, _vm: &VmFd, _stub: &Stub) -> Result<VcpuFd, Errno> {
        match *self {}
    }
}

/// Never called: there is no [`Processor`] to create a guest with.
pub(super) fn set_order(_vcpu: &VcpuFd, _order: Order) -> Result<(), Errno> {
    Err(Errno::ENOSYS)
}

/// Never called, as above.
pub(super) fn value(_vcpu: &VcpuFd) -> Result<u64, Errno> {
    Err(Errno::ENOSYS)
}

/// Never called, as above.
pub(super) fn ending(_exit: &VcpuExit<'_>) -> Option<Ending> {
    None
}

/// Code without instructions. Memory for it is part of the machine, as elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Code;

impl PageTableFormat for Code {
    fn window(&self) -> u64 {
        2 << 20
    }

    fn table(&self) -> u64 {
        4096
    }

    fn upper_tables(&self) -> u64 {
        1
    }

    fn table_entry(&self, gpa: u64) -> u64 {
        gpa
    }

    fn window_entry(&self, gpa: u64) -> u64 {
        gpa
    }
}

impl GuestCode for Code {
    const MOST_PER_ACCESS: u64 = 0;

    fn exceptions(&self) -> Vec<u8> {
        Vec::new()
    }

    fn set_address(&self, _address: u64) -> Vec<u8> {
        Vec::new()
    }

    fn set_value(&self, _value: u64) -> Vec<u8> {
        Vec::new()
    }

    fn load(&self, _size: usize) -> Vec<u8> {
        Vec::new()
    }

    fn store(&self, _size: usize) -> Vec<u8> {
        Vec::new()
    }

    fn loads(&self) -> Vec<u8> {
        Vec::new()
    }

    fn strided_loads(&self) -> Vec<u8> {
        Vec::new()
    }

    fn done(&self) -> Vec<u8> {
        Vec::new()
    }

    fn end(&self) -> Vec<u8> {
        Vec::new()
    }
}
