// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftests of iommufd, on an IOMMU that the kernel mocks.

use super::{Program, program};

/// All of them.
pub static PROGRAMS: [Program; 2] = [
    program("iommu/iommufd").needs(&[]),
    program("iommu/iommufd_fail_nth").needs(&[]),
];
