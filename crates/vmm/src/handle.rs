// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the VMM hangs on each region of the model.

use std::sync::Arc;

use kvm_slots::Unsupported;

use crate::host_mapping::HostMapping;

/// What rides on each region and comes back from lookups.
#[derive(Clone, Debug, Default)]
pub struct Handle {
    /// The number of the device that answers trapped accesses.
    pub device: Option<usize>,
    /// The memory, where the VMM may touch it.
    pub host: Option<Arc<HostMapping>>,
    /// Why this kernel cannot give the region to the guest. A reservation
    /// stands in its place.
    pub refused: Option<Unsupported>,
    /// More for people: why a piece of a BAR is what it is.
    pub note: String,
}
