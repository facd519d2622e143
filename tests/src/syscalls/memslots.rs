// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Operations on memslots.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_USER_MEMORY2, kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_ioctls::Kvm;
use kvm_slots::convert::Home;
use kvm_slots::probe::probe_abi;
use kvm_slots::{
    AbiProfile, AddressBits, Applied, Capabilities, Change, DeviceFile, Errno, FileSlice,
    GuestMemfdFlags, KvmVm, Plan, SlotAccess, SlotBacking, SlotListener, SlotRange, SlotTable,
    Slots, VcpusStopped, Vm,
};
use memory_model::{Memory, MemoryModel, Region};

use super::during;
use crate::check::at;
use crate::hardware::Ended;
use crate::subject::{Arena, host_page_size};

pub(super) const OPERATIONS: &[&str] = &[
    "KvmVm::create",
    "KvmVm::new",
    "drop of the last KvmVm",
    "Capabilities::probe",
    "Slots::new",
    "Slots::plan, Slots::plan_change",
    "Slots::apply, Slots::undo",
    "Slots::apply before Linux 6.8",
    "drop of Slots",
    "SlotListener::new",
    "Transaction::commit with a SlotListener",
    "DeviceFile::measured",
    "probe_abi",
    "probe_abi with a file",
];

pub(super) const WITH_GUEST_MEMFD: &[&str] = &["Vm::create_guest_memfd", "Home::probe"];

const LOW: u64 = 0x1000_0000;
const HIGH: u64 = 0x2000_0000;

/// The type of a VM that every host of this architecture has.
#[cfg(target_arch = "aarch64")]
fn vm_type(kvm: &Kvm) -> u64 {
    kvm.get_host_ipa_limit().cast_unsigned().min(40).into()
}

/// The type of a VM that every host of this architecture has.
#[cfg(not(target_arch = "aarch64"))]
fn vm_type(_: &Kvm) -> u64 {
    0
}

/// A VM without memory.
pub(super) fn vm() -> Result<KvmVm, String> {
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    KvmVm::create(&kvm, vm_type(&kvm)).map_err(at("a VM"))
}

/// Memory at an address.
pub(super) fn range(gpa: u64, arena: &Arc<Arena>) -> Result<SlotRange, String> {
    let backing = SlotBacking::Host(arena.host_memory(0, arena.pages()));
    SlotRange::new(gpa, SlotAccess::ReadWrite, backing).map_err(at("a range"))
}

/// `Slots` of a VM that has no others.
pub(super) fn slots(vm: &KvmVm) -> Slots<KvmVm> {
    // SAFETY: the callers have just created the VM, and make no slots elsewhere.
    unsafe { Slots::new(vm.clone(), AbiProfile::None) }
}

/// Applies a plan, as this operation.
pub(super) fn apply<V: Vm>(
    operation: &str,
    slots: &mut Slots<V>,
    plan: &Plan,
) -> Result<Applied, String> {
    let applied = during(operation, || slots.apply(plan).map_err(Box::new));
    applied.map_err(at(operation))
}

