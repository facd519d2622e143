// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No kernel of another architecture is simulated.

use kvm_slots::sim::{KernelVersion, SimConfig};
use kvm_slots::{KvmVm, PageSize};

pub(super) fn simulated_like(
    _vm: &KvmVm,
    _kernel: KernelVersion,
    _page_size: PageSize,
) -> Result<SimConfig, String> {
    let here = std::env::consts::ARCH;
    Err(format!("no kernel for {here} is simulated"))
}
