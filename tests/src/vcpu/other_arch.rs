// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Architectures for which no guests can be made.

use kvm_ioctls::{Kvm, VcpuFd};
use kvm_slots::KvmVm;

use super::program::{Code, Op, Reg};

/// The size of [`tables`] in bytes.
pub const TABLES_SIZE: u64 = 0;

/// There are no page tables.
pub fn tables(_gpa: u64) -> impl Iterator<Item = (u64, u64)> {
    std::iter::empty()
}

/// There are no instructions.
///
/// # Errors
/// Always.
pub fn compile(_ops: &[Op]) -> Result<Code, String> {
    Err(none())
}

/// There is none.
#[derive(Clone, Copy, Debug)]
pub enum Processor {}

impl Processor {
    /// There is none.
    ///
    /// # Errors
    /// Always.
    pub fn with_vm(_kvm: &Kvm) -> Result<(Self, KvmVm), String> {
        Err(none())
    }

    /// Prepares a vCPU.
    ///
    /// # Errors
    /// None.
    pub fn start(
        &self,
        _vcpu: &VcpuFd,
        _tables: u64,
        _entry: u64,
        _registers: &[(Reg, u64)],
    ) -> Result<(), String> {
        match *self {}
    }

    /// The address of a vCPU's next instruction.
    ///
    /// # Errors
    /// None.
    pub fn next_instruction(&self, _vcpu: &VcpuFd) -> Result<u64, String> {
        match *self {}
    }

    /// The value of a vCPU's register.
    ///
    /// # Errors
    /// None.
    pub fn register(&self, _vcpu: &VcpuFd, _reg: Reg) -> Result<u64, String> {
        match *self {}
    }
}

fn none() -> String {
    format!("there is no guest code for {}", std::env::consts::ARCH)
}
