// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftests of iommufd, on an IOMMU that the kernel mocks.

use super::{Program, program};
use crate::selftests::settings::Setting;

/// Enough for a buffer of 128 MiB.
const HUGE_PAGES: [Setting; 1] = [("/proc/sys/vm/nr_hugepages", "66")];

/// All of them. The fixtures that take longest run on their own, and so do the
/// tests that fail.
pub static PROGRAMS: [Program; 5] = [
    program("iommu/iommufd")
        .with(&[
            "-F",
            "iommufd_mock_domain",
            "-F",
            "iommufd_dirty_tracking",
            "-T",
            "dmabuf_simple",
            "-T",
            "dmabuf_revoke",
        ])
        .needs(&[])
        .settings(&HUGE_PAGES)
        .quick(),
    program("iommu/iommufd")
        .variant("mock_domain")
        .with(&["-f", "iommufd_mock_domain"])
        .needs(&[])
        .settings(&HUGE_PAGES)
        .quick(),
    program("iommu/iommufd")
        .variant("dirty_tracking")
        .with(&["-f", "iommufd_dirty_tracking"])
        .needs(&[])
        .settings(&HUGE_PAGES),
    program("iommu/iommufd")
        .variant("dmabuf")
        .with(&["-t", "dmabuf_simple", "-t", "dmabuf_revoke"])
        .needs(&[])
        .fails(
            "dmabuf_simple:Expected",
            "iommufd_test_dmabuf_get of Linux 7.3 returns 0, not the descriptor of its dma-buf",
        ),
    program("iommu/iommufd_fail_nth").needs(&[]).quick(),
];
