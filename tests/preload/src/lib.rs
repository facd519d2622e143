// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A library for tests that programs preload: it answers their system calls on
//! `/dev/kvm` by the simulated KVM of `kvm-slots`. The kernel's own selftests thus
//! hold the simulation to what they assert, without a change to them.
//!
//! ```text
//! LD_PRELOAD=libkvm_preload.so KVM_PRELOAD_SUBTESTS=test_a,test_b \
//!     KVM_PRELOAD_REPORT=FILE ./set_memory_region_test
//! ```
//!
//! | variable | what it is |
//! | --- | --- |
//! | `KVM_PRELOAD_KERNEL` | `6.1`, `6.12`, `6.18` or `7.3`, the default; with `,private` it has private pages |
//! | `KVM_PRELOAD_SUBTESTS` | functions of the program, separated by commas: see below |
//! | `KVM_PRELOAD_REPORT` | the file for the report, whose lines [`report`] describes |
//!
//! # What is not simulated
//!
//! No vCPU is simulated, and few ioctls are. A call that is not ends the function of
//! `KVM_PRELOAD_SUBTESTS` that made it, as if it had returned, and the program goes on
//! with the next one. Without such a function, the process ends. The report says
//! which call it was. A program of which something was ended never exits with
//! status 0: see [`report::EXIT_ENDED`].
//!
//! What a call on a guest_memfd does that is not interposed, such as `fstat`, is the
//! answer of the anonymous file that the simulation uses. `fopen` and duplicates of
//! descriptors are not interposed either: a program that opened `/dev/kvm` in this way
//! would use the real one.
//!
//! # Only on x86-64
//!
//! The functions that programs declare with variable arguments (`open`, `ioctl`) have
//! fixed ones here, which the calling convention of x86-64 permits. On other
//! architectures the library is empty.
#![cfg(all(target_arch = "x86_64", target_env = "gnu"))]

pub mod answer;
mod descriptors;
mod end;
mod frames;
mod interpose;
mod ioctls;
mod kernel;
mod mappings;
mod raw;
pub mod report;
mod start;
mod state;
mod symbols;
