// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM of the kernel's KVM.

use std::path::Path;

use kvm_slots::{AbiProfile, KvmVm};

use crate::backend::kvm::{KvmError, create_vm, open};
use crate::guest::Processor;

/// A VM without memory, vCPUs and interrupt controllers.
#[derive(Debug)]
pub struct GuestVm {
    /// The VM.
    pub vm: KvmVm,
    /// What the processor can do.
    pub processor: Processor,
}

impl GuestVm {
    /// A VM that can have any address of the processor. Probes that the kernel has the ABI.
    ///
    /// # Errors
    /// [`KvmError`]; there are no confidential VMs.
    pub fn new(device: &Path, abi: AbiProfile, confidential: bool) -> Result<Self, KvmError> {
        let kvm = open(device)?;
        let processor = Processor::probe(&kvm)?;
        let private = confidential || abi.needs_private_memory();
        let vm = create_vm(&kvm, &processor, private, abi)?;
        Ok(Self { vm, processor })
    }
}
