// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Architectures without guests: no VM of the tests has one that could run this.

/// There are no instructions.
pub(super) fn code(_mask: u32) -> Vec<u8> {
    Vec::new()
}
