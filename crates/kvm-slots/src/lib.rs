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
//! # How data flows
//!
//! ```text
//! SlotRange ──┐
//!             ├─ plan ─> Plan of Ops ─ apply ─> Vm (KvmVm or SimVm)
//! SlotTable ──┘                          │
//!     ^──────── each op that succeeded ──┘
//! ```
//!
//! [`Slots`] is where a VMM starts. It has the VM, its [`Capabilities`], its
//! [`AbiProfile`] and the [`SlotTable`], which has the slots as they are.
//!
//! [`Slots::plan`] decides, touches nothing, and refuses what cannot be done.
//! [`Slots::plan_change`] produces the same plan from the removed and added
//! ranges; its cost depends on the change, not on the number of slots.
//! [`Slots::apply`] makes one ioctl for each [`Op`]. The table follows each that
//! succeeds, so it stays true after a failure.
//!
//! After a failure, or a panic of the [`Vm`], the steps before it are rolled
//! back. The [`ApplyError`] names each step that could not be rolled back, and
//! each that this blocks: a step whose slot is not in the expected state is
//! skipped, because KVM would interpret the ioctl as a different operation.
//! [`Slots::undo`] rolls a successful plan back later, from its [`Applied`].
//! Dropping [`Slots`] deletes the slots.
//!
//! Planning is a pure function of the table: [`plan`] has it for a VM that is
//! not there.
//!
//! With the feature `memory-model`, `slot_ranges` converts a flat view of that
//! crate to ranges. `SlotListener` keeps a VM's slots in step with such a view:
//! it plans from what a transaction changes, and holds vCPUs by [`HoldVcpus`]
//! where a plan requires it.
//!
//! # What a running guest sees
//!
//! At each address, a running guest sees the memory before a change or the memory
//! after it, and nothing else, even if the change is refused halfway.
//! `SlotListener` guarantees that. The documentation of `memory_model::ViewReader`
//! has the code for a vCPU thread whose exit races with a change. Callers of
//! [`Slots::apply`] hold vCPUs themselves: from before the call until the
//! threads that answer exits look addresses up in the new memory.
//! `vcpu_gate::VcpuGate` holds the vCPUs of a real VM.
//!
//! The tests named `guest_sees` check this guarantee. On the simulated KVM they
//! try every interleaving of an access and a commit in small worlds. On the real
//! KVM, vCPUs access all of memory while it changes.
//!
//! # Private pages
//!
//! Slots do not track which pages are private; see [`convert`]. Its engine takes
//! a guest's request (a hypercall, a memory fault or the acceptance of private
//! MMIO) and finds the pages that really change. It notifies listeners, sets
//! KVM's attributes, discards stale bytes, and rolls everything back if a step
//! fails.
//!
//! # KVM's rules
//!
//! | KVM | so the planner |
//! | --- | --- |
//! | a slot on host memory can change its address | moves it: one [`Op::Move`], and nothing is unmapped meanwhile |
//! | and can start or stop to log dirty pages | one [`Op::SetFlags`] |
//! | it cannot change size, host address or access | deletes and recreates it |
//! | a slot on a file can only be deleted | deletes and recreates it, whatever changed |
//! | slots never overlap, not even for a moment | deletes what is in the way first, and orders moves so that each finds its place free |
//! | any operation can fail | creates the slots that find room before it deletes or moves any, so that a failure takes nothing from the guest |
//! | that leaves cycles of moves | breaks cycles by deleting and recreating as few slots as possible |
//! | a slot has at most 2^31 - 1 pages | cuts what is larger into slots, always in the same way, so that they move one by one: [`SlotRules`] |
//! | a slot is made of whole pages | cuts ranges to pages and lists the rest as [`Plan::trapped`] |
//! | guest and host address agree within a page | refuses what does not: [`Unsupported::Misaligned`] |
//! | a slot on a file is neither read-only nor logged | refuses that: [`PlanError::Unsupported`], with every such range |
//! | numbers are limited | gives out the lowest first, but none that the VMM reserves ([`SlotRules`]), and refuses what does not fit: [`PlanError::TooManySlots`] |
//! | private pages are kept by guest-physical address, with or without a slot | leaves them alone, or has them follow what moves: [`Change`], [`Op::SetPrivate`] |
//! | there is no operation on two slots at once | reports when vCPUs must be held, because the plan or its rollback leaves a gap: [`Plan::holds_vcpus`] |
//! | a guest has addresses of limited width, and KVM refuses slots beyond with EINVAL | refuses them itself, as far as it knows the width: [`PlanError::BeyondAddresses`], [`Capabilities::address_bits`] |
//!
//! A slot that stays as it is costs nothing: there is no operation for it. No
//! plan is longer than the shortest that works. The tests make sure of that for
//! every change from anything to anything in some small worlds; a change so
//! tangled that the search for the shortest would take more than some
//! milliseconds gets a plan that works and may be longer.
//!
//! # Memory without a host address
//!
//! A device's registers that only the guest may touch have a file and no host
//! address ([`Backing::FdOffset`]). No released kernel takes that; the proposals
//! differ, and an [`AbiProfile`] says which one it is: by a descriptor and an
//! offset in the padding, by the KVM RFCs' whole dma-buf, or push-style by a call
//! of the platform's ([`PushMap`](push::PushMap)). What a profile cannot express
//! is [`Unsupported`], with its reason. [`probe_abi()`](probe::probe_abi()) finds
//! out whether a kernel has the ABI: it makes slots, and sees to it that what
//! must be refused is refused, with the error that is due. A kernel that has
//! given the profile's flag bit another meaning is told apart.
//!
//! # Dirty pages
//!
//! ```text
//! guest ── KVM's logs or rings ── DirtyCollector ─┐
//!               ^ read before an Op that          ├─ DirtyTracker ─ DirtyClient ─> DirtyPages
//!               │ would take the log away         │
//! VMM and its devices ─── mark ───────────────────┘
//! ```
//!
//! A [`DirtyCollector`](dirty::DirtyCollector) brings what KVM logged to a
//! [`DirtyTracker`](dirty::DirtyTracker), by one of three
//! [`DirtyMode`](dirty::DirtyMode)s; the VMM adds what it wrote itself
//! ([`DirtyTracker::mark`](dirty::DirtyTracker::mark)). Each
//! [`DirtyClient`](dirty::DirtyClient), a display or a migration, takes every
//! page once for each time that it was written since.
//!
//! Pages are known by their **host address**, because it is the memory that was
//! written, wherever it shows. So nothing is lost or reported under a wrong
//! address when a slot moves, is split, or is deleted;
//! [`DirtyPages::in_slot`](dirty::DirtyPages::in_slot) says where a page is now.
//!
//! | KVM | so the collector |
//! | --- | --- |
//! | a log ends with its slot or its flag: [`Op::ends_log`] | reads it first; if it cannot, the operation is refused |
//! | what is written between that and the operation is lost | cannot help: hold vCPUs for such a plan, [`Plan::ends_log`] |
//! | a slot that moves takes its log along | leaves it |
//! | ring entries name slots by number, and numbers are given out again | empties the rings before a slot is deleted |
//! | a page that was read but not yet protected again is written without a trace | protects first, and only then lets clients take the page |
//! | clearing wants multiples of 64 pages, or the end of the slot, and holds the MMU lock | clears what is dirty in calls of at most 2^18 pages |
//! | rings exclude logs, and must be there before the first vCPU | has one mode for the life of a VM |
//! | guest_memfd and private MMIO have no log | lists such slots with the reason: [`SlotTable::unlogged`] |
//!
//! The collector is the [`BeforeOp`](dirty::BeforeOp) of [`Slots::with_watcher`].
//!
//! # Example
//!
//! A guest moves a BAR that is memory. `Paper` stands for [`KvmVm`] here.
//!
//! ```
//! use std::os::fd::OwnedFd;
//! use kvm_slots::kvm_bindings::{kvm_userspace_memory_region, kvm_userspace_memory_region2};
//! use kvm_slots::{
//!     AbiProfile, Backing, Errno, GuestMemfdFlags, HostMemory, Op, SlotAccess, SlotRange, Slots, Vm,
//! };
//! # struct Paper;
//! # impl Vm for Paper {
//! #     fn check_extension(&self, capability: u32) -> i32 {
//! #         (capability == kvm_slots::kvm_bindings::KVM_CAP_USER_MEMORY2).into()
//! #     }
//! #     unsafe fn set_user_memory_region2(&self, _: &kvm_userspace_memory_region2) -> Result<(), Errno> { Ok(()) }
//! #     unsafe fn set_user_memory_region(&self, _: &kvm_userspace_memory_region) -> Result<(), Errno> { Ok(()) }
//! #     fn create_guest_memfd(&self, _: u64, _: GuestMemfdFlags) -> Result<OwnedFd, Errno> { Err(Errno::ENOTTY) }
//! #     fn set_memory_attributes(&self, _: u64, _: u64, _: u64) -> Result<(), Errno> { Err(Errno::ENOTTY) }
//! #     fn address_bits(&self) -> Option<u32> { Some(46) }
//! # }
//!
//! // SAFETY: no one else makes slots of this VM.
//! let mut slots = unsafe { Slots::new(Paper, AbiProfile::None) };
//!
//! // In a VMM this is `HostMemory::new`, with the owner of a mapping.
//! let memory = HostMemory::placeholder(0x10_0000).ok_or("empty")?;
//! let bar = |gpa| {
//!     SlotRange::new(gpa, SlotAccess::ReadWrite, Backing::Host(memory.clone()))
//! };
//!
//! let first = slots.plan(&[bar(0xe000_0000)?])?;
//! let _ = slots.apply(&first)?;
//! assert_eq!(slots.table().len(), 1);
//!
//! let moved = slots.plan(&[bar(0xf000_0000)?])?;
//! assert!(matches!(moved.ops(), [Op::Move { .. }]));
//! assert_eq!(moved.ops()[0].to_string(), "MOVE slot 0 from 0xe0000000 to 0xf0000000");
//! assert!(!moved.holds_vcpus());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Unsafe code
//!
//! A memslot lets a guest read and write memory of the process behind the
//! compiler's back. Host memory is vouched for where it enters, and only there:
//! [`HostMemory::new`] is `unsafe`, and its caller promises that the guest may have
//! these bytes while their owner lives. In return no slot outlives its owner.
//! [`Slots::new`] is `unsafe` because only its caller knows that no one else makes
//! slots of the VM. Everything that follows is safe code: planning, applying,
//! listeners, conversions.
//!
//! The calls that lead to the ioctls are `unsafe` as well:
//! [`Vm::set_user_memory_region2`], the older [`Vm::set_user_memory_region`] and
//! [`Vm::discard`]. Implementors of [`GuestPages`](convert::GuestPages) vouch for
//! the memory that they yield.
//! [`probe_abi()`](probe::probe_abi()) requires that no vCPU runs during the call.
//!
//! The remaining `unsafe` blocks make single system calls: `sysconf`, `fstat`,
//! ioctls that kvm-ioctls lacks, taking ownership of descriptors just made, and in the
//! simulation copies from and to host memory, in which a bad address is an error
//! and no fault, and calls on the files that stand for guest_memfds. `vcpu_gate`
//! sets one byte of a vCPU's `kvm_run`, by an atomic, and sends signals. Another
//! block reads a dirty ring by atomics, as the kernel writes it at the same time.
//! [`KvmVm`] knows how long a slot's log is because it made the slot.
//!
//! # Features
//!
//! - `memory-model` (default): flat views of the crate `memory-model` as input.
//! - `sim`: `sim::SimVm`, a simulated KVM of a chosen version that answers the
//!   memory ioctls with the kernel's checks in the kernel's order, and resolves
//!   guest accesses. guest_memfds are punched, mapped, closed and pre-faulted
//!   by the kernel's rules, too.
//! - `vcpu-gate`: `vcpu_gate::VcpuGate` implements [`HoldVcpus`] for the vCPUs of
//!   a real VM.
//!
//! # What this crate does not do yet
//!
//! - Track writes by rings where the kernel needs a log beside them (Arm):
//!   [`DirtyCapabilities::ring_needs_log`](dirty::DirtyCapabilities::ring_needs_log) says so. Track what devices write by
//!   themselves (VFIO).
//! - Protect pages again only when a client takes them: a collection does it for
//!   all pages that it finds dirty.
//! - Convert where KVM is not notified by attributes: a guest_memfd that is
//!   converted by ioctls of its own, as proposed for in-place conversion, and
//!   Arm CCA's and TDX's own calls.
//! - Discard again what the kernel did not give up.
//! - Have private pages follow memory that a transaction of `memory-model` moves:
//!   that model keeps them by address, and so does `SlotListener`. A VMM that plans
//!   without it can: [`Change`].
//! - Use address spaces other than 0 (SMM).
#![deny(missing_docs)]

