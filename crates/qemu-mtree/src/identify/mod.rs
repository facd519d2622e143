// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which drawings are one region, and which region an alias shows.

pub(crate) mod identity;
pub(crate) mod targets;
mod windows;
