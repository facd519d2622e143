// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The platform that is the simulated KVM.

use std::os::fd::OwnedFd;

use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{AbiProfile, Capabilities, Errno};

use super::Platform;
use crate::devices::assigned::{AssignError, BarWindow};
use crate::guest::stub::Stub;
use crate::guest::{Code, GuestError, Interpreter};
use crate::machine::{AssignedBar, Machine};

/// A simulated kernel with one VM.
#[derive(Debug)]
pub struct Sim {
    vm: SimVm,
    kernel: String,
}

impl Sim {
    /// A VM of the type that `machine` needs, on a kernel of this version with this
    /// ABI for memslots without a host address.
    pub fn new(machine: &Machine, kernel: KernelVersion, abi: AbiProfile) -> Self {
        let wanted = machine.has_private_pages() || abi.needs_private_memory();
        let private = wanted && kernel >= KernelVersion::V6_12;
        Self::of(SimConfig {
            private_pages: private,
            vm_type: if private {
                VmType::SwProtected
            } else {
                VmType::Plain
            },
            abi,
            // Its memory is this host's.
            page_size: Capabilities::minimal().page_size,
            ..SimConfig::released(kernel)
        })
    }

    /// A VM with exactly this configuration.
    pub fn of(config: SimConfig) -> Self {
        Self {
            vm: SimVm::new(config),
            kernel: config.to_string(),
        }
    }
}

impl Platform for Sim {
    type Vm = SimVm;
    type Guest = Interpreter;

    fn name(&self) -> &'static str {
        "sim"
    }

    fn kernel(&self) -> String {
        self.kernel.clone()
    }

    fn vm(&self) -> &SimVm {
        &self.vm
    }

    fn abi(&self) -> AbiProfile {
        self.vm.config().abi
    }

    fn physical_bits(&self) -> u32 {
        self.vm.config().physical_bits
    }

    /// Never run, but its memory is part of the machine.
    fn code(&self) -> Code {
        Default::default()
    }

    fn splits_accesses(&self) -> bool {
        self.vm.config().arch.splits_accesses()
    }

    fn device_file(&self, size: u64) -> Result<OwnedFd, Errno> {
        self.vm.create_dma_buf(size)
    }

    fn assigned(&self, _bar: AssignedBar) -> Result<Option<BarWindow>, AssignError> {
        Ok(None)
    }

    fn start(&self, _stub: &Stub) -> Result<Interpreter, GuestError> {
        Ok(Interpreter::new(self.vm.clone()))
    }
}
