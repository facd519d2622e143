// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftests that come with this project's patches of KVM. They use memslots
//! on a range of a file, without a host address.

use super::{Program, program};
use crate::needs::Need;
use crate::vfio::Model;

const NO_DEVICE: [Need; 2] = [Need::Kvm, Need::BackingFd];

/// A test of slots on the BARs of one device.
const fn of(model: Model) -> [Need; 3] {
    [Need::Kvm, Need::BackingFd, Need::Vfio(model)]
}

const E1000E: [Need; 3] = of(Model::E1000e);
const EDU: [Need; 3] = of(Model::Edu);
const IVSHMEM: [Need; 3] = of(Model::Ivshmem);
const NVME: [Need; 3] = of(Model::Nvme);
const TESTDEV: [Need; 3] = of(Model::TestDev);
const SEVERAL_PROCESSORS: [Need; 4] = [
    Need::Kvm,
    Need::BackingFd,
    Need::Vfio(Model::Edu),
    Need::Processors(2),
];

const SLOTS: Program = program("kvm/backing_fd_vfio_test");
const RACES: Program = program("kvm/backing_fd_stress_test");

/// All of them.
pub static PROGRAMS: [Program; 11] = [
    program("kvm/backing_fd_test").needs(&NO_DEVICE).quick(),
    SLOTS.variant("e1000e").needs(&E1000E),
    SLOTS.variant("edu").needs(&EDU),
    SLOTS.variant("ivshmem").needs(&IVSHMEM).quick(),
    SLOTS.variant("nvme").needs(&NVME).quick(),
    SLOTS.variant("testdev").needs(&TESTDEV),
    RACES.variant("edu").needs(&EDU).quick(),
    RACES.variant("e1000e").needs(&E1000E),
    RACES
        .variant("four_vcpus")
        .with(&["-v", "4"])
        .needs(&E1000E),
    // Processors that revoke, create, delete and destroy at the same time. The
    // numbers find each of the races that the first version of the patches had.
    RACES
        .variant("without_vcpus_destroys")
        .with(&["-d", "-c", "200"])
        .needs(&SEVERAL_PROCESSORS)
        .quick(),
    RACES
        .variant("without_vcpus_deletes")
        .with(&["-s", "-v", "0", "-t", "5"])
        .needs(&SEVERAL_PROCESSORS)
        .quick(),
];
