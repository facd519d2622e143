// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the memory that a guest is to reach directly to KVM memslots: plan,
//! apply, undo.
//!
//! A VMM says what it wants, all of it, each time: a list of [`SlotRange`]s.
//! This crate finds the memslot operations that lead there from what the VM
//! has, by KVM's rules and with none to spare, carries them out, and takes them
//! back if one is refused. Memory need not have a host address: a slot can be on a
//! guest_memfd alone, or, on kernels with a patch for it, on a device's file.
//!
//! # How data flows
//!
//! ```text
//! SlotRange ──┐
//!             ├─ plan ─> Plan of Ops ─ apply ─> Vm (KvmVm or SimVm)
//! SlotTable ──┘                          │
//!     ^──────── each op that succeeded ──┘
//! ```
//!
//! [`plan()`] is a pure function: it decides, touches nothing, and refuses what
//! cannot be done. [`apply()`] makes one ioctl for each [`Op`]; the
//! [`SlotTable`] follows each that succeeds, so that it is true after a failure
//! too. After a failure the steps before it are undone; what the kernel does
//! not take back is named in the [`ApplyError`]. The [`Applied`] of a success
//! is the way back for later: [`undo()`].
//!
//! With the feature `memory-model`, `slot_ranges` makes ranges of a flat view
//! of that crate, and `SlotListener` keeps a VM in step with one, transaction
//! by transaction.
//!
//! # KVM's rules
//!
//! | KVM | so the planner |
//! | --- | --- |
//! | a slot on host memory can change its address | moves it: one [`Op::Move`], and nothing is unmapped meanwhile |
//! | and can start or stop to log dirty pages | one [`Op::SetFlags`] |
//! | it cannot change size, host address or access | deletes it and makes a new one |
//! | a slot on a file can only be deleted | deletes it and makes a new one, whatever changed |
//! | slots never overlap, not even for a moment | deletes first, creates last, and orders moves so that each finds its place free |
//! | that leaves circles of moves | deletes one slot of each circle and makes it anew |
//! | a slot is made of whole pages | cuts ranges to pages and lists the rest as [`Plan::trapped`] |
//! | guest and host address agree within a page | refuses what does not: [`Unsupported::Misaligned`] |
//! | a slot on a file is neither read-only nor logged | refuses that: [`PlanError::Unsupported`], with every such range |
//! | numbers are limited | gives out the lowest first, and refuses what does not fit: [`PlanError::TooManySlots`] |
//! | there is no operation on two slots at once | says when vCPUs must be held: [`Plan::holds_vcpus`] |
//!
//! A slot that stays as it is costs nothing: there is no operation for it.
//!
//! # Example
//!
//! A guest moves a BAR that is memory. `Paper` stands for [`KvmVm`] here.
//!
//! ```
//! use std::os::fd::OwnedFd;
//! use std::sync::Arc;
//! use kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
//! use kvm_slots::{
//!     AbiProfile, Backing, Capabilities, Errno, GuestMemfdFlags, HostMemory, Op, SlotAccess,
//!     SlotRange, SlotTable, Vm, apply, plan,
//! };
//! # struct Paper;
//! # impl Vm for Paper {
//! #     fn check_extension(&self, capability: u32) -> i32 {
//! #         (capability == kvm_bindings::KVM_CAP_USER_MEMORY2).into()
//! #     }
//! #     unsafe fn set_user_memory_region2(&self, _: &kvm_userspace_memory_region2) -> Result<(), Errno> { Ok(()) }
//! #     unsafe fn set_user_memory_region(&self, _: &kvm_userspace_memory_region) -> Result<(), Errno> { Ok(()) }
//! #     fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> { Err(Errno::ENOTTY) }
//! #     fn set_memory_attributes(&self, _: u64, _: u64, _: u64) -> Result<(), Errno> { Err(Errno::ENOTTY) }
//! # }
//!
//! let vm = Paper;
//! let capabilities = Capabilities::probe(&vm);
//! let abi = AbiProfile::None;
//! let mut table = SlotTable::new();
//!
//! // The owner keeps the mapping; in a VMM it unmaps it when dropped.
//! let bar = |gpa| SlotRange {
//!     gpa,
//!     size: 0x10_0000,
//!     access: SlotAccess::ReadWrite,
//!     backing: Backing::Host(HostMemory::new(0x7f00_0000_0000, Arc::new(()))),
//!     log_dirty: false,
//! };
//!
//! let first = plan(&table, &[bar(0xe000_0000)], &capabilities, abi)?;
//! // SAFETY: no guest runs on paper.
//! let _ = unsafe { apply(&vm, &capabilities, abi, &first, &mut table) }?;
//! assert_eq!(table.len(), 1);
//!
//! let moved = plan(&table, &[bar(0xf000_0000)], &capabilities, abi)?;
//! assert!(matches!(moved.ops[..], [Op::Move { .. }]));
//! assert_eq!(moved.ops[0].to_string(), "MOVE slot 0 from 0xe0000000 to 0xf0000000");
//! assert!(!moved.holds_vcpus);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Unsafe code
//!
//! A memslot lets a guest read and write memory of the process behind the
//! compiler's back. Whether it may is known to the caller alone, so the calls
//! that lead to the ioctl are `unsafe`: [`Vm::set_user_memory_region2`] and its
//! elder, [`apply()`], [`undo()`], and the making of a `SlotListener`. They all
//! ask for the same: host ranges are mapped, meant for the guest, and not
//! otherwise used, for as long as their owner lives; and the table, which holds
//! the owners, is kept until the VM is gone. In return no slot outlives its
//! owner. Planning, and all else that decides, is safe code.
//!
//! The remaining `unsafe` blocks make single system calls: `sysconf`, taking
//! ownership of descriptors just made, and in the simulation copies from and to
//! host memory, in which a bad address is an error and no fault, and calls on
//! the files that stand for guest_memfds.
//!
//! # Features
//!
//! - `memory-model` (default): flat views of the crate `memory-model` as input.
//! - `sim`: `sim::SimVm`, a simulated KVM of a chosen version that answers the
//!   memory ioctls with the kernel's checks in the kernel's order, and resolves
//!   guest accesses. guest_memfds are punched, mapped, closed and pre-faulted
//!   by the kernel's rules, too.
//!
//! # What this crate does not do yet
//!
//! - Collect dirty pages: slots can be made to log, but neither the log nor the
//!   ring is read.
//! - Convert pages: there is the ioctl ([`Vm::set_memory_attributes`]), but no
//!   engine that splits ranges, discards the stale side and tells listeners.
//! - Other ABIs for memory without a host address than [`AbiProfile`] has: the
//!   overloaded guest_memfd field, and push-style mapping.
//! - Split ranges: one of 2^31 pages or more is one slot, which KVM refuses.
//! - Follow single changes: a plan looks at all ranges and all slots.
//! - Use address spaces other than 0 (SMM).
#![deny(missing_docs)]

mod abi;
mod apply;
mod caps;
mod errno;
mod kvm;
mod plan;
mod range;
#[cfg(feature = "sim")]
pub mod sim;
mod slot;
mod table;
#[cfg(feature = "memory-model")]
mod view;
mod vm;

pub use abi::{AbiProfile, Unsupported};
pub use apply::{Applied, ApplyError, apply, undo};
pub use caps::{Capabilities, KVM_CAP_GUEST_MEMFD_FLAGS};
pub use errno::Errno;
pub use kvm::KvmVm;
pub use plan::{Op, Plan, PlanError, Remainder, UnsupportedRange, plan};
pub use range::{Backing, FileStart, HostMemory, Owner, SlotAccess, SlotRange};
pub use slot::{Slot, SlotId};
pub use table::SlotTable;
#[cfg(feature = "memory-model")]
pub use view::{FollowError, SlotListener, slot_ranges};
pub use vm::{GuestMemfdFlags, MEMORY_ATTRIBUTE_PRIVATE, Vm};

/// The examples of the README.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../README.md")]
struct Readme;
