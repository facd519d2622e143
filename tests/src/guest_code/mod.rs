// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The code of guests in tests, on vCPUs of the real KVM.

use crate::needs::Need;

#[cfg(target_arch = "aarch64")]
mod aarch64;

/// A test, and what it needs.
type Test = (&'static str, &'static [Need], fn() -> Result<(), String>);

/// The tests of this architecture's guest.
#[cfg(target_arch = "aarch64")]
pub const TESTS: [Test; 4] = aarch64::TESTS;

/// None: every other test runs this guest.
#[cfg(not(target_arch = "aarch64"))]
pub const TESTS: [Test; 0] = [];
