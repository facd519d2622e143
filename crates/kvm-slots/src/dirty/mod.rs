// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages were written: KVM's log or ring, merged with what the VMM wrote.

mod clears;
pub(crate) mod collector;
mod error;
pub(crate) mod ops;
pub(crate) mod pages;
mod rings;
pub(crate) mod tracker;
pub(crate) mod unlogged;
pub(crate) mod vm;

pub use crate::ioctl::VcpuDirtyRing;
pub use collector::DirtyCollector;
pub use error::DirtyError;
pub use ops::BeforeOp;
pub use pages::DirtyPages;
pub use tracker::{DirtyClient, DirtyTracker};
pub use unlogged::{Unlogged, UnloggedSlot};
pub use vm::{
    DirtyCapabilities, DirtyEntry, DirtyMode, DirtyRing, LoggingVm, ManualProtect, RingId,
};
