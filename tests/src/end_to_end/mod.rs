// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The purpose of the project: a guest drives a real device that the host cannot
//! map, through memslots without a host address.

mod acceptance;
pub mod access_costs;
mod access_paths;
pub mod bar_costs;
mod dma_buf_slices;
mod host_mappings;
mod machine;
mod registers;
mod revocation;
mod unplug;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_slots::sim::VmType;
use vfio_private::device::{Device, Iommu, VfioInterface};
use vfio_private::{Access, PageSize, ReportedRange, TeeKind};

use crate::check::{at, same};
use crate::needs::Need;
use crate::vfio::Model;
use crate::vfio::regions::{self, OpenBar};

/// A test, what it needs, and what it does.
pub type Test = (&'static str, &'static [Need], fn() -> Result<(), String>);

/// All tests: in a confidential VM, whose guest reaches only what it has accepted, and
/// in a plain VM, which every architecture has.
pub const TESTS: [Test; 21] = [
    (
        "a_guest_computes_on_a_device_that_the_host_cannot_map",
        &[Need::BackingFd, Need::PrivatePages, Need::Vfio(Model::Edu)],
        || registers::edu_computes(VmType::SwProtected),
    ),
    (
        "a_guest_fills_and_checks_memory_that_the_host_cannot_map",
        &[
            Need::BackingFd,
            Need::PrivatePages,
            Need::Vfio(Model::Ivshmem),
        ],
        || registers::ivshmem_remembers(VmType::SwProtected),
    ),
    (
        "an_access_before_acceptance_is_a_memory_fault_that_asks_for_it",
        &[Need::BackingFd, Need::PrivatePages, Need::Vfio(Model::Edu)],
        acceptance::a_fault_asks_for_it,
    ),
    (
        "accepted_pages_cannot_be_moved_hidden_shrunk_or_replaced",
        &[Need::BackingFd, Need::PrivatePages, Need::Vfio(Model::Edu)],
        || acceptance::it_is_fixed(VmType::SwProtected),
    ),
    (
        "a_bar_around_an_msix_table_is_slices_of_one_dma_buf",
        &[
            Need::BackingFd,
            Need::PrivatePages,
            Need::HostPages(PageSize::Size4K),
            Need::Vfio(Model::Nvme),
        ],
        || dma_buf_slices::around_a_table(VmType::SwProtected),
    ),
    (
        "slices_in_any_order_show_their_own_bytes",
        &[
            Need::BackingFd,
            Need::PrivatePages,
            Need::Vfio(Model::Ivshmem),
        ],
        || dma_buf_slices::in_any_order(VmType::SwProtected),
    ),
    (
        "no_change_of_a_host_mapping_reaches_private_mappings",
        &[
            Need::BackingFd,
            Need::PrivatePages,
            Need::DirectGuest,
            Need::Vfio(Model::Edu),
        ],
        host_mappings::changes_do_not_reach_it,
    ),
    (
        "a_device_that_stops_responding_must_be_accepted_again",
        &[Need::BackingFd, Need::PrivatePages, Need::Vfio(Model::Edu)],
        revocation::decode_off_revokes,
    ),
    (
        "a_reset_revokes_acceptance",
        &[
            Need::BackingFd,
            Need::PrivatePages,
            Need::HostPages(PageSize::Size4K),
            Need::Vfio(Model::Nvme),
        ],
        revocation::reset_revokes,
    ),
    (
        "a_reset_without_notice_shows_the_device_after_it",
        &[
            Need::BackingFd,
            Need::PrivatePages,
            Need::HostPages(PageSize::Size4K),
            Need::Vfio(Model::Nvme),
        ],
        || revocation::reset(VmType::SwProtected),
    ),
    (
        "private_mapped_and_trapped_registers_return_the_same_values",
        &[
            Need::BackingFd,
            Need::PrivatePages,
            Need::Vfio(Model::Edu),
            Need::Vfio(Model::E1000e),
            Need::Vfio(Model::Ivshmem),
        ],
        || access_paths::three_ways(VmType::SwProtected),
    ),
    (
        "a_plain_vm_computes_on_a_device_that_the_host_cannot_map",
        &[Need::BackingFd, Need::Vcpus, Need::Vfio(Model::Edu)],
        || registers::edu_computes(VmType::Plain),
    ),
    (
        "a_plain_vm_fills_and_checks_memory_that_the_host_cannot_map",
        &[Need::BackingFd, Need::Vcpus, Need::Vfio(Model::Ivshmem)],
        || registers::ivshmem_remembers(VmType::Plain),
    ),
    (
        "in_a_plain_vm_accepted_pages_cannot_be_moved_hidden_shrunk_or_replaced",
        &[Need::BackingFd, Need::Vcpus, Need::Vfio(Model::Edu)],
        || acceptance::it_is_fixed(VmType::Plain),
    ),
    (
        "in_a_plain_vm_a_bar_around_an_msix_table_is_slices_of_one_dma_buf",
        &[
            Need::BackingFd,
            Need::Vcpus,
            Need::HostPages(PageSize::Size4K),
            Need::Vfio(Model::Nvme),
        ],
        || dma_buf_slices::around_a_table(VmType::Plain),
    ),
    (
        "in_a_plain_vm_slices_in_any_order_show_their_own_bytes",
        &[Need::BackingFd, Need::Vcpus, Need::Vfio(Model::Ivshmem)],
        || dma_buf_slices::in_any_order(VmType::Plain),
    ),
    (
        "a_plain_vm_reaches_a_device_whenever_it_responds",
        &[Need::BackingFd, Need::Vcpus, Need::Vfio(Model::Edu)],
        || revocation::decode_off(VmType::Plain),
    ),
    (
        "in_a_plain_vm_a_reset_shows_the_device_after_it",
        &[
            Need::BackingFd,
            Need::Vcpus,
            Need::HostPages(PageSize::Size4K),
            Need::Vfio(Model::Nvme),
        ],
        || revocation::reset(VmType::Plain),
    ),
    (
        "in_a_plain_vm_private_mapped_and_trapped_registers_return_the_same_values",
        &[
            Need::BackingFd,
            Need::Vcpus,
            Need::Vfio(Model::Edu),
            Need::Vfio(Model::E1000e),
            Need::Vfio(Model::Ivshmem),
        ],
        || access_paths::three_ways(VmType::Plain),
    ),
    // The last tests, because they remove a device that others need.
    (
        "an_unplugged_device_is_out_of_reach",
        &[
            Need::BackingFd,
            Need::PrivatePages,
            Need::Vfio(Model::TestDev),
        ],
        || unplug::leaves_nothing(VmType::SwProtected),
    ),
    (
        "in_a_plain_vm_an_unplugged_device_is_out_of_reach",
        &[Need::BackingFd, Need::Vcpus, Need::Vfio(Model::TestDev)],
        || unplug::leaves_nothing(VmType::Plain),
    ),
];

