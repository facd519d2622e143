// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The shared parts of this crate's tests: [`support::slots`], and modules that no other
//! package uses.

pub mod contested;
pub mod faults;
pub mod guest;
pub mod hooked;
pub mod migration;

pub use support::slots::*;
