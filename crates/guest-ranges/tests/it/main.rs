// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The integration tests of `guest-ranges`, in one program.
//!
//! `cargo test -p guest-ranges --test it page_set::` runs one file.

mod bitmaps;
mod host_memory;
mod page_set;
mod state;
