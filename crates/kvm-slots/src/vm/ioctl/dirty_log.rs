// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Clears dirty logs and resets dirty rings.

use std::ptr::null_mut;

use kvm_bindings::{
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log,
    kvm_dirty_log__bindgen_ty_1,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ref};

use super::numbers::{KVM_CLEAR_DIRTY_LOG, KVM_GET_DIRTY_LOG, KVM_RESET_DIRTY_RINGS};
use crate::vm::errno::Errno;

/// The error of `KVM_GET_DIRTY_LOG` for a slot that does not exist. There is no
/// buffer, so the error is EFAULT if the slot does exist.
pub(crate) fn dirty_log_refusal(vm: &VmFd, slot: u32) -> Errno {
    let log = kvm_dirty_log {
        slot,
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
            dirty_bitmap: null_mut(),
        },
    };
    // SAFETY: `log` has the layout that the ioctl takes, and is only read. The
    // bitmap is the null pointer, to which the kernel copies nothing.
    match unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &log) } {
        0 => Errno::EFAULT,
        _ => Errno::last(),
    }
}

/// `KVM_CLEAR_DIRTY_LOG`.
pub(crate) fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    first_page: u64,
    num_pages: u32,
    bitmap: &[u64],
) -> Result<(), Errno> {
    if (bitmap.len() as u64) < u64::from(num_pages).div_ceil(64) {
        return Err(Errno::EINVAL);
    }
    let log = kvm_clear_dirty_log {
        slot,
        num_pages,
        first_page,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: bitmap.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY: `log` has the layout that the ioctl takes, and is only read. Of
    // the bitmap the kernel only reads too (`copy_from_user` in
    // `kvm_clear_dirty_log_protect`): `num_pages` bits rounded up to words,
    // which `bitmap` has, as checked above.
    match unsafe { ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG(), &log) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// `KVM_RESET_DIRTY_RINGS`.
pub(crate) fn reset_dirty_rings(vm: &VmFd) -> Result<u32, Errno> {
    // SAFETY: the ioctl takes no argument.
    let count = unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) };
    u32::try_from(count).map_err(|_| Errno::last())
}
