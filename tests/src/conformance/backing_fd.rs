// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Slots on a slice of a device's file, without a host address: the interface
//! of this project's kernel patch.

use std::fs::File;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region2,
};
use kvm_slots::exit::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE};
use kvm_slots::probe::{ProbeError, Probed, probe_abi};
use kvm_slots::sim::{PreFault, VmType};
use kvm_slots::uapi::{
    KVM_BACKING_FD_VFIO_DMABUF, KVM_CAP_MEM_BACKING_FD, MEMORY_ATTRIBUTE_PRIVATE,
};
use kvm_slots::{AbiProfile, Errno, GuestMemfdFlags, SlotTable, Vm};
use vmm::guest::GuestError;

use super::{EXIT, delete, load, page, same, set, set_v1, store};
use crate::subject::{DEVICE_PAGES, Subject};

type Region = kvm_userspace_memory_region2;
type Result<T> = std::result::Result<T, String>;

const EINVAL: std::result::Result<(), Errno> = Err(Errno::EINVAL);
const FLAG: u32 = 1 << 4;
const GPA: u64 = 0x4000_0000;
/// A descriptor that is not open.
const CLOSED: u32 = 99_999;

/// A page of the device.
fn slice(subject: &impl Subject, slot: u32, gpa: u64, offset: u64) -> Result<Region> {
    let page_size = subject.page_size();
    let file = subject.dma_buf().ok_or("no device")?;
    let mut region = Region {
        slot,
        flags: FLAG,
        guest_phys_addr: gpa,
        memory_size: page_size,
        pad1: u32::from_ne_bytes(file.as_raw_fd().to_ne_bytes()),
        ..Default::default()
    };
    region.pad2[0] = offset;
    Ok(region)
}

fn at(region: Region, offset: u64) -> Region {
    let mut region = region;
    region.pad2[0] = offset;
    region
}

/// The result of a guest's access while the device does not respond.
fn revoked(subject: &impl Subject, gpa: u64) -> std::result::Result<u64, GuestError> {
    let page_size = subject.page_size();
    let flags = match subject.vm_type() {
        VmType::Plain => 0,
        VmType::SwProtected => MEMORY_EXIT_FLAG_PRIVATE,
    };
    let size = page_size;
    Err(GuestFault::Revoked { flags, gpa, size }.into())
}

/// The guest accepts pages, if the VM has private pages.
fn accept(subject: &impl Subject, gpa: u64, size: u64) -> Result<()> {
    let attributes = match subject.vm_type() {
        VmType::Plain => return Ok(()),
        VmType::SwProtected => MEMORY_ATTRIBUTE_PRIVATE,
    };
    let set = subject.vm().set_memory_attributes(gpa, size, attributes);
    same("attributes", set, Ok(()))
}

pub(super) fn only_this_abi_is_found(subject: &mut impl Subject) -> Result<()> {
    // A VM without a guest, because the guest's slot would not be in the table.
    let mut other = subject.another(false)?;
    other.lend_device()?;
    let kinds = other.vm().check_extension(KVM_CAP_MEM_BACKING_FD);
    let kind = i32::try_from(KVM_BACKING_FD_VFIO_DMABUF).map_err(|e| e.to_string())?;
    same("kinds of files", kinds, kind)?;
    for (bit, file) in (3..16).flat_map(|bit| [(bit, None), (bit, other.dma_buf())]) {
        let flag = 1 << bit;
        let unknown = Err(ProbeError::UnknownFlag { flag });
        let elsewhere = Err(ProbeError::OtherMeaning { flag });
        let due = match (flag == FLAG, file) {
            (false, _) => [unknown.clone(), unknown],
            (true, Some(_)) => [Ok(Probed::Made), elsewhere],
            (true, None) => [Ok(Probed::Refusals), elsewhere],
        };
        let profiles = [
            AbiProfile::FdOffset { flag },
            AbiProfile::RfcDmaBuf { flag },
        ];
        for (profile, due) in profiles.into_iter().zip(due) {
            // SAFETY: the VM has neither a vCPU nor a slot.
            let found = unsafe { probe_abi(other.vm(), &SlotTable::new(), profile, GPA, file) };
            same(&format!("{profile}, {file:?}"), found, due)?;
        }
    }
    Ok(())
}

