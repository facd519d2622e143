// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tests of this crate share: [`support::slots`], and what no other
//! package's tests use.

pub mod contested;
pub mod faults;
pub mod guest;
pub mod hooked;
pub mod migration;

pub use support::slots::*;
