// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Identifies drawings of the same region, and the target of each alias.

pub(crate) mod identity;
pub(crate) mod targets;
mod windows;
