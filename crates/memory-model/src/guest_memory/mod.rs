// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A view's memory as guest memory of the crate `vm-memory`, and the other way round.

mod add;
mod listener;
mod plain;
mod private_pages;
mod shared;

pub use add::AddGuestMemoryError;
pub use listener::SharedMemoryListener;
pub use plain::{PlainMemory, PlainRegion};
pub use shared::{NoRegion, SharedMemory};
