// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Simulates a KVM: [`SimVm`] answers memory ioctls like a kernel of a chosen
//! version, and resolves a guest's loads and stores like KVM.
//!
//! Use it to develop and test a VMM without `/dev/kvm`, or for other kernel versions.
//! Host memory in its slots is real memory of the process. guest_memfds and the
//! dma-bufs of devices are anonymous files. [`SimVm::memslots`] lists the kernel's
//! slots.
//!
//! ```
//! use kvm_slots::exit::MmioHandler;
//! use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
//! use kvm_slots::{Capabilities, GuestMemfdFlags, Vm};
//!
//! struct Ones;
//! impl MmioHandler for Ones {
//!     fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) { data.fill(0xff) }
//!     fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
//! }
//!
//! let vm = SimVm::new(SimConfig::released(KernelVersion::V6_18));
//! assert!(Capabilities::probe(&vm).guest_memfd);
//! let mut byte = [0];
//! vm.guest_load(0x1000, &mut byte, &mut Ones)?; // no slot: an MMIO exit
//! assert_eq!(byte, [0xff]);
//! # Ok::<(), kvm_slots::exit::GuestFault>(())
//! ```
//!
//! # Files
//!
//! The descriptor of a simulated guest_memfd is an ordinary anonymous file, which
//! supports system calls that a guest_memfd does not. [`SimVm::file_call`] and
//! [`SimVm::map_file`] return the errors of a guest_memfd. The simulation notices
//! when a file is closed: after the last descriptor and mapping are dropped, the
//! slots of a guest_memfd stay without a backing, as in the kernel.
//!
//! # Architectures
//!
//! The simulated machine has an [`Arch`] and a [`PageSize`](crate::PageSize), whatever
//! machine runs the simulation. [`SimConfig::released`] is a kernel with the default ones.
//!
//! A guest has one vCPU, and at most one dirty ring.

mod access;
mod arch;
mod dirty;
mod dirty_calls;
mod dirty_ring;
mod file_attributes;
mod file_pages;
mod files;
mod guest_memfd;
mod host;
mod inspect;
mod kernel;
mod mapping;
mod memslots;
mod mmio_entries;
mod platform;
mod pre_fault;
mod push_map;
mod pushed;
mod reach;
mod validate;
mod vcpu_ring;
mod vm;
mod without_vcpu;

pub use arch::{Aarch64, Arch};
pub use file_pages::PagePin;
pub use guest_memfd::{FileCall, Sharing};
pub use inspect::SimMemslot;
pub use kernel::{KernelVersion, SimConfig, VmType};
pub use mapping::GuestMemfdMapping;

pub use pre_fault::PreFault;
pub use vcpu_ring::SimDirtyRing;
pub use vm::SimVm;
