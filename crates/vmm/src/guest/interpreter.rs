// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest of the simulated KVM: accesses are looked up, not executed.

use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::SimVm;

use super::{Guest, GuestError};
use crate::machine::{Access, AccessKind};

/// Interprets a script against a simulated VM.
#[derive(Debug)]
pub struct Interpreter {
    vm: SimVm,
}

impl Interpreter {
    /// A guest of `vm`.
    pub fn new(vm: SimVm) -> Self {
        Self { vm }
    }
}

impl Guest for Interpreter {
    fn access(&mut self, access: &Access, vmm: &mut dyn MmioHandler) -> Result<u64, GuestError> {
        match access.kind {
            AccessKind::Read(_) => {
                let mut value = [0; 8];
                self.vm
                    .guest_load(access.gpa, &mut value[..access.size], vmm)?;
                Ok(u64::from_le_bytes(value))
            }
            AccessKind::Write(value) => {
                self.vm
                    .guest_store(access.gpa, &value.to_le_bytes()[..access.size], vmm)?;
                Ok(0)
            }
        }
    }

    /// Nothing to do: each access is an argument.
    fn again(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    fn skip(&mut self) -> Result<(), GuestError> {
        Ok(())
    }
}
