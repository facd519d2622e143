// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Moving one BAR of memory among many, with memslots that follow.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_NR_MEMSLOTS, KVM_CAP_USER_MEMORY2, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};
use kvm_slots::{
    AbiProfile, AddressBits, Errno, GuestMemfdFlags, PageSize, SlotListener, Slots, VcpusStopped,
    Vm,
};

use crate::machine::Bars;
use crate::moves::to_and_fro;

/// A VM that accepts every memslot and keeps none, so that only planning costs
/// time.
#[derive(Debug)]
struct Idle;

impl Vm for Idle {
    fn check_extension(&self, capability: u32) -> i32 {
        match capability {
            KVM_CAP_NR_MEMSLOTS => 32764,
            KVM_CAP_USER_MEMORY2 => 1,
            _ => 0,
        }
    }

    unsafe fn set_user_memory_region2(
        &self,
        _region: &kvm_userspace_memory_region2,
    ) -> Result<(), Errno> {
        Ok(())
    }

    unsafe fn set_user_memory_region(
        &self,
        _region: &kvm_userspace_memory_region,
    ) -> Result<(), Errno> {
        Ok(())
    }

    fn create_guest_memfd(&self, _size: u64, _flags: GuestMemfdFlags) -> Result<OwnedFd, Errno> {
        Err(Errno::ENOTTY)
    }

    fn address_bits(&self) -> Option<AddressBits> {
        Some(AddressBits::Exact(52))
    }

    fn page_size(&self) -> PageSize {
        PageSize::Size4K
    }

    fn set_memory_attributes(&self, _gpa: u64, _size: u64, _attributes: u64) -> Result<(), Errno> {
        Err(Errno::ENOTTY)
    }
}

/// Moves the BAR in the middle back and forth, `times` times.
pub fn run(bars: u64, times: u64) {
    let mut machine = Bars::of_memory(bars);
    // SAFETY: `Idle` has no slots and no guest.
    let slots = unsafe { Slots::new(Idle, AbiProfile::None) };
    let slots = SlotListener::new(slots, VcpusStopped);
    let following = machine
        .model
        .add_listener(machine.space, 0, Arc::new(slots));
    following.expect("an idle VM refuses nothing");
    to_and_fro(&mut machine, bars, times);
}