pub(super) fn errors_are_checked_in_the_documented_order(subject: &mut impl Subject) -> Result<()> {
    let page_size = subject.page_size();
    subject.lend_device()?;
    let arena = subject.arena(1);
    same("a plain slot", set(subject, page(&arena, 1, GPA)), Ok(()))?;
    let good = slice(subject, 0, GPA, 0)?;
    same("the older ioctl", set_v1(subject, good), EINVAL)?;
    for flag in [
        KVM_MEM_LOG_DIRTY_PAGES,
        KVM_MEM_READONLY,
        KVM_MEM_GUEST_MEMFD,
        1 << 3,
        1 << 5,
    ] {
        let flags = FLAG | flag;
        same(
            "another flag",
            set(subject, Region { flags, ..good }),
            EINVAL,
        )?;
    }
    for userspace_addr in [page_size, arena.address(0), 1] {
        let addressed = Region {
            userspace_addr,
            ..good
        };
        same("a host address", set(subject, addressed), EINVAL)?;
    }
    for word in 1..good.pad2.len() {
        let mut padded = good;
        padded.pad2[word] = 1;
        same("padding", set(subject, padded), EINVAL)?;
    }
    same("a gap in a page", set(subject, at(good, 1)), EINVAL)?;
    same(
        "a wrap",
        set(subject, at(good, page_size.wrapping_neg())),
        EINVAL,
    )?;
    // From here on, each call also has the later mistakes, as far as possible.
    subject.set_answering(false)?;
    let closed = Region {
        pad1: CLOSED,
        ..at(good, DEVICE_PAGES * page_size)
    };
    same("occupied", set(subject, closed), Err(Errno::EEXIST))?;
    let beyond = 1 << 52;
    let far = Region {
        guest_phys_addr: beyond,
        ..closed
    };
    same("no file", set(subject, far), Err(Errno::EBADF))?;
    let null = File::open("/dev/null").map_err(|e| e.to_string())?;
    let wrong = Region {
        pad1: u32::from_ne_bytes(null.as_raw_fd().to_ne_bytes()),
        ..far
    };
    same("no dma-buf", set(subject, wrong), EINVAL)?;
    let behind = Region {
        guest_phys_addr: page_size,
        ..at(good, DEVICE_PAGES * page_size)
    };
    same("behind the end", set(subject, behind), EINVAL)?;
    let beyond = Region {
        guest_phys_addr: beyond,
        ..good
    };
    let error = subject.expected().beyond_guest;
    same("beyond the guest", set(subject, beyond), Err(error))?;
    let here = Region {
        guest_phys_addr: page_size,
        ..good
    };
    same("revoked", set(subject, here), Err(Errno::ENODEV))?;
    subject.set_answering(true)?;
    same("answering", set(subject, here), Ok(()))
}

pub(super) fn other_files_are_refused(subject: &mut impl Subject) -> Result<()> {
    let page_size = subject.page_size();
    subject.lend_device()?;
    let good = slice(subject, 0, GPA, 0)?;
    let number = |file: &dyn AsRawFd| u32::from_ne_bytes(file.as_raw_fd().to_ne_bytes());
    for path in ["/dev/null", "/dev/zero", "/dev/kvm", "/"] {
        if let Ok(file) = File::open(path) {
            let pad1 = number(&file);
            same(path, set(subject, Region { pad1, ..good }), EINVAL)?;
        }
    }
    let guest_memfd = subject
        .vm()
        .create_guest_memfd(page_size, GuestMemfdFlags::empty());
    if let Ok(file) = guest_memfd {
        let pad1 = number(&file);
        same("guest_memfd", set(subject, Region { pad1, ..good }), EINVAL)?;
        let swapped = Region {
            flags: KVM_MEM_GUEST_MEMFD,
            guest_memfd: good.pad1,
            userspace_addr: 0,
            ..good
        };
        same("a dma-buf as guest_memfd", set(subject, swapped), EINVAL)?;
    }
    same("the dma-buf", set(subject, good), Ok(()))
}

pub(super) fn a_slot_is_immutable_until_it_is_deleted(subject: &mut impl Subject) -> Result<()> {
    let page_size = subject.page_size();
    subject.lend_device()?;
    let arena = subject.arena(1);
    let slot = slice(subject, 0, GPA, page_size)?;
    same("creation", set(subject, slot), Ok(()))?;
    let plain = Region { flags: 0, ..slot };
    for (what, change) in [
        ("the same", slot),
        (
            "a move",
            Region {
                guest_phys_addr: GPA + page_size,
                ..slot
            },
        ),
        ("another slice", at(slot, 0)),
        (
            "another file",
            Region {
                pad1: CLOSED,
                ..slot
            },
        ),
        (
            "a size",
            Region {
                memory_size: 2 * page_size,
                ..slot
            },
        ),
        ("no flag", plain),
        (
            "a move without the flag",
            Region {
                guest_phys_addr: GPA + page_size,
                ..plain
            },
        ),
        (
            "logging",
            Region {
                flags: KVM_MEM_LOG_DIRTY_PAGES,
                ..slot
            },
        ),
        ("a host address", page(&arena, 0, GPA)),
    ] {
        same(what, set(subject, change), EINVAL)?;
    }
    let (ordinary, on_device) = (
        page(&arena, 1, GPA + page_size),
        slice(subject, 1, GPA + page_size, 0)?,
    );
    same("a plain slot", set(subject, ordinary), Ok(()))?;
    same("becoming one", set(subject, on_device), EINVAL)?;
    same("deletion", delete(subject, 0), Ok(()))?;
    same("deletion once more", delete(subject, 0), EINVAL)?;
    same("creation", set(subject, at(slot, 0)), Ok(()))
}

