// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The errors with which the kernel can refuse a valid operation.

use kvm_slots::{Errno, Op, SlotBacking};

/// The errors of the call that carries `op` out, by the order of the kernel's
/// checks (`kvm_vm_ioctl`, `kvm_set_memory_region` and what it calls, 7.3).
///
/// | where | error | for |
/// | --- | --- | --- |
/// | the ioctl's entry: a VM of another process, or a dead one | EIO | all |
/// | copy from user | EFAULT | all |
/// | flags, numbers, kinds of slots; addresses beyond the guest's | EINVAL | all |
/// | the copy of a slot before it is deleted or moved; the new slot and what the architecture keeps of it; the dirty bitmap | ENOMEM | all |
/// | another slot has one of the addresses | EEXIST | CREATE, MOVE |
/// | another slot has the same part of the guest_memfd (7.3) | EEXIST | CREATE on a guest_memfd |
/// | no such descriptor | EBADF | CREATE on a file |
/// | the device was removed, or its exporter refuses importers | ENODEV, EOPNOTSUPP | CREATE on a device's file |
///
/// A push-style platform may refuse with any of them.
pub fn possible(op: &Op) -> Vec<Errno> {
    let mut errnos = vec![Errno::EIO, Errno::EFAULT, Errno::EINVAL, Errno::ENOMEM];
    match op {
        Op::Delete(_) | Op::SetFlags { .. } | Op::SetPrivate { .. } => {}
        Op::Move { .. } => errnos.push(Errno::EEXIST),
        Op::Create(slot) => {
            errnos.push(Errno::EEXIST);
            match slot.backing() {
                SlotBacking::Host(_) => {}
                SlotBacking::GuestMemfd { .. } => errnos.push(Errno::EBADF),
                SlotBacking::FdOffset(_) => {
                    errnos.extend([Errno::EBADF, Errno::ENODEV, Errno::EOPNOTSUPP]);
                }
                unknown => panic!("no errors are known for {unknown}"),
            }
        }
        unknown => panic!("no errors are known for {unknown}"),
    }
    errnos
}
