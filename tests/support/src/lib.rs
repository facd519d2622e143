// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tests of several packages share.
//!
//! - `changed_paste`: changes to one line of a paste of `lspci`, and the answers
//!   that they must not cause.
//! - `model_oracle`: a memory model that is too simple to be wrong in the same
//!   way as `memory-model`, and random changes of both.
//! - `slots`: short ways to write ranges, VMs that record and fail ioctls, a list
//!   of slots with KVM's rules, and a layout of pages with an oracle for
//!   conversions.
//! - `devices`: PCI devices as `lspci` prints them and as bytes.
//!
//! Helpers that only one package uses are in that package's `tests/it`.
//!
//! Each part has a feature, named after the library that it tests. So the tests
//! of `memory-model` do not build `kvm-slots`.

#[cfg(feature = "bar-report")]
pub mod changed_paste;
#[cfg(feature = "bar-report")]
pub mod devices;
#[cfg(feature = "memory-model")]
pub mod model_oracle;
#[cfg(feature = "kvm-slots")]
pub mod slots;
