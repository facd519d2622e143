// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The parts of KVM's interface that kvm-bindings and kvm-ioctls lack.

pub use crate::vm::ioctl::{PreFaultError, pre_fault_memory};

/// `KVM_CAP_GUEST_MEMFD_FLAGS` (Linux 6.18), which kvm-bindings 0.14 lacks.
pub const KVM_CAP_GUEST_MEMFD_FLAGS: u32 = 244;

/// `KVM_CAP_MEM_BACKING_FD` of this project's kernel patch: the kinds of files that
/// slots without a host address can be on, by
/// [`AbiProfile::FD_OFFSET_BIT_4`](crate::AbiProfile::FD_OFFSET_BIT_4). One bit for
/// each kind. No released kernel has it, and another patch may use the number for
/// something else; [`probe_abi`](crate::probe::probe_abi()) checks the ABI itself.
pub const KVM_CAP_MEM_BACKING_FD: u32 = 0x6664;

/// The kind of file for a dma-buf that VFIO exports
/// ([`KVM_CAP_MEM_BACKING_FD`]).
pub const KVM_BACKING_FD_VFIO_DMABUF: u32 = 1 << 0;

/// `KVM_HC_MAP_GPA_RANGE`: the hypercall by which a guest converts pages
/// ([`Request::hypercall`](crate::convert::Request::hypercall)).
pub const HYPERCALL_MAP_GPA_RANGE: u8 = 12;

/// `KVM_MEMORY_ATTRIBUTE_PRIVATE`: the guest's page is private.
pub const MEMORY_ATTRIBUTE_PRIVATE: u64 = 1 << 3;
