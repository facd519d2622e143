// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Architectures without guest code.

use std::io;

use kvm_ioctls::{Kvm, VmFd};
use kvm_slots::{Errno, KvmVm};

use super::{Guest, Seen};
use crate::Region;

/// There is none.
#[derive(Debug)]
pub enum Vcpu {}

/// A VM without private pages.
///
/// # Errors
/// KVM refuses it.
pub fn plain_vm(kvm: &Kvm) -> Result<KvmVm, Errno> {
    KvmVm::create(kvm, 0)
}

impl Vcpu {
    /// There is none.
    ///
    /// # Errors
    /// Always.
    pub fn new(_vm: &VmFd) -> io::Result<(Self, Region)> {
        let here = std::env::consts::ARCH;
        Err(io::Error::other(format!("no guest code for {here}")))
    }
}

impl Guest for Vcpu {
    fn load(&mut self, _gpa: u64) -> Seen {
        match *self {}
    }

    fn store(&mut self, _gpa: u64, _byte: u8) -> Seen {
        match *self {}
    }
}