mod abi;
mod address_bits;
mod apply;
mod caps;
pub mod convert;
pub mod dirty;
mod discard;
mod errno;
pub mod exit;
mod file_size;
mod hold;
mod ids;
mod interrupted;
mod ioctl;
mod kvm;
#[cfg(feature = "memory-model")]
mod listener;
pub mod plan;
pub mod probe;
pub mod push;
mod range;
mod rules;
#[cfg(feature = "sim")]
pub mod sim;
mod slot;
mod slots;
mod step;
mod table;
pub mod uapi;
mod unsupported;
#[cfg(feature = "vcpu-gate")]
pub mod vcpu_gate;
#[cfg(feature = "memory-model")]
mod view;
mod vm;

pub use abi::{AbiProfile, ParseAbiError};
#[cfg(target_arch = "x86_64")]
pub use address_bits::cpuid_address_bits;
pub use apply::{Applied, ApplyError, NotUndone};
pub use caps::Capabilities;
pub use errno::Errno;
pub use guest_ranges::{FileSlice, HostMemory};
pub use hold::{HoldVcpus, VcpusStopped};
pub use kvm::KvmVm;
#[cfg(feature = "memory-model")]
pub use listener::{FollowError, SlotListener};
pub use plan::change::Change;
pub use plan::error::PlanError;
pub use plan::op::Op;
pub use plan::outcome::Plan;
pub use range::{Backing, DeviceFile, RangeError, SlotAccess, SlotRange};
pub use rules::SlotRules;
pub use slot::{Slot, SlotId};
pub use slots::Slots;
pub use step::StepError;
pub use table::SlotTable;
pub use unsupported::Unsupported;
#[cfg(feature = "memory-model")]
pub use view::slot_ranges;
pub use vm::{GuestMemfdFlags, Vm};
pub use {kvm_bindings, kvm_ioctls};

/// The examples of the README.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../README.md")]
struct Readme;
