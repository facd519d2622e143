// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM of the kernel's KVM.

use std::path::Path;
use std::sync::Arc;

use kvm_slots::probe::probe_abi;
use kvm_slots::{AbiProfile, KvmVm, SlotTable};

use crate::backend::kvm::{KvmError, open};
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
        let fd = match confidential || abi.needs_private_memory() {
            true => processor.private_vm(&kvm),
            false => processor.plain_vm(&kvm),
        };
        let vm = KvmVm::new(Arc::new(fd?)).with_address_bits(processor.physical_bits());
        if abi != AbiProfile::None {
            // SAFETY: the VM is new: it has no vCPU and no slot, and is dropped if
            // the probe fails.
            unsafe { probe_abi(&vm, &SlotTable::new(), abi, 0, None) }
                .map_err(|why| KvmError::Abi(abi, why))?;
        }
        Ok(Self { vm, processor })
    }
}
