// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM of the kernel's KVM, with its interrupt controllers.

use std::path::Path;

use kvm_bindings::{KVM_CAP_EXIT_HYPERCALL, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_pit_config};
use kvm_ioctls::Kvm;
use kvm_slots::uapi::HYPERCALL_MAP_GPA_RANGE;
use kvm_slots::{AbiProfile, KvmVm};

use super::layout::{KVM_IDENTITY_MAP, KVM_TSS};
use crate::backend::kvm::{KvmError, create_vm, open};
use crate::guest::Processor;

/// KVM and one VM.
#[derive(Debug)]
pub struct GuestVm {
    /// The device of KVM.
    pub kvm: Kvm,
    /// The VM.
    pub vm: KvmVm,
    /// What the processor can do.
    pub processor: Processor,
}

impl GuestVm {
    /// A VM with KVM's interrupt controllers and timer, without memory and vCPUs. A
    /// confidential one is software-protected, and its guest converts pages by
    /// hypercalls. Probes that the kernel has the ABI.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn new(device: &Path, abi: AbiProfile, confidential: bool) -> Result<Self, KvmError> {
        let kvm = open(device)?;
        let processor = Processor::probe(&kvm)?;
        let failed = |what| move |error: kvm_ioctls::Error| KvmError::Vm(what, error.into());
        let private = confidential || abi.needs_private_memory();
        let vm = create_vm(&kvm, &processor, private, abi)?;
        let fd = vm.fd();
        // Intel processors without unrestricted guests use both.
        fd.set_identity_map_address(KVM_IDENTITY_MAP)
            .map_err(failed("place its identity map"))?;
        fd.set_tss_address(usize::try_from(KVM_TSS).unwrap_or(usize::MAX))
            .map_err(failed("place its task state"))?;
        fd.create_irq_chip()
            .map_err(failed("create interrupt controllers"))?;
        fd.create_pit2(kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        })
        .map_err(failed("create a timer"))?;
        if confidential {
            fd.enable_cap(&kvm_enable_cap {
                cap: KVM_CAP_EXIT_HYPERCALL,
                args: [1 << HYPERCALL_MAP_GPA_RANGE, 0, 0, 0],
                ..Default::default()
            })
            .map_err(failed("pass hypercalls on"))?;
        }
        Ok(Self { kvm, vm, processor })
    }
}