pub(super) fn slices_show_their_bytes_at_any_address(subject: &mut impl Subject) -> Result<()> {
    let page_size = subject.page_size();
    subject.lend_device()?;
    for n in 0..DEVICE_PAGES {
        let slot = u32::try_from(n).map_err(|e| e.to_string())?;
        let region = slice(subject, slot, GPA + 2 * n * page_size, n * page_size)?;
        same("a slice", set(subject, region), Ok(()))?;
    }
    // The same again in the opposite order.
    let whole = Region {
        memory_size: DEVICE_PAGES * page_size,
        ..slice(subject, 100, 0x1_0000_0000, 0)?
    };
    same("the whole", set(subject, whole), Ok(()))?;
    accept(subject, GPA, 2 * DEVICE_PAGES * page_size)?;
    accept(subject, 0x1_0000_0000, DEVICE_PAGES * page_size)?;
    for n in 0..DEVICE_PAGES {
        let (apart, together) = (GPA + 2 * n * page_size, 0x1_0000_0000 + n * page_size);
        same("a store", store(subject, apart + 8, n + 1), Ok(0))?;
        same("its page", load(subject, together + 8), Ok(n + 1))?;
        same("a store", store(subject, together + 0xff8, !n), Ok(0))?;
        same("its slice", load(subject, apart + 0xff8), Ok(!n))?;
    }
    same("deletion", delete(subject, 1), Ok(()))?;
    same(
        "the others",
        load(subject, 0x1_0000_0008 + page_size),
        Ok(2),
    )
}

pub(super) fn a_revoked_slot_stops_the_guest_until_it_returns(
    subject: &mut impl Subject,
) -> Result<()> {
    let page_size = subject.page_size();
    subject.lend_device()?;
    same("creation", set(subject, slice(subject, 0, GPA, 0)?), Ok(()))?;
    accept(subject, GPA, page_size)?;
    same("a store", store(subject, GPA, 7), Ok(0))?;
    for _ in 0..3 {
        subject.set_answering(false)?;
        for _ in 0..2 {
            let gone = revoked(subject, GPA);
            same("a load", load(subject, GPA + 8), gone.clone())?;
            same("a store", store(subject, GPA + 8, 1), gone)?;
        }
        subject.set_answering(true)?;
        same("a load", load(subject, GPA), Ok(7))?;
    }
    subject.set_answering(false)?;
    same("deletion", delete(subject, 0), Ok(()))?;
    subject.set_answering(true)?;
    if subject.vm_type() == VmType::Plain {
        same("nothing there", load(subject, GPA), Ok(EXIT))?;
    }
    Ok(())
}

pub(super) fn a_revoked_slot_is_not_pre_faulted(subject: &mut impl Subject) -> Result<()> {
    let page_size = subject.page_size();
    subject.lend_device()?;
    same("creation", set(subject, slice(subject, 0, GPA, 0)?), Ok(()))?;
    accept(subject, GPA, page_size)?;
    let range = || PreFault {
        gpa: GPA,
        size: page_size,
        flags: 0,
    };
    for _ in 0..3 {
        same("ahead", subject.pre_fault(&mut range()), Ok(()))?;
        subject.set_answering(false)?;
        same(
            "revoked",
            subject.pre_fault(&mut range()),
            Err(Errno::ENODEV),
        )?;
        subject.set_answering(true)?;
    }
    same("a load after all", load(subject, GPA).map(|_| ()), Ok(()))
}

pub(super) fn a_private_vm_reaches_only_what_it_has_accepted(
    subject: &mut impl Subject,
) -> Result<()> {
    let page_size = subject.page_size();
    subject.lend_device()?;
    // An exit before the slot exists leaves an MMIO entry in the page table.
    same("nothing there", load(subject, GPA), Ok(EXIT))?;
    let both = Region {
        memory_size: 2 * page_size,
        ..slice(subject, 0, GPA, 0)?
    };
    same("creation", set(subject, both), Ok(()))?;
    let unaccepted = |gpa| {
        let (flags, size) = (MEMORY_EXIT_FLAG_PRIVATE, page_size);
        Err(GuestError::from(GuestFault::Memory { flags, gpa, size }))
    };
    same("before", load(subject, GPA + 8), unaccepted(GPA))?;
    let mut range = PreFault {
        gpa: GPA,
        size: page_size,
        flags: 0,
    };
    same("ahead", subject.pre_fault(&mut range), Err(Errno::EFAULT))?;
    accept(subject, GPA + page_size, page_size)?;
    same("the other page", load(subject, GPA + 8), unaccepted(GPA))?;
    same("this one", store(subject, GPA + page_size, 5), Ok(0))?;
    accept(subject, GPA, page_size)?;
    same("a store", store(subject, GPA + 8, 6), Ok(0))?;
    let back = subject.vm().set_memory_attributes(GPA, 2 * page_size, 0);
    same("attributes", back, Ok(()))?;
    same(
        "given back",
        load(subject, GPA + page_size),
        unaccepted(GPA + page_size),
    )?;
    accept(subject, GPA, 2 * page_size)?;
    same("the first page", load(subject, GPA + 8), Ok(6))?;
    same("the second page", load(subject, GPA + page_size), Ok(5))
}
