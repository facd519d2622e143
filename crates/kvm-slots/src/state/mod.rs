// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Slots and page states as data (`serde`), for snapshots and migration.
//!
//! | to save | to restore |
//! | --- | --- |
//! | [`SlotTable::state`] | [`SlotsState::ranges`], which [`Slots::plan`](crate::Slots::plan) takes |
//! | [`ConvertibleMemory::state`] | [`ConvertibleMemory::restore`], then [`Engine::restore`] sets it in KVM |
//!
//! Host addresses and descriptors have no meaning in another process. The caller describes
//! the memory of each slot when it saves, and supplies it again when it restores. Slots
//! are planned again, so their numbers can differ.
//!
//! A model of the crate `memory-model` has its own form, which contains both: see its
//! module `state`.
//!
//! # Example
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::sync::Arc;
//! use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
//! use kvm_slots::state::SlotsState;
//! use kvm_slots::{AbiProfile, HostMemory, SlotAccess, SlotBacking, SlotRange, Slots};
//!
//! let vm = || SimVm::new(SimConfig::released(KernelVersion::V6_18));
//! let memory = |size| {
//!     // SAFETY: no guest runs. A VMM passes a mapping and its owner.
//!     let memory = unsafe { HostMemory::new(0x7f00_0000_0000, size, Arc::new(())) };
//!     memory.map(SlotBacking::Host).ok_or(std::io::Error::other("empty"))
//! };
//! // SAFETY: no one else makes slots of this VM.
//! let mut slots = unsafe { Slots::new(vm(), AbiProfile::None) };
//! let ram = SlotRange::new(0, SlotAccess::ReadWrite, memory(0x8000)?)?;
//! let plan = slots.plan(&[ram])?;
//! slots.apply(&plan)?;
//!
//! // What this VMM needs to find a slot's memory again is a name.
//! let text = serde_json::to_string(&slots.table().state(|_| "ram"))?;
//!
//! let state: SlotsState<String> = serde_json::from_str(&text)?;
//! let ranges = state.ranges(|saved| memory(saved.size()))?;
//! // SAFETY: no one else makes slots of this VM.
//! let mut restored = unsafe { Slots::new(vm(), AbiProfile::None) };
//! let plan = restored.plan(&ranges)?;
//! restored.apply(&plan)?;
//! assert_eq!(restored.table().state(|_| "ram").slots()[0].gpa(), 0);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod pages;
mod slots;

pub use pages::{PagesError, PagesState};
pub use slots::{RestoreError, SavedBacking, SavedSlot, SlotsState};

use serde::{Deserialize, Deserializer, de};

#[expect(unused_imports, reason = "the documentation refers to them")]
use crate::{
    convert::{ConvertibleMemory, Engine},
    slots::table::SlotTable,
};

/// The version of the forms that this crate writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// Reads the version before anything else, because the rest depends on it.
fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        VERSION => Ok(VERSION),
        other => Err(de::Error::custom(format_args!(
            "version {other} of the state; this is version {VERSION}"
        ))),
    }
}
