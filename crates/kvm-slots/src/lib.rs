// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans, applies and rolls back KVM memslot changes from a description of guest
//! memory.
//!
//! A VMM describes the memory that the guest reaches directly as lists of
//! [`SlotRange`]s: all of it, or what changes. This crate plans the fewest
//! memslot operations that KVM's rules allow, applies them, and rolls them back
//! if one is refused. Memory need not have a host address: a slot can be on a
//! guest_memfd alone, or, on kernels with a patch for it, on a device's file.
//!
//! ```text
//! SlotRange ──┐
//!             ├─ plan ─> Plan of Ops ─ apply ─> Vm (KvmVm or SimVm)
//! SlotTable ──┘                          │
//!     ^──────── each op that succeeded ──┘
//! ```
//!
//! # Example
//!
//! A guest moves a BAR that is memory. `Paper` stands for [`KvmVm`].
//!
//! ```
//! use std::os::fd::OwnedFd;
//! use kvm_slots::kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
//! use kvm_slots::{
//!     AbiProfile, SlotBacking, Errno, GuestMemfdFlags, HostMemory, Op, SlotAccess, SlotRange, Slots, Vm,
//! };
//! # use kvm_slots::AddressBits;
//! # struct Paper;
//! # impl Vm for Paper {
//! #     fn check_extension(&self, capability: u32) -> i32 {
//! #         (capability == kvm_slots::kvm_bindings::KVM_CAP_USER_MEMORY2).into()
//! #     }
//! #     unsafe fn set_user_memory_region2(&self, _: &kvm_userspace_memory_region2) -> Result<(), Errno> { Ok(()) }
//! #     unsafe fn set_user_memory_region(&self, _: &kvm_userspace_memory_region) -> Result<(), Errno> { Ok(()) }
//! #     fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> { Err(Errno::ENOTTY) }
//! #     fn set_memory_attributes(&self, _: u64, _: u64, _: u64) -> Result<(), Errno> { Err(Errno::ENOTTY) }
//! #     fn address_bits(&self) -> Option<AddressBits> { Some(AddressBits::Exact(46)) }
//! # }
//!
//! // SAFETY: no one else makes slots of this VM.
//! let mut slots = unsafe { Slots::new(Paper, AbiProfile::None) };
//!
//! // In a VMM this is `HostMemory::new`, with the owner of a mapping.
//! let memory = HostMemory::placeholder(0x10_0000).ok_or("empty")?;
//! let bar = |gpa| {
//!     SlotRange::new(gpa, SlotAccess::ReadWrite, SlotBacking::Host(memory.clone()))
//! };
//!
//! let first = slots.plan(&[bar(0xe000_0000)?])?;
//! slots.apply(&first)?;
//! assert_eq!(slots.table().len(), 1);
//!
//! let moved = slots.plan(&[bar(0xf000_0000)?])?;
//! assert!(matches!(moved.ops(), [Op::Move { .. }]));
//! assert_eq!(moved.ops()[0].to_string(), "MOVE slot 0 from 0xe0000000 to 0xf0000000");
//! assert!(!moved.holds_vcpus());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How data flows
//!
//! A VMM starts with [`Slots`]. It owns the VM, its [`Capabilities`], its
//! [`AbiProfile`] and the [`SlotTable`] of current slots.
//!
//! - [`Slots::plan`] plans from all memory of the guest. It is a pure function of
//!   the table and refuses what KVM cannot do. The module [`plan`] has the same
//!   function without a VM, and KVM's rules.
//! - [`Slots::plan_change`] produces the same plan from the removed and added
//!   ranges; its cost depends on the change, not on the number of slots.
//! - [`Slots::apply`] makes one ioctl for each [`Op`]. The table follows each
//!   operation that succeeds, so it stays true after a failure.
//! - [`Slots::undo`] rolls a successful plan back later, from its [`Applied`].
//! - Dropping [`Slots`] deletes the slots.
//!
//! If an operation fails or a [`Vm`] panics, the earlier operations are rolled
//! back. The [`ApplyError`] names each step that could not be rolled back, and
//! each step that this blocks. A step whose slot is not in the expected state is
//! skipped, because KVM would interpret the ioctl as a different operation.
//!
//! With the feature `memory-model`, `slot_ranges` converts a flat view of that
//! crate to ranges. `SlotListener` keeps a VM's slots in sync with such a view. It
//! plans from the changes of a transaction, and holds vCPUs by [`HoldVcpus`] where
//! a plan requires it.
//!
//! # Modules
//!
//! | module | what it does |
//! | --- | --- |
//! | [`plan`] | plans without a VM; KVM's rules |
//! | [`convert`] | converts pages between private and shared |
//! | [`dirty`] | tracks the pages that the guest and the VMM write |
//! | [`probe`] | checks whether a kernel has the ABI of a profile |
//! | `vcpu_gate` | holds the vCPUs of a real VM |
//! | `sim` | simulates a KVM of a chosen version |
//! | `state` | slots and page states as data, for snapshots (with `serde`) |
//! | `rebuild` | gives a guest's memory to a new VM (with `memory-model`) |
//! | [`exit`], [`push`], [`uapi`] | types for exits, push-style mapping, and KVM's interface |
//!
//! # What a running guest sees
//!
//! At each address, a running guest sees the memory before a change or the memory
//! after it, and nothing else, even if the change is refused halfway.
//! `SlotListener` guarantees that. The documentation of `memory_model::ViewReader`
//! has the code for a vCPU thread whose exit races with a change.
//!
//! Callers of [`Slots::apply`] hold vCPUs themselves: from before the call until
//! the threads that answer exits look addresses up in the new memory.
//! `vcpu_gate::VcpuGate` holds the vCPUs of a real VM.
//!
//! The tests named `guest_sees` check this guarantee. On the simulated KVM they
//! try every interleaving of an access and a commit in small worlds. On the real
//! KVM, vCPUs access all of memory while it changes.
//!
//! # Unsafe code
//!
//! A memslot lets a guest read and write memory of the process behind the
//! compiler's back. Two constructors are `unsafe`, and all later calls are safe:
//!
//! - [`HostMemory::new`]: its caller guarantees that the guest may access these
//!   bytes while their owner lives. In return, no slot outlives its owner.
//! - [`Slots::new`]: its caller guarantees that no one else makes slots of the VM.
//!
//! The calls of [`Vm`] that lead to the ioctls are `unsafe` as well, and so is the
//! trait [`GuestPages`](convert::GuestPages). [`probe_abi()`](probe::probe_abi())
//! requires that no vCPU runs during the call.
//!
//! The remaining `unsafe` blocks make single system calls, copy from and to host
//! memory in the simulation, and access dirty rings and `kvm_run` with atomics.
//!
//! # Features
//!
//! - `memory-model` (default): flat views of the crate `memory-model` as input.
//! - `serde`: the module `state`, slots and page states as data.
//! - `sim`: `sim::SimVm`, a simulated KVM of a chosen version. It answers the memory
//!   ioctls with the kernel's checks in the kernel's order, and resolves guest
//!   accesses. guest_memfds can be punched, mapped, closed and pre-faulted.
//! - `vcpu-gate`: `vcpu_gate::VcpuGate` implements [`HoldVcpus`] for the vCPUs of
//!   a real VM.
//! - `dirty-ring`: `dirty::VcpuDirtyRing` maps the dirty rings of a real VM. Dirty logs
//!   need no feature.
//! - `vm-memory`: `SlotRange::of_guest_memory` takes a `GuestMemoryMmap` of the crate
//!   `vm-memory`. With `memory-model`, `SharedMemoryListener` of that crate follows
//!   conversions.
//!
//! # What this crate does not do yet
//!
//! - Track the writes of devices (VFIO).
//! - Protect pages again only when a client takes them: a collection protects all
//!   dirty pages.
//! - Retry discards that the kernel refused.
//! - Move private pages together with memory that a transaction of `memory-model`
//!   moves. That model keeps them by address, and so does `SlotListener`. A VMM
//!   that plans without it can: [`Change`].
//! - Use address spaces other than 0 (SMM).
// Names the feature of each item on docs.rs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(missing_docs)]

