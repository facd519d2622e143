// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The selftests of VFIO, each with the devices that it is run on.

use super::{Program, program};
use crate::needs::Need;
use crate::vfio::Model;

const E1000E: [Need; 1] = [Need::Vfio(Model::E1000e)];
const EDU: [Need; 1] = [Need::Vfio(Model::Edu)];
const IVSHMEM: [Need; 1] = [Need::Vfio(Model::Ivshmem)];
const TESTDEV: [Need; 1] = [Need::Vfio(Model::TestDev)];
const NVME: [Need; 1] = [Need::Vfio(Model::Nvme)];
const SEVERAL: [Need; 3] = [
    Need::Vfio(Model::E1000e),
    Need::Vfio(Model::Edu),
    Need::Vfio(Model::Nvme),
];

/// Why some fail on a device with a BAR of 256 bytes.
const SMALL_BAR: &str =
    "libvfio maps every memory BAR, and one of ivshmem's is smaller than a page";

/// What libvfio prints then.
const NOT_MAPPED: &str = "errno: 22 - Invalid argument";

/// All of them.
pub static PROGRAMS: [Program; 16] = [
    program("vfio/vfio_iommufd_setup_test")
        .needs(&E1000E)
        .quick(),
    program("vfio/vfio_pci_device_test")
        .variant("e1000e")
        .needs(&E1000E)
        .quick(),
    program("vfio/vfio_pci_device_test")
        .variant("edu")
        .needs(&EDU)
        .quick(),
    program("vfio/vfio_pci_device_test")
        .variant("nvme")
        .needs(&NVME)
        .quick(),
    program("vfio/vfio_pci_device_test")
        .variant("testdev")
        .needs(&TESTDEV),
    program("vfio/vfio_pci_device_test")
        .variant("ivshmem")
        .needs(&IVSHMEM)
        .fails(NOT_MAPPED, SMALL_BAR),
    program("vfio/vfio_dma_mapping_test")
        .variant("e1000e")
        .needs(&E1000E),
    program("vfio/vfio_dma_mapping_test")
        .variant("edu")
        .needs(&EDU)
        .quick(),
    program("vfio/vfio_dma_mapping_test")
        .variant("nvme")
        .needs(&NVME),
    program("vfio/vfio_dma_mapping_mmio_test")
        .variant("e1000e")
        .needs(&E1000E),
    program("vfio/vfio_dma_mapping_mmio_test")
        .variant("edu")
        .needs(&EDU)
        .quick(),
    program("vfio/vfio_dma_mapping_mmio_test")
        .variant("nvme")
        .needs(&NVME),
    program("vfio/vfio_dma_mapping_mmio_test")
        .variant("ivshmem")
        .needs(&IVSHMEM)
        .fails(NOT_MAPPED, SMALL_BAR),
    program("vfio/vfio_pci_device_init_perf_test")
        .needs(&SEVERAL)
        .quick(),
    program("vfio/vfio_pci_driver_test")
        .not_run("it drives igb, dsa or ioat; the emulator has an igb from QEMU 8 on"),
    program("vfio/vfio_pci_sriov_uapi_test").not_run("no device of the lab has virtual functions"),
];
