// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where facts come from: text of `lspci`, raw configuration space and sysfs describe a device; a
//! list of regions says what VFIO lets userspace map; a TDISP report says what is private.

pub(crate) mod config_space;
mod file;
mod lspci;
mod reader;
#[cfg(feature = "json")]
mod region_json;
pub(crate) mod region_list;
mod sysfs;
pub(crate) mod tdisp;

pub use reader::Reader;
