// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `vmm boot --confidential` needs besides an ordinary boot.
//!
//! The VM is a `KVM_X86_SW_PROTECTED_VM`. [`ram`] backs RAM with a guest_memfd, and
//! makes all of it private except a staging area, the only RAM that the VMM can
//! fill. So the ordinary loader writes to scratch memory, and [`image`] packs what it
//! wrote into the staging area, with code that unpacks it ([`stub`]):
//!
//! ```text
//! vCPU ─► loader, in the staging area: copies each piece to private RAM and compares
//!      │                               the checksum of the copy
//!      ─► trampoline, in private RAM:  on private page tables, makes the staging area
//!      │                               private by hypercall
//!      ─► kernel, at its 64-bit entry: all RAM is private
//! ```
//!
//! A failure of the code is reported on a port ([`fault`]). The kernel finds out by
//! [`cpuid`] that its memory is private. KVM does not decode instructions in private
//! memory, so the kernel makes accesses that trap through the [`doorway`].
//!
//! The checksums show that the pieces arrived. They do not protect the guest: the host
//! wrote them into the same area.

pub mod cpuid;
pub mod doorway;
pub mod fault;
pub mod image;
pub mod ram;
pub mod staged;
pub mod stub;
