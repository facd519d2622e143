// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM of the kernel's KVM.

use std::path::Path;
use std::sync::Arc;

use kvm_slots::probe::probe_abi;
use kvm_slots::{AbiProfile, KvmVm, SlotTable};

use crate::backend::kvm::{KvmError, open};

/// The width of guest-physical addresses without the capability for others.
const DEFAULT_BITS: u32 = 40;
/// The widest addresses that page tables of 4 KiB pages have on all processors.
const MOST_BITS: u32 = 48;

/// A VM without memory, vCPUs and interrupt controllers.
#[derive(Debug)]
pub struct GuestVm {
    /// The VM.
    pub vm: KvmVm,
    /// The width of guest-physical addresses.
    pub address_bits: u32,
}

impl GuestVm {
    /// A VM with the widest addresses that the host offers, up to 48 bits. Probes that the
    /// kernel has the ABI. There are no confidential ones: the type of a VM is the width of
    /// its addresses here.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn new(device: &Path, abi: AbiProfile, confidential: bool) -> Result<Self, KvmError> {
        let kvm = open(device)?;
        if confidential || abi.needs_private_memory() {
            return Err(KvmError::NoProtectedVms);
        }
        let most = u32::try_from(kvm.get_host_ipa_limit()).unwrap_or(0);
        let address_bits = match most {
            0 => DEFAULT_BITS,
            most => most.min(MOST_BITS),
        };
        // Kernels without the capability accept type 0 alone.
        let fd = match address_bits {
            DEFAULT_BITS => kvm.create_vm_with_type(0),
            bits => kvm.create_vm_with_ipa_size(bits),
        };
        let fd = fd.map_err(|error| KvmError::Vm("create a VM", error.into()))?;
        let vm = KvmVm::new(Arc::new(fd)).with_address_bits(address_bits);
        if abi != AbiProfile::None {
            // SAFETY: the VM is new: it has no vCPU and no slot, and is dropped if
            // the probe fails.
            unsafe { probe_abi(&vm, &SlotTable::new(), abi, 0, None) }
                .map_err(|why| KvmError::Abi(abi, why))?;
        }
        Ok(Self { vm, address_bits })
    }
}
