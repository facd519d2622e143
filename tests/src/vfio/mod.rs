// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real devices, opened through VFIO: the QEMU devices of the lab. The tests
//! run on any machine that has them bound to vfio-pci.

pub(crate) mod adopted;
mod backing_fd;
pub mod bars;
pub mod carving;
mod config;
pub mod data_sheets;
mod dma;
mod dma_convert;
mod dma_peer;
mod edu;
mod guest;
mod interrupts;
mod messages;
pub(crate) mod regions;
mod registered;
pub(crate) mod registers;
mod toggles;

use std::fmt;
use std::path::Path;

use vfio_private::device::{Device, Iommu, PciAddress, VfioInterface};
use vmm::machine::DeviceName;

use crate::check::{at, same};
use crate::needs::Need;

/// A device that has tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// A network card with MSI-X in a BAR of its own, and an I/O BAR.
    E1000e,
    /// A device for teaching, with some registers in 1 MiB.
    Edu,
    /// A BAR of plain memory, and one of 256 bytes.
    Ivshmem,
    /// A disk controller with MSI-X among its registers.
    Nvme,
    /// A device for tests, with a page of memory and an I/O BAR.
    TestDev,
}

impl Model {
    const ALL: [Self; 5] = [
        Self::E1000e,
        Self::Edu,
        Self::Ivshmem,
        Self::Nvme,
        Self::TestDev,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::E1000e => "e1000e",
            Self::Edu => "edu",
            Self::Ivshmem => "ivshmem",
            Self::Nvme => "nvme",
            Self::TestDev => "testdev",
        }
    }

    /// The vendor and device IDs.
    const fn ids(self) -> (u16, u16) {
        match self {
            Self::E1000e => (0x8086, 0x10d3),
            Self::Edu => (0x1234, 0x11e8),
            Self::Ivshmem => (0x1af4, 0x1110),
            Self::Nvme => (0x1b36, 0x0010),
            Self::TestDev => (0x1b36, 0x0005),
        }
    }

    /// The first such device that is bound to vfio-pci.
    ///
    /// # Errors
    /// A message that says what is missing.
    pub fn bound(self) -> Result<PciAddress, String> {
        let (vendor, device) = self.ids();
        DeviceName::Model { vendor, device }.find()
    }

    fn open(self, way: VfioInterface) -> Result<Device, String> {
        let iommu = Iommu::new(way).map_err(|e| e.to_string())?;
        Device::open(&iommu, self.bound()?).map_err(|e| e.to_string())
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The address space of a device that was opened by its address.
pub(crate) fn iommu_of(device: &Device) -> &Iommu {
    let iommu = device.iommu();
    iommu.expect("the device was opened in an address space of this process")
}

/// What is missing to open devices through this interface, if anything.
pub fn lacks_way(way: VfioInterface) -> Option<String> {
    match way {
        VfioInterface::LegacyGroup => lacks("/dev/vfio/vfio"),
        _ => lacks("/dev/iommu").or(lacks("/dev/vfio/devices")),
    }
}

fn lacks(path: &str) -> Option<String> {
    match Path::new(path).exists() {
        true => None,
        false => Some(format!("the kernel has no {path}")),
    }
}

/// A test on an open device.
#[derive(Clone, Debug)]
pub struct OnDevice {
    name: &'static str,
    model: Model,
    way: VfioInterface,
    /// What the machine must have.
    pub needs: &'static [Need],
    run: fn(&Device) -> Result<(), String>,
}

impl OnDevice {
    /// The name: a sentence with underscores, after the interface and the
    /// device.
    pub fn name(&self) -> String {
        format!("vfio::{}::{}::{}", self.way, self.model, self.name)
    }

    /// Opens the device and runs the test.
    ///
    /// # Errors
    /// A message that says what went wrong.
    pub fn run(&self) -> Result<(), String> {
        (self.run)(&self.model.open(self.way)?)
    }
}

type Body = fn(&Device) -> Result<(), String>;

/// The tests that run on every device.
const ON_ALL: [(&str, Body); 8] = [
    (
        "by_its_descriptor_it_is_the_same_device",
        adopted::is_the_same_device,
    ),
    (
        "by_its_descriptor_its_interrupts_arrive",
        adopted::interrupts,
    ),
    (
        "a_descriptor_that_is_not_bound_is_refused",
        adopted::unbound_is_refused,
    ),
    (
        "its_pieces_match_what_can_be_mapped",
        regions::pieces_agree_with_mmap,
    ),
    (
        "dma_bufs_cover_whole_pages_of_memory_bars",
        regions::dma_bufs,
    ),
    (
        "every_interrupt_arrives_as_if_the_device_had_sent_it",
        interrupts::by_loopback,
    ),
    (
        "a_guest_sizes_its_bars_as_the_kernel_does",
        config::sizes_are_the_kernels,
    ),
    (
        "the_state_after_a_reset_is_predicted",
        config::resets_are_foreseen,
    ),
];

/// The tests that run on one device.
const ON_ONE: [(Model, &str, Body); 14] = [
    (
        Model::Nvme,
        "a_reset_by_the_guest_is_predicted_and_happens",
        config::guests_reset_is_foreseen,
    ),
    (
        Model::E1000e,
        "a_guest_sets_up_its_vectors_and_no_message_is_lost",
        messages::guest_sets_up_its_vectors,
    ),
    (
        Model::Nvme,
        "a_guest_sets_up_its_vectors_and_no_message_is_lost",
        messages::guest_sets_up_its_vectors,
    ),
    (
        Model::Edu,
        "it_sends_a_message_on_request",
        interrupts::edu_sends_messages,
    ),
    (
        Model::Edu,
        "it_asserts_its_line_until_it_is_served",
        interrupts::edu_holds_its_line,
    ),
    (
        Model::E1000e,
        "its_causes_arrive_at_their_vectors",
        interrupts::e1000e_sends_vectors,
    ),
    (
        Model::Edu,
        "registers_are_the_same_trapped_and_mapped",
        registers::edu_answers,
    ),
    (
        Model::Edu,
        "no_access_gets_through_while_decoding_is_off",
        registers::decode_off,
    ),
    (
        Model::Edu,
        "a_reset_leaves_it_reachable",
        registers::reset_leaves_it_reachable,
    ),
    (
        Model::Ivshmem,
        "memory_is_the_same_trapped_and_mapped",
        registers::ivshmem_remembers,
    ),
    (
        Model::E1000e,
        "only_shared_pieces_are_mapped",
        regions::only_shared_pieces_are_mapped,
    ),
    (
        Model::Ivshmem,
        "an_expanded_bar_is_mapped_as_a_whole_page",
        regions::an_expanded_bar_is_a_whole_page,
    ),
    (
        Model::E1000e,
        "it_is_out_of_reach_while_it_sleeps",
        registers::asleep,
    ),
    (
        Model::E1000e,
        "accesses_beyond_a_region_are_refused",
        regions::outside_is_refused,
    ),
];

/// The tests with a guest, or with the VM of one.
const IN_GUEST: [(Model, &str, Body); 6] = [
    (
        Model::Edu,
        "kvm_lists_a_device_while_it_is_open",
        registered::kvm_lists_it_while_it_is_open,
    ),
    (
        Model::Ivshmem,
        "decoding_is_switched_a_thousand_times_under_a_guest_that_stores",
        toggles::under_a_guest_that_stores,
    ),
    (
        Model::Edu,
        "a_guest_reaches_its_registers",
        guest::reaches_registers,
    ),
    (
        Model::Ivshmem,
        "a_guest_reaches_its_memory",
        guest::reaches_memory,
    ),
    (
        Model::Edu,
        "it_moves_and_swaps_with_ivshmem_while_a_guest_reads",
        guest::moves_and_swaps,
    ),
    (
        Model::Edu,
        "a_guest_loses_it_with_decoding_and_gets_it_back",
        guest::decode_off_is_an_event,
    ),
];

/// The tests with a guest whose memslots have no host address.
const HOSTLESS: [(Model, &str, Body); 2] = [
    (
        Model::Edu,
        "a_guest_reads_its_id_through_a_page_that_the_host_does_not_map",
        backing_fd::reads_its_id,
    ),
    (
        Model::Edu,
        "without_decoding_the_guest_is_stopped_with_the_address_and_then_goes_on",
        backing_fd::is_revoked,
    ),
];

/// The same in VMs with private pages.
const ACCEPTED: [(Model, &str, Body); 2] = [
    (
        Model::Edu,
        "an_access_before_acceptance_is_a_private_memory_fault_and_then_direct",
        backing_fd::is_accepted,
    ),
    (
        Model::Edu,
        "without_decoding_a_private_access_stops_with_the_address_and_then_goes_on",
        backing_fd::private_is_revoked,
    ),
];

/// The needs of each interface and device: the interface and the device; for
/// tests with a guest also a KVM, and the device that others swap places with;
/// for slots without a host address also such slots, and private pages.
static NEEDS: [[Need; 6]; Model::ALL.len() * VfioInterface::ALL.len()] = {
    let mut needs = [[Need::Kvm; 6]; Model::ALL.len() * VfioInterface::ALL.len()];
    let mut at = 0;
    while at < needs.len() {
        needs[at][0] = Need::VfioInterface(VfioInterface::ALL[at % VfioInterface::ALL.len()]);
        needs[at][1] = Need::Vfio(Model::ALL[at / VfioInterface::ALL.len()]);
        needs[at][3] = Need::Vfio(Model::Ivshmem);
        needs[at][4] = Need::BackingFd;
        needs[at][5] = Need::PrivatePages;
        at += 1;
    }
    needs
};

/// Compares `vmm bars` with each device's documentation. The command opens the
/// device itself.
pub fn data_sheets() -> Vec<(String, &'static [Need], Model)> {
    let name = |model| format!("vmm_bars_prints_what_the_data_sheet_of_{model}_says");
    let of_groups = NEEDS.iter().filter_map(|needs| match needs {
        [
            Need::VfioInterface(VfioInterface::LegacyGroup),
            Need::Vfio(model),
            ..,
        ] => Some((name(*model), &needs[..2], *model)),
        _ => None,
    });
    of_groups.collect()
}

/// All tests, for each device and each interface.
pub fn all() -> Vec<OnDevice> {
    let mut tests = Vec::new();
    for needs in &NEEDS {
        let [Need::VfioInterface(way), Need::Vfio(model), ..] = *needs else {
            continue;
        };
        let without_kvm = &needs[..2];
        let mut add = |name, needs, run| {
            tests.push(OnDevice {
                name,
                model,
                way,
                needs,
                run,
            });
        };
        for (name, run) in ON_ALL {
            add(name, without_kvm, run);
        }
        let ones = ON_ONE.map(|test| (without_kvm, test));
        let in_guest = IN_GUEST.map(|test| (&needs[..4], test));
        let backing_fd = HOSTLESS.map(|test| (&needs[..5], test));
        let accepted = ACCEPTED.map(|test| (&needs[..], test));
        let with_guest = in_guest.into_iter().chain(backing_fd).chain(accepted);
        let tests = ones.into_iter().chain(with_guest);
        for (needs, (of, name, run)) in tests {
            if of == model {
                add(name, needs, run);
            }
        }
    }
    tests.extend(carving::all());
    tests.extend(dma::all());
    tests
}
