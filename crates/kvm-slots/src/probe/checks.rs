// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The slots that a probe creates, and the expected result of each.

use std::cell::Cell;

use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
};

use super::outcome::{ProbeCheck, ProbeError, Probed};
use super::sample::Sample;
use crate::abi::AbiProfile;
use crate::slots::slot::SlotId;
use crate::vm::Vm;
use crate::vm::errno::Errno;

type Region = kvm_userspace_memory_region2;

/// A descriptor that never exists.
const BAD: u32 = u32::MAX;

/// The state of a probe of memslots.
pub(super) struct Checks<'a, V> {
    pub(super) vm: &'a V,
    pub(super) abi: AbiProfile,
    pub(super) flag: u32,
    pub(super) page: u64,
    /// Unused slot numbers.
    pub(super) slots: [SlotId; 2],
    pub(super) gpa: u64,
    pub(super) size: u64,
    pub(super) sample: Option<Sample>,
    /// A descriptor of a file that is not a device's.
    pub(super) stranger: u32,
    /// Whether KVM may have created a slot of each number for the probe.
    pub(super) made: [Cell<bool>; 2],
}

impl<V: Vm> Checks<'_, V> {
    /// Makes the checks, and deletes all slots of the probe.
    ///
    /// # Safety
    /// No vCPU runs meanwhile, or after [`ProbeError::LeftBehind`]; the slots'
    /// numbers are not in use.
    pub(super) unsafe fn run(&self) -> Result<Probed, ProbeError> {
        // SAFETY: passed on from the caller.
        unsafe { self.plain_slots_are_accepted() }?;
        // SAFETY: passed on from the caller.
        let found = unsafe { self.all() };
        // SAFETY: passed on from the caller.
        unsafe { self.restore() }?;
        // SAFETY: passed on from the caller. The kernel reported that the slots are
        // deleted; this verifies it.
        match unsafe { self.plain_slots_are_accepted() } {
            Err(ProbeError::Plain(errno)) => Err(self.left_behind(0, errno)),
            other => other.and(found),
        }
    }

    /// Checks that a plain slot is possible, so that later refusals are due to the
    /// profile.
    unsafe fn plain_slots_are_accepted(&self) -> Result<(), ProbeError> {
        // SAFETY: the slot is at host address 0. No one accesses it, because no
        // vCPU runs: the caller guarantees that.
        unsafe { self.set(&self.plain()) }.map_err(ProbeError::Plain)?;
        // SAFETY: as above.
        unsafe { self.delete(self.slots[0]) }.map_err(|errno| self.left_behind(0, errno))
    }

    unsafe fn all(&self) -> Result<Probed, ProbeError> {
        // SAFETY: passed on from the caller, here and below.
        unsafe { self.the_flag_announces_a_descriptor() }?;
        // SAFETY: as above.
        unsafe { self.refusals() }?;
        let Some(sample) = self.sample else {
            return Ok(Probed::Refusals);
        };
        // SAFETY: as above.
        unsafe { self.wrong_bytes(sample) }?;
        // SAFETY: as above.
        unsafe { self.life_of(self.on(sample.fd, 0)) }?;
        let slices = matches!(self.abi, AbiProfile::FdOffset { .. });
        if slices && sample.size >= 2 * self.page {
            let slice = self.on(sample.fd, self.page);
            // SAFETY: as above.
            unsafe { self.expect(ProbeCheck::Slice, slice, Ok(())) }?;
        }
        Ok(Probed::Made)
    }

    /// Only a kernel that reads the descriptor from the profile's field returns EBADF:
    /// all other fields have a valid one.
    unsafe fn the_flag_announces_a_descriptor(&self) -> Result<(), ProbeError> {
        let decoy = self.sample.map_or(self.stranger, |sample| sample.fd);
        let decoyed = match self.abi {
            AbiProfile::RfcDmaBuf { .. } => Region {
                pad1: decoy,
                ..self.on(BAD, 0)
            },
            _ => Region {
                guest_memfd: decoy,
                ..self.on(BAD, 0)
            },
        };
        let flag = self.flag;
        let bad = Err(Errno::EBADF);
        // SAFETY: the caller guarantees that no vCPU runs.
        match unsafe { self.set(&decoyed) } {
            Ok(()) => return Err(ProbeError::OtherMeaning { flag }),
            Err(Errno::EINVAL) => {}
            seen => return same(ProbeCheck::BadDescriptor, bad, seen),
        }
        // Is the flag unknown, or the descriptor in another field?
        let both = Region {
            guest_memfd: BAD,
            pad1: BAD,
            ..decoyed
        };
        // SAFETY: as above.
        match unsafe { self.set(&both) } {
            Err(Errno::EBADF) | Ok(()) => Err(ProbeError::OtherMeaning { flag }),
            Err(_) => Err(ProbeError::UnknownFlag { flag }),
        }
    }

    /// Slots that are refused on any file.
    unsafe fn refusals(&self) -> Result<(), ProbeError> {
        let file = self.sample.map_or(self.stranger, |sample| sample.fd);
        let (right, invalid) = (self.on(file, 0), Err(Errno::EINVAL));
        let mut tries = vec![
            (ProbeCheck::WrongKind, self.on(self.stranger, 0)),
            (ProbeCheck::UnalignedOffset, self.on(file, 1)),
        ];
        for other in [
            KVM_MEM_LOG_DIRTY_PAGES,
            KVM_MEM_READONLY,
            KVM_MEM_GUEST_MEMFD,
        ] {
            let flags = right.flags | other;
            tries.push((ProbeCheck::FlagBeside(other), Region { flags, ..right }));
        }
        // The RFCs do not specify slots with a host address.
        if matches!(self.abi, AbiProfile::FdOffset { .. }) {
            let userspace_addr = self.page;
            let addressed = Region {
                userspace_addr,
                ..right
            };
            tries.push((ProbeCheck::HostAddress, addressed));
        }
        for (check, region) in tries {
            // SAFETY: the caller guarantees that no vCPU runs.
            unsafe { self.expect(check, region, invalid) }?;
        }
        let old = kvm_userspace_memory_region {
            slot: right.slot,
            flags: right.flags,
            guest_phys_addr: right.guest_phys_addr,
            memory_size: right.memory_size,
            userspace_addr: 0,
        };
        // SAFETY: as above.
        let seen = unsafe { self.vm.set_user_memory_region(&old) };
        self.record(old.slot, seen);
        same(ProbeCheck::OldIoctl, invalid, seen)
    }

    /// Bytes of the file that the profile does not support.
    unsafe fn wrong_bytes(&self, sample: Sample) -> Result<(), ProbeError> {
        let mut tries = vec![self.on(sample.fd, sample.size)];
        if self.abi.needs_file_sizes() {
            tries.push(self.on(sample.fd, self.page));
            let larger = sample.size + self.page;
            tries.push(self.sized(sample.fd, larger));
            if sample.size > self.page {
                tries.push(self.sized(sample.fd, self.page));
            }
        } else {
            // From the last page, with one page too many.
            let mut too_many = self.sized(sample.fd, 2 * self.page);
            too_many.pad2[0] = sample.size - self.page;
            tries.push(too_many);
        }
        for region in tries {
            // SAFETY: the caller guarantees that no vCPU runs.
            unsafe { self.expect(ProbeCheck::WrongBytes, region, Err(Errno::EINVAL)) }?;
        }
        Ok(())
    }

    /// The life of a slot: it can be created and deleted, and not changed.
    unsafe fn life_of(&self, slot: Region) -> Result<(), ProbeError> {
        let elsewhere = Region {
            guest_phys_addr: slot.guest_phys_addr ^ self.page,
            ..slot
        };
        let beside = Region {
            slot: self.slots[1].into(),
            ..slot
        };
        let deletion = Region {
            memory_size: 0,
            ..slot
        };
        let invalid = Err(Errno::EINVAL);
        for (check, region, expected) in [
            (ProbeCheck::Create, slot, Ok(())),
            (ProbeCheck::CreateAgain, slot, invalid),
            (ProbeCheck::Move, elsewhere, invalid),
            (ProbeCheck::OtherKind, self.plain(), invalid),
            (ProbeCheck::SamePlace, beside, Err(Errno::EEXIST)),
            (ProbeCheck::Delete, deletion, Ok(())),
            (ProbeCheck::DeleteAgain, deletion, invalid),
        ] {
            // SAFETY: the caller guarantees that no vCPU runs.
            unsafe { self.expect(check, region, expected) }?;
        }
        Ok(())
    }

    unsafe fn expect(
        &self,
        check: ProbeCheck,
        region: Region,
        expected: Result<(), Errno>,
    ) -> Result<(), ProbeError> {
        // SAFETY: the caller guarantees that no vCPU runs.
        let seen = unsafe { self.set(&region) };
        same(check, expected, seen)
    }

    unsafe fn set(&self, region: &Region) -> Result<(), Errno> {
        // SAFETY: the caller guarantees that no vCPU runs.
        let set = unsafe { self.vm.set_user_memory_region2(region) };
        self.record(region.slot, set);
        set
    }

    /// Records that a slot may exist. A call that fails creates none.
    fn record(&self, slot: u32, set: Result<(), Errno>) {
        for (id, made) in self.slots.iter().zip(&self.made) {
            if set.is_ok() && slot == u32::from(*id) {
                made.set(true);
            }
        }
    }

    /// Deletes the slots of the probe that exist, and no others.
    unsafe fn restore(&self) -> Result<(), ProbeError> {
        for n in (0..2).filter(|n| self.made[*n].get()) {
            // SAFETY: this deletes a slot of the probe.
            match unsafe { self.delete(self.slots[n]) } {
                // EINVAL: the slot does not exist.
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(errno) => return Err(self.left_behind(n, errno)),
            }
        }
        Ok(())
    }

    unsafe fn delete(&self, slot: SlotId) -> Result<(), Errno> {
        let none = Region {
            slot: slot.into(),
            ..Default::default()
        };
        // SAFETY: the region has no memory.
        unsafe { self.vm.set_user_memory_region2(&none) }
    }

    fn left_behind(&self, n: usize, errno: Errno) -> ProbeError {
        let slot = self.slots[n];
        ProbeError::LeftBehind { slot, errno }
    }

    fn plain(&self) -> Region {
        Region {
            slot: self.slots[0].into(),
            guest_phys_addr: self.gpa,
            memory_size: self.size,
            ..Default::default()
        }
    }

    /// The slot in the profile's encoding.
    fn on(&self, fd: u32, offset: u64) -> Region {
        let plain = self.plain();
        // Profiles without memslots are not probed here.
        self.abi.on_file(plain, fd, offset).unwrap_or(plain)
    }

    fn sized(&self, fd: u32, memory_size: u64) -> Region {
        Region {
            memory_size,
            ..self.on(fd, 0)
        }
    }
}

fn same(
    check: ProbeCheck,
    expected: Result<(), Errno>,
    seen: Result<(), Errno>,
) -> Result<(), ProbeError> {
    match seen == expected {
        true => Ok(()),
        false => Err(ProbeError::Differs {
            check,
            expected,
            seen,
        }),
    }
}
