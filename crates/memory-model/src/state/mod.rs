// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A model as data (`serde`), for snapshots and migration.
//!
//! [`MemoryModel::state`] describes a model: the tree with all switches, the address
//! spaces, and which pages are private or accepted. [`ModelState::restore`] makes a model
//! from it, which shows the same views.
//!
//! Memory, files and the caller's handles have no meaning in another process. The caller
//! describes them when it saves ([`RegionState::data`]), and supplies them again when it
//! restores ([`Restore`]). Listeners are added to the restored model as to any other.
//!
//! The form has a version. Data of another version, or data that describes no model, is
//! refused with an error that names the region, the address space or the number that is
//! wrong.
//!
//! # Example
//!
//! ```
//! use std::convert::Infallible;
//! use memory_model::state::{ModelState, RegionState, Restore};
//! use memory_model::{Backing, HostMemory, Memory, MemoryModel, Region};
//!
//! let mut model = MemoryModel::new();
//! let mut t = model.transaction();
//! let memory = t.add(Region::container("memory", 1 << 64))?;
//! let ram = Memory::host_only(HostMemory::placeholder(0x4000).unwrap());
//! let ram = t.add(Region::ram("ram", ram))?;
//! t.place(ram, memory, 0x1000, 0)?;
//! t.commit()?;
//! model.add_space("memory", memory)?;
//!
//! // What this VMM needs to find a region's memory again is a number.
//! let state = model.state(|_, region| if region.name() == "ram" { 1 } else { 0 });
//! let text = serde_json::to_string(&state)?;
//!
//! struct Vmm;
//! impl Restore<u32, ()> for Vmm {
//!     type Error = Infallible;
//!
//!     fn region(&mut self, saved: &RegionState<u32>) -> Result<((), Backing), Infallible> {
//!         let backing = match saved.data() {
//!             1 => Backing::Memory(Memory::host_only(HostMemory::placeholder(0x4000).unwrap())),
//!             _ => Backing::Nothing,
//!         };
//!         Ok(((), backing))
//!     }
//! }
//!
//! let state: ModelState<u32> = serde_json::from_str(&text)?;
//! let restored = state.restore(&mut Vmm)?;
//! let (space, name) = &restored.spaces[0];
//! assert_eq!(name, "memory");
//! assert_eq!(restored.model.view(*space).find(0x4fff).unwrap().region().name(), "ram");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod form;
mod restore;
mod save;

pub use error::{RestoreError, WrongBacking};
pub use form::{ModelState, RegionState, SavedKind, VERSION};
pub use restore::{Restore, Restored};

#[expect(unused_imports, reason = "the documentation refers to it")]
use crate::model::MemoryModel;
