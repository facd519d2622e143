// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM of the real KVM.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, kvm_create_guest_memfd, kvm_enable_cap,
    kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, VmFd};

use crate::dirty::vm::{LoggingVm, ManualProtect};
use crate::push::PushMap;
use crate::vm::address_bits::{self, AddressBits};
use crate::vm::errno::Errno;
use crate::vm::file_attributes::FileAttributesError;
use crate::vm::interrupted::call_again;
use crate::vm::ioctl;
use crate::vm::{GuestMemfdFlags, Vm};

/// A VM of the kernel's KVM. Clones are the same VM.
#[derive(Clone, Debug)]
pub struct KvmVm {
    vm: Arc<VmFd>,
    push_map: Option<Arc<dyn PushMap>>,
    address_bits: Option<AddressBits>,
    reported: Arc<Mutex<Reported>>,
}

/// The state that the sizes of buffers depend on.
#[derive(Debug, Default)]
struct Reported {
    /// Slots by number, with their size in bytes.
    slots: BTreeMap<u32, u64>,
    // Read only to map a ring.
    #[cfg_attr(not(feature = "dirty-ring"), allow(dead_code))]
    ring_bytes: Option<u32>,
}

impl KvmVm {
    /// Creates a VM of the type `vm_type`, as `KVM_CREATE_VM` takes it; 0 is the default.
    ///
    /// Prefer this to [`new`](Self::new), because it knows the width of the VM's
    /// guest-physical addresses: by the type on Arm, and on x86-64 by the CPUID that KVM
    /// supports. The planner then refuses ranges beyond. If vCPUs get another width in
    /// their CPUID, call [`with_address_bits`](Self::with_address_bits).
    ///
    /// The ioctl fails if a signal is pending (EINTR), and this function retries it a
    /// bounded number of times.
    ///
    /// # Errors
    /// The kernel's error, such as EINVAL for a type that it does not have.
    pub fn create(kvm: &Kvm, vm_type: u64) -> Result<Self, Errno> {
        // `mmu_notifier_register` locks the mappings of the process, and gives up if a
        // signal is pending.
        let vm = call_again(|| kvm.create_vm_with_type(vm_type))?;
        let vm = Self::new(Arc::new(vm));
        let known = address_bits::of_type(vm_type).or_else(|| address_bits::of_host(kvm));
        Ok(Self {
            address_bits: known.or(vm.address_bits),
            ..vm
        })
    }

    /// Uses the VM `vm`, which has no memslots yet. All memslots of that VM must be
    /// made through this value and its clones, which determine the length of a
    /// dirty log from them.
    ///
    /// The VM's descriptor does not report the width of guest-physical addresses, except
    /// on RISC-V. Call [`with_address_bits`](Self::with_address_bits) after this. Without
    /// that call, KVM itself refuses slots beyond the width (EFAULT on Arm). On x86-64,
    /// only an upper bound is known ([`AddressBits::AtMost`]): 52 bits, where KVM may
    /// support fewer (the processor's width, with nested page tables). A plan can then
    /// contain a slot that KVM refuses, and every plan that moves a slot holds vCPUs
    /// ([`Plan::holds_vcpus`](crate::Plan::holds_vcpus)).
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self {
            address_bits: address_bits::of_vm(&vm),
            vm,
            push_map: None,
            reported: Arc::default(),
        }
    }

    /// Sets the width of the vCPUs' guest-physical addresses, in bits. The crate has a
    /// function for the width in a CPUID (x86-64) and in the type of a VM (Arm).
    #[must_use]
    pub fn with_address_bits(self, bits: u32) -> Self {
        Self {
            address_bits: Some(AddressBits::Exact(bits)),
            ..self
        }
    }

    /// Sets the platform's call that maps a device's memory without a memslot.
    #[must_use]
    pub fn with_push_map(self, push_map: Arc<dyn PushMap>) -> Self {
        Self {
            push_map: Some(push_map),
            ..self
        }
    }

    /// The VM's descriptor, for calls that do not concern memory.
    pub fn fd(&self) -> &VmFd {
        &self.vm
    }

    /// Maps the dirty ring of `vcpu`, a vCPU of this VM. A vCPU of another VM may
    /// have no ring or a smaller one, and harvesting it would cause SIGBUS.
    ///
    /// Map each ring only once: two harvesters of one ring miss each other's
    /// entries.
    ///
    /// # Errors
    /// ENXIO before [`LoggingVm::enable_dirty_ring`], or the error of `mmap`.
    #[cfg(feature = "dirty-ring")]
    pub fn map_dirty_ring(&self, vcpu: &kvm_ioctls::VcpuFd) -> Result<ioctl::VcpuDirtyRing, Errno> {
        let bytes = self.reported().ring_bytes.ok_or(Errno::ENXIO)?;
        ioctl::VcpuDirtyRing::map(vcpu, crate::vm::caps::host_page_size(), bytes)
    }

    /// Entries change as a whole, so a panic leaves no partial change.
    fn reported(&self) -> MutexGuard<'_, Reported> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enable(&self, cap: u32, arg: u64) -> Result<(), Errno> {
        Ok(self.vm.enable_cap(&kvm_enable_cap {
            cap,
            args: [arg, 0, 0, 0],
            ..Default::default()
        })?)
    }
}

