// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `KVM_SET_MEMORY_ATTRIBUTES2` by the bytes of its structure: what the library never
//! passes, and how the lab's kernel names it.

use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

use kvm_slots::sim::{Sharing, VmType};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, GuestMemfdFlags, Vm};

use crate::end_to_end::Test;
use crate::needs::Need;
use crate::subject::{Arena, HostChange, PAGE, Real, Subject, peek};

/// The tests, by name, with their needs.
pub const TESTS: [Test; 3] = [
    (
        "every_field_that_is_not_used_must_be_zero",
        &[Need::FileAttributes],
        every_unused_field_must_be_zero,
    ),
    (
        "a_structure_that_cannot_be_read_or_written_is_refused_before_a_change",
        &[Need::FileAttributes],
        the_structure_must_be_accessible,
    ),
    (
        "a_capability_says_which_attributes_a_vm_has",
        &[Need::LabFileAttributes],
        a_capability_says_which,
    ),
];

/// `_IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)`.
const SET_MEMORY_ATTRIBUTES2: libc::Ioctl = 0xc080_aed2_u32 as libc::Ioctl;
/// The number of `KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES` in the lab's kernel. Others
/// have other numbers.
const CAPABILITY_IN_THE_LAB: u32 = 0x6761;
const PRIVATE: u64 = MEMORY_ATTRIBUTE_PRIVATE;
/// `struct kvm_memory_attributes2`: the indices of its fields.
type Raw = [u64; 16];
const FLAGS: usize = 3;
const ERROR_OFFSET: usize = 4;
const RESERVED: std::ops::Range<usize> = 5..16;

/// Two pages that are shared.
struct File {
    real: Real,
    file: OwnedFd,
}

impl File {
    fn new() -> Result<Self, String> {
        let real = Real::new(VmType::SwProtected, false)?;
        let file = real
            .vm()
            .create_guest_memfd(2 * PAGE, GuestMemfdFlags::all());
        let file = file.map_err(|e| format!("a guest_memfd: {e}"))?;
        Ok(Self { real, file })
    }

    fn set(&self, raw: *mut c_void) -> Result<(), Errno> {
        // SAFETY: the kernel checks the address, and callers pass their own memory.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), SET_MEMORY_ATTRIBUTES2, raw) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    fn set_fields(&self, raw: &mut Raw) -> Result<(), Errno> {
        self.set(ptr::from_mut(raw).cast())
    }

    /// Requires that both pages are shared.
    fn all_shared(&self, after: &str) -> Result<(), String> {
        let file = self.file.as_fd();
        let mapping = self.real.map_file(file, 0, 2 * PAGE, Sharing::Shared);
        let mapping = mapping.map_err(|e| e.to_string())?;
        for page in 0..2 {
            let seen = peek::<8>(mapping.address() + page * PAGE);
            seen.map_err(|e| format!("after {after}: page {page}: {e}"))?;
        }
        Ok(())
    }
}

fn due(what: &str, is: Result<(), Errno>, should: Result<(), Errno>) -> Result<(), String> {
    match is == should {
        true => Ok(()),
        false => Err(format!("{what}: {is:?} and not {should:?}")),
    }
}

fn every_unused_field_must_be_zero() -> Result<(), String> {
    let file = File::new()?;
    for at in RESERVED.chain([FLAGS]) {
        for value in [1, 1 << 63] {
            let mut raw: Raw = [0; 16];
            (raw[1], raw[2], raw[at]) = (PAGE, PRIVATE, value);
            let what = format!("{value:#x} in field {at}");
            due(&what, file.set_fields(&mut raw), Err(Errno::EINVAL))?;
            file.all_shared(&what)?;
        }
    }
    // The kernel writes to this one.
    let mut raw: Raw = [0; 16];
    (raw[1], raw[2], raw[ERROR_OFFSET]) = (PAGE, PRIVATE, u64::MAX);
    due("an old error offset", file.set_fields(&mut raw), Ok(()))
}

fn the_structure_must_be_accessible() -> Result<(), String> {
    let file = File::new()?;
    let arena = Arena::new(2);
    let fields: [u64; 3] = [0, PAGE, PRIVATE];
    for (n, field) in (0..).zip(fields) {
        let stored = arena.write(n * 8, &field.to_le_bytes());
        stored.map_err(|e| e.to_string())?;
    }
    let at = |offset: u64| -> Result<*mut c_void, String> {
        let address = usize::try_from(arena.address(0) + offset).map_err(|e| e.to_string())?;
        Ok(ptr::with_exposed_provenance_mut(address))
    };
    due(
        "no structure",
        file.set(ptr::null_mut()),
        Err(Errno::EFAULT),
    )?;
    arena.change(1, HostChange::Unmap);
    due("half of one", file.set(at(PAGE - 64)?), Err(Errno::EFAULT))?;
    arena.change(0, HostChange::Protect);
    due("a read-only one", file.set(at(0)?), Err(Errno::EFAULT))?;
    file.all_shared("a read-only structure")
}

fn a_capability_says_which() -> Result<(), String> {
    for (vm_type, should) in [(VmType::SwProtected, 8), (VmType::Plain, 0)] {
        let real = Real::new(vm_type, false)?;
        let is = real.vm().check_extension(CAPABILITY_IN_THE_LAB);
        if is != should {
            return Err(format!("{vm_type:?}: {is:#x} and not {should:#x}"));
        }
    }
    Ok(())
}
