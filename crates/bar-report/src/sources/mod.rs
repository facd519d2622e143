// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sources of facts. Text of `lspci`, raw configuration space and sysfs describe a device. A
//! list of regions states what VFIO lets userspace map. A TDISP report states what is private.

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