impl Reported {
    fn follow(&mut self, slot: u32, size: u64) {
        match size {
            0 => self.slots.remove(&slot),
            _ => self.slots.insert(slot, size),
        };
    }
}

impl Vm for KvmVm {
    fn check_extension(&self, capability: u32) -> i32 {
        self.vm.check_extension_raw(capability.into())
    }

    unsafe fn set_user_memory_region2(
        &self,
        region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        let mut reported = self.reported();
        // SAFETY: the caller guarantees for the host address exactly what
        // kvm-ioctls requires; the struct itself is passed by value.
        call_again(|| unsafe { self.vm.set_user_memory_region2(*region) })?;
        reported.follow(region.slot, region.memory_size);
        Ok(())
    }

    unsafe fn set_user_memory_region(
        &self,
        region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        let mut reported = self.reported();
        // SAFETY: as above.
        call_again(|| unsafe { self.vm.set_user_memory_region(*region) })?;
        reported.follow(region.slot, region.memory_size);
        Ok(())
    }

    fn create_guest_memfd(&self, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        let fd = self.vm.create_guest_memfd(kvm_create_guest_memfd {
            size,
            flags: flags.bits(),
            ..Default::default()
        })?;
        // SAFETY: the ioctl has just created this descriptor, and no one else has
        // it: kvm-ioctls returns the number and keeps no copy.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn set_memory_attributes(&self, gpa: u64, size: u64, attributes: u64) -> Result<(), Errno> {
        call_again(|| ioctl::set_memory_attributes(&self.vm, gpa, size, attributes))
    }

    fn set_file_attributes(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        size: u64,
        attributes: u64,
    ) -> Result<(), FileAttributesError> {
        let mut failed = Errno::EINTR.into();
        let set = call_again(|| {
            ioctl::set_file_attributes(file, offset, size, attributes).map_err(|error| {
                failed = error;
                error.errno
            })
        });
        set.map_err(|_| failed)
    }

    fn address_bits(&self) -> Option<AddressBits> {
        self.address_bits
    }

    fn push_map(&self) -> Option<&dyn PushMap> {
        self.push_map.as_deref()
    }
}

impl LoggingVm for KvmVm {
    fn set_manual_protect(&self, options: ManualProtect) -> Result<(), Errno> {
        self.enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, options.bits())
    }

    fn enable_dirty_ring(&self, bytes: u32) -> Result<(), Errno> {
        // Both names are the same ring. A kernel without the newer name is an
        // older one on x86, whose stores are ordered.
        let cap = match self.check_extension(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) {
            1.. => KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
            _ => KVM_CAP_DIRTY_LOG_RING,
        };
        let mut reported = self.reported();
        self.enable(cap, bytes.into())?;
        reported.ring_bytes = Some(bytes);
        Ok(())
    }

    fn enable_log_beside_ring(&self) -> Result<(), Errno> {
        self.enable(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0)
    }

    fn get_dirty_log(&self, slot: u32) -> Result<Vec<u64>, Errno> {
        // The kernel writes one bit for each page of the slot. The recorded size
        // is the kernel's, and cannot change while the lock is held: all slots
        // are made through this value.
        let reported = self.reported();
        let Some(&size) = reported.slots.get(&slot) else {
            return Err(ioctl::dirty_log_refusal(&self.vm, slot));
        };
        let size = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        Ok(self.vm.get_dirty_log(slot, size)?)
    }

    fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        num_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno> {
        ioctl::clear_dirty_log(&self.vm, slot, first_page, num_pages, bitmap)
    }

    fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        ioctl::reset_dirty_rings(&self.vm)
    }
}
