// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `kvm_arch_prepare_memory_region` of arch/x86/kvm/x86.c.

use kvm_slots::Errno;

use super::Expected;

pub(super) const EXPECTED: Expected = Expected {
    unmappable_files: true,
    beyond_guest: Errno::EINVAL,
};
