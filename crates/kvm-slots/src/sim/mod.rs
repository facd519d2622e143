// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated KVM: [`SimVm`] answers memory ioctls as a kernel of a chosen
//! version would, and resolves a guest's loads and stores as KVM does.
//!
//! It is for developing and testing a VMM where there is no `/dev/kvm`, or not
//! the one that one would like to have. Host memory in its slots is the real
//! memory of the process; guest_memfds and the dma-bufs of devices are
//! anonymous files. [`SimVm::memslots`] shows what the kernel has.
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
//! The descriptor of a simulated guest_memfd is one of an ordinary anonymous
//! file, which takes system calls that a guest_memfd does not. A VMM that is to
//! be told so goes by [`SimVm::file_call`] and [`SimVm::map_file`]. Closing is
//! noticed by itself: when the last descriptor and the last mapping are gone,
//! the slots of a guest_memfd stay and have no backing, as in the kernel.
//!
//! A guest has one vCPU, and one dirty ring if there are any.

mod access;
mod dirty;
mod dirty_calls;
mod dirty_ring;
mod files;
mod guest_memfd;
mod host;
mod inspect;
mod kernel;
mod mapping;
mod memslots;
mod mmio_entries;
mod pre_fault;
mod push_map;
mod pushed;
mod reach;
mod vcpu_ring;
mod vm;

pub use guest_memfd::{FileCall, Sharing};
pub use inspect::SimMemslot;
pub use kernel::{KernelVersion, SimConfig, VmType};
pub use mapping::GuestMemfdMapping;
pub use pre_fault::PreFault;
pub use vcpu_ring::SimDirtyRing;
pub use vm::SimVm;
