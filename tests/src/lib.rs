// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hardware tests, and the tools that they share.
//!
//! Each test names what it needs of the machine ([`needs::Need`]). If something
//! is missing, the test is skipped with the reason. [`hardware::all`] lists the
//! tests. `cargo test` runs them through `hardware.rs`, and `cargo xtask hw-test`
//! through the program `hw-tests`, which can also be copied to another machine.
//!
//! | module | what it tests |
//! | --- | --- |
//! | [`boot`] | an ordinary Linux drives devices with its own drivers |
//! | [`conformance`] | what the kernel's own selftests assert, on the real and the simulated KVM |
//! | [`differential`] | random operations on both KVMs, and a comparison of the answers |
//! | `dirty` | dirty logs and rings |
//! | [`end_to_end`] | private MMIO: a guest drives a device that the host cannot map |
//! | `file_attributes` | the ioctl that sets attributes of a guest_memfd's pages, by its bytes |
//! | `guest_code` | the guest's instructions and page tables |
//! | `guest_sees` | what running vCPUs see of a commit |
//! | `kvm_vm` | how `KvmVm` creates a VM, and the width of its addresses |
//! | `pre_fault` | mapping memory before the guest accesses it |
//! | [`selftests`] | the kernel's own selftests, unmodified |
//! | [`syscalls`] | the system calls of each operation, compared with the documentation |
//! | `vcpu_gate` | the gate that holds running vCPUs |
//! | [`vfio`] | real devices: regions, interrupts, resets, DMA |
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`hardware`] | the list of all tests |
//! | [`needs`] | what a test needs, and whether this machine has it |
//! | [`subject`] | one VM with one guest, real or simulated |
//! | [`backends`] | runs a machine file on several backends |
//! | [`like_host`] | a simulated kernel that is like this host's |
//! | `check` | assertions that return a message |
//! | `random` | pseudo-random numbers |
//! | [`vcpu`] | guests: programs, their instructions, and vCPUs that start them |

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod backends;
pub mod boot;
#[cfg(target_arch = "x86_64")]
mod boot_image;
mod check;
pub mod conformance;
pub mod differential;
mod dirty;
pub mod end_to_end;
mod file_attributes;
mod guest_code;
pub mod guest_sees;
pub mod hardware;
mod kvm_stats;
mod kvm_vm;
pub mod like_host;
pub mod needs;
pub mod pre_fault;
mod random;
pub mod selftests;
pub mod subject;
pub mod syscalls;
pub mod vcpu;
mod vcpu_gate;
pub mod vfio;

/// The Rust examples of README.md, ARCHITECTURE.md and docs/.
#[cfg(doctest)]
#[doc = include_str!(concat!(env!("OUT_DIR"), "/examples.md"))]
pub struct Examples;
