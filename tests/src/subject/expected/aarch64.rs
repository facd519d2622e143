// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `kvm_arch_prepare_memory_region` of arch/arm64/kvm/mmu.c.

use kvm_slots::Errno;

use super::Expected;

pub(super) const EXPECTED: Expected = Expected {
    unmappable_files: false,
    beyond_guest: Errno::EFAULT,
};
