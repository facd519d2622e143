// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which pages are private, which are accepted, and how little that takes.

mod page_chunk;
pub(crate) mod page_set;
mod range_set;
pub(crate) mod state;
pub(crate) mod state_limit;
