// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory ioctls that kvm-ioctls 0.25 lacks, or has for some architectures only, as safe calls: whatever the
//! arguments, the kernel accesses only memory of this crate, and every descriptor
//! has an owner.

mod attributes;
mod dirty_log;
#[cfg(feature = "dirty-ring")]
mod dirty_ring;
mod numbers;
mod pre_fault;

pub(crate) use attributes::{set_file_attributes, set_memory_attributes};
pub(crate) use dirty_log::{clear_dirty_log, dirty_log_refusal, reset_dirty_rings};
#[cfg(feature = "dirty-ring")]
pub use dirty_ring::VcpuDirtyRing;
pub use pre_fault::{PreFaultError, pre_fault_memory};
