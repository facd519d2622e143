// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hardware tests of what only VMs on arm64 have. No guest code runs.

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_ARM_VM_IPA_SIZE, KVM_CAP_MEMORY_ATTRIBUTES, kvm_userspace_memory_region,
};
use kvm_ioctls::Kvm;
use kvm_slots::convert::{
    ConvertibleMemory, ConvertibleRange, Engine, GuestMemfdSides, Home, Request,
};
use kvm_slots::{
    AbiProfile, AddressBits, Capabilities, Errno, FileSlice, KvmVm, PlanError, SlotAccess,
    SlotBacking, SlotRange, SlotTable, Unsupported, Vm, plan,
};
use vmm::HostMapping;

use crate::needs::Need;

/// The tests, with what each needs.
pub const TESTS: [(&str, &[Need], fn() -> Result<(), String>); 2] = [
    (
        "a_slot_beyond_the_addresses_of_its_vm_is_refused_by_the_plan_and_by_kvm",
        &[Need::Kvm],
        the_width_is_that_of_the_vm,
    ),
    (
        "attributes_are_refused_by_a_vm_without_private_pages",
        &[Need::Kvm],
        no_attribute_can_be_set,
    ),
];

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A slot of these bytes, made and deleted.
fn slot(vm: &KvmVm, gpa: u64, size: u64, memory: &HostMapping) -> Result<(), Errno> {
    for memory_size in [size, 0] {
        let region = kvm_userspace_memory_region {
            guest_phys_addr: gpa,
            memory_size,
            userspace_addr: memory.address(),
            ..Default::default()
        };
        // SAFETY: the VM never has a vCPU, so nothing accesses the memory through the
        // slot, which does not outlive it.
        unsafe { vm.set_user_memory_region(&region) }?;
    }
    Ok(())
}

/// Each VM has the width of its type, whatever the host's maximum is.
fn the_width_is_that_of_the_vm() -> Result<(), String> {
    let kvm = Kvm::new().map_err(text)?;
    let most = kvm.check_extension_raw(KVM_CAP_ARM_VM_IPA_SIZE.into());
    let most = u64::try_from(most).map_err(text)?;
    let types = [0, 32, 36, 40, 42, most];
    for vm_type in types.into_iter().filter(|vm_type| *vm_type <= most) {
        let vm = KvmVm::create(&kvm, vm_type).map_err(text)?;
        one_width(&vm).map_err(|why| format!("type {vm_type}: {why}"))?;
    }
    match KvmVm::create(&kvm, most + 1) {
        Err(Errno::EINVAL) => Ok(()),
        other => Err(format!("{} bits: {:?}", most + 1, other.err())),
    }
}

fn one_width(vm: &KvmVm) -> Result<(), String> {
    let capabilities = Capabilities::probe(vm);
    let Some(AddressBits::Exact(bits)) = capabilities.address_bits else {
        return Err("no exact width".into());
    };
    let (page, end) = (capabilities.page_size.bytes(), 1 << bits);
    let memory = Arc::new(HostMapping::anonymous(2 * page).map_err(text)?);
    for (gpa, size, fits) in [
        (end - page, page, true),
        (end - 2 * page, 2 * page, true),
        (end - page, 2 * page, false),
        (end, page, false),
    ] {
        let by_kvm = slot(vm, gpa, size, &memory);
        let bytes = memory.host_memory().slice(0, size).ok_or("too few bytes")?;
        let range = SlotRange::new(gpa, SlotAccess::ReadWrite, SlotBacking::Host(bytes));
        let range = range.map_err(text)?;
        let planned = plan::plan(&SlotTable::new(), &[range], &capabilities, AbiProfile::None);
        let planned = planned.map(|_| ());
        let expected = match fits {
            true => (Ok(()), Ok(())),
            false => (
                Err(Errno::EFAULT),
                Err(PlanError::BeyondAddresses { gpa, size, bits }),
            ),
        };
        if (by_kvm, planned.clone()) != expected {
            return Err(format!(
                "{size:#x} bytes at {gpa:#x}: KVM {by_kvm:?}, plan {planned:?}"
            ));
        }
    }
    Ok(())
}

/// Plain VMs on arm64 have no attributes: no page can be private.
fn no_attribute_can_be_set() -> Result<(), String> {
    let kvm = Kvm::new().map_err(text)?;
    let vm = KvmVm::create(&kvm, 0).map_err(text)?;
    if vm.check_extension(KVM_CAP_MEMORY_ATTRIBUTES) > 0 {
        return Err("this kernel has attributes: test conversions here".into());
    }
    let page = vm.page_size().bytes();
    let home = Home::probe(&vm).map_err(text)?;
    let engine = Engine::new(vm.clone(), home);
    let mut memory = ConvertibleMemory::new();
    let mapping = Arc::new(HostMapping::anonymous(page).map_err(text)?);
    let file = std::fs::File::open("/dev/null").map_err(text)?;
    // Nothing is discarded: the conversion is refused before.
    let file = FileSlice::new(Arc::new(file), 0, page).ok_or("no file")?;
    let backing = SlotBacking::GuestMemfd {
        file,
        host: Some(mapping.host_memory()),
    };
    let range = SlotRange::new(0, SlotAccess::ReadWrite, backing).map_err(text)?;
    let range = ConvertibleRange::new(&range, GuestMemfdSides::Private);
    memory.set_ranges(range).map_err(text)?;
    let request = Request::memory_fault(1 << 3, 0, page).map_err(text)?;
    let refused = engine.convert(&mut memory, request);
    let reason = Unsupported::NoPrivatePages.to_string();
    match refused {
        Err(error) if error.to_string() == reason => {}
        other => return Err(format!("a conversion: {other:?}")),
    }
    match vm.set_memory_attributes(0, page, 1 << 3) {
        Err(Errno::ENOTTY | Errno::EINVAL) => Ok(()),
        other => Err(format!("an attribute: {other:?}")),
    }
}
