// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages were written: KVM's log or ring, merged with what the VMM wrote.

mod clears;
mod collector;
mod ops;
mod pages;
mod rings;
mod tracker;
mod unlogged;
mod vm;

pub use collector::{DirtyCollector, DirtyError, DirtyMode};
pub use ops::BeforeOp;
pub use pages::{DirtyPages, DirtyRun};
pub use rings::RingId;
pub use tracker::{DirtyClient, DirtyTracker};
pub use unlogged::{Unlogged, UnloggedSlot};
pub use vm::{DirtyCapabilities, DirtyEntry, DirtyRing, LoggingVm, ManualProtect};