mod abi;
pub mod convert;
pub mod dirty;
pub mod exit;
#[cfg(feature = "vm-memory")]
mod guest_memory;
pub mod plan;
pub mod probe;
pub mod push;
mod range;
#[cfg(feature = "memory-model")]
pub mod rebuild;
#[cfg(feature = "sim")]
pub mod sim;
mod slots;
#[cfg(feature = "serde")]
pub mod state;
pub mod uapi;
mod unsupported;
#[cfg(feature = "vcpu-gate")]
pub mod vcpu_gate;
mod vm;

pub use abi::{AbiProfile, ParseAbiError};
#[cfg(feature = "vm-memory")]
pub use guest_memory::GuestMemoryRangeError;
pub use guest_ranges::{AddrRange, FileSlice, HostMemory, PageSet, PageSize};
#[cfg(feature = "memory-model")]
pub use memory_model;
pub use plan::change::Change;
pub use plan::error::PlanError;
pub use plan::op::Op;
pub use plan::outcome::Plan;
pub use range::{DeviceFile, RangeError, SlotAccess, SlotBacking, SlotRange};
pub use slots::Slots;
pub use slots::apply::{Applied, ApplyError, NotUndone};
pub use slots::hold::{HoldVcpus, VcpusStopped};
#[cfg(feature = "memory-model")]
pub use slots::listener::{FollowError, MemslotsDiffer, SlotListener};
pub use slots::rules::SlotRules;
pub use slots::slot::{Slot, SlotId};
pub use slots::step::StepError;
pub use slots::table::SlotTable;
#[cfg(feature = "memory-model")]
pub use slots::view::slot_ranges;
pub use unsupported::Unsupported;
pub use vm::address_bits::AddressBits;
#[cfg(target_arch = "aarch64")]
pub use vm::address_bits::aarch64::vm_type_address_bits;
#[cfg(target_arch = "x86_64")]
pub use vm::address_bits::x86_64::cpuid_address_bits;
pub use vm::caps::Capabilities;
pub use vm::errno::Errno;
pub use vm::file_attributes::FileAttributesError;
pub use vm::kvm::KvmVm;
pub use vm::{GuestMemfdFlags, Vm};
#[cfg(feature = "vm-memory")]
pub use vm_memory;
pub use {kvm_bindings, kvm_ioctls};

/// The examples of the README.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../README.md")]
struct Readme;