/// A device in an address space of its own, with memory decoding on.
fn open(model: Model) -> Result<Device, String> {
    let iommu = Iommu::new(VfioInterface::LegacyGroup).map_err(at("VFIO"))?;
    let device = Device::open(&iommu, model.bound()?).map_err(at(model))?;
    device.set_memory_decode(true).map_err(at("decode on"))?;
    Ok(device)
}

/// Exports a whole BAR as a dma-buf.
fn dma_buf(device: &Device, bar: u8) -> Result<(OpenBar, Arc<OwnedFd>), String> {
    let open = regions::bar(device, bar)?;
    let file = device.export_dma_buf(bar.into(), &[open.bar.extent()]);
    Ok((open, Arc::new(file.map_err(at("a dma-buf"))?)))
}

/// The entry of a TDISP report for a range that only the guest may reach.
fn tee(offset: u64, size: u64) -> Result<ReportedRange, String> {
    ReportedRange::new(offset, size, TeeKind::Tee).map_err(at("a range"))
}

/// The names in `/proc/self/maps` of mappings of a device.
fn shown_in_the_host() -> Result<Vec<String>, String> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(at("maps"))?;
    let is_device = |line: &&str| line.contains("vfio") || line.contains("dmabuf");
    Ok(maps.lines().filter(is_device).map(String::from).collect())
}

/// Requires that nothing of a device is mapped in this process.
fn nothing_is_mapped() -> Result<(), String> {
    match shown_in_the_host()?.first() {
        Some(line) => Err(format!("the host has a mapping: {line}")),
        None => Ok(()),
    }
}

/// Requires that a mapping would be noticed if there were one.
fn a_mapping_is_seen(device: &Device, open: &OpenBar) -> Result<(), String> {
    let shared = open
        .pieces
        .iter()
        .find(|piece| piece.access() == Access::Shared);
    let piece = *shared.ok_or("nothing of the BAR can be mapped")?;
    let mapping = device.map_piece(open.bar.index(), piece);
    let mapping = mapping.map_err(at("a mapping"))?;
    let address = format!("{:x}-", mapping.address());
    let lines = shown_in_the_host()?;
    match lines.iter().any(|line| line.starts_with(&address)) {
        true => Ok(()),
        false => Err(format!("the mapping at {address} is not in {lines:?}")),
    }
}