pub(super) fn run() -> Result<Ended, String> {
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    let of_type = vm_type(&kvm);
    let vm = during("KvmVm::create", || KvmVm::create(&kvm, of_type)).map_err(at("a VM"))?;
    let other = kvm.create_vm_with_type(of_type).map_err(at("a VM"))?;
    let other = during("KvmVm::new", || KvmVm::new(Arc::new(other)));
    during("drop of the last KvmVm", || drop(other));
    during("Capabilities::probe", || Capabilities::probe(&vm));

    let arena = Arc::new(Arena::new(4));
    let [low, high] = [range(LOW, &arena)?, range(HIGH, &arena)?];
    let mut slots = during("Slots::new", || slots(&vm));
    const PLAN: &str = "Slots::plan, Slots::plan_change";
    const APPLY: &str = "Slots::apply, Slots::undo";
    let plan = during(PLAN, || slots.plan(std::slice::from_ref(&low)));
    let _ = apply(APPLY, &mut slots, &plan.map_err(at("a plan"))?)?;
    let change = Change::new(std::slice::from_ref(&low), std::slice::from_ref(&high));
    let plan = during(PLAN, || slots.plan_change(&change)).map_err(at("a plan"))?;
    let applied = apply(APPLY, &mut slots, &plan)?;
    let left = during(APPLY, || slots.undo(applied));
    if !left.is_empty() {
        return Err(format!("{left:?}"));
    }
    during("drop of Slots", || drop(slots));
    before_region2(vm.clone(), &low)?;
    follow(&vm, &arena)?;

    let file = || File::open("/proc/self/exe").map_err(at("this program"));
    let slice = FileSlice::new(Arc::new(OwnedFd::from(file()?)), 0, host_page_size());
    let file_of_device = DeviceFile::new(slice.ok_or("no bytes")?);
    during("DeviceFile::measured", || file_of_device.measured());
    // Whole pages, as dma-bufs have.
    let sized = super::conversions::memfd(4 * host_page_size())?;
    for (operation, file) in [
        ("probe_abi", None),
        ("probe_abi with a file", Some(sized.as_fd())),
    ] {
        let abi = AbiProfile::FD_OFFSET_BIT_4;
        // SAFETY: the VM has neither a vCPU nor a slot. What the probe finds is not of
        // interest.
        let _ = during(operation, || unsafe {
            probe_abi(&vm, &SlotTable::new(), abi, LOW, file)
        });
    }
    Ok(Ended::Passed)
}

/// A model with a region that comes and goes.
fn follow(vm: &KvmVm, arena: &Arc<Arena>) -> Result<(), String> {
    let listener = during("SlotListener::new", {
        let slots = slots(vm);
        || SlotListener::new(slots, VcpusStopped)
    });
    let mut model: MemoryModel = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 40));
    let root = root.map_err(at("memory"))?;
    let memory = Memory::host_only(arena.host_memory(0, arena.pages()));
    let ram = t.add(Region::ram("ram", memory)).map_err(at("ram"))?;
    t.place(ram, root, LOW, 0).map_err(at("ram"))?;
    t.commit().map_err(at("ram"))?;
    let space = model.add_space("memory", root).map_err(at("memory"))?;
    const COMMIT: &str = "Transaction::commit with a SlotListener";
    let listener = Arc::new(listener);
    let added = during(COMMIT, || model.add_listener(space, 0, listener.clone()));
    added.map_err(|error| vmm::with_causes(&error))?;
    let mut t = model.transaction();
    t.move_to(ram, HIGH).map_err(at("ram"))?;
    during(COMMIT, || t.commit()).map_err(at("a commit"))
}

/// The real KVM as it was before `KVM_SET_USER_MEMORY_REGION2`.
#[derive(Debug)]
struct Older(KvmVm);

impl Vm for Older {
    fn check_extension(&self, capability: u32) -> i32 {
        match capability {
            KVM_CAP_USER_MEMORY2 => 0,
            _ => self.0.check_extension(capability),
        }
    }

    unsafe fn set_user_memory_region2(
        &self,
        _: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        // SAFETY: passed on from the caller.
        unsafe { self.0.set_user_memory_region(region) }
    }

    fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::ENOTTY)
    }

    fn set_memory_attributes(&self, _: u64, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }

    fn address_bits(&self) -> Option<AddressBits> {
        self.0.address_bits()
    }
}

fn before_region2(vm: KvmVm, range: &SlotRange) -> Result<(), String> {
    // SAFETY: the VM has no slots left, and no one else makes any meanwhile.
    let mut slots = unsafe { Slots::new(Older(vm), AbiProfile::None) };
    let plan = slots.plan(std::slice::from_ref(range));
    let plan = plan.map_err(at("a plan"))?;
    apply("Slots::apply before Linux 6.8", &mut slots, &plan).map(drop)
}

pub(super) fn run_with_guest_memfd() -> Result<Ended, String> {
    let vm = vm()?;
    let (size, flags) = (host_page_size(), GuestMemfdFlags::empty());
    let file = during("Vm::create_guest_memfd", || {
        vm.create_guest_memfd(size, flags)
    });
    file.map_err(at("a guest_memfd"))?;
    during("Home::probe", || Home::probe(&vm)).map_err(at("the home"))?;
    Ok(Ended::Passed)
}
