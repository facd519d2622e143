// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a guest's RAM is, and whether this machine's KVM runs a kernel.

/// The start of a guest's RAM.
pub const RAM_START: u64 = 0x4000_0000;

/// Nothing: KVM interprets no instructions here, but for accesses that trap.
pub fn lacks_kernel_code() -> Option<String> {
    None
}
