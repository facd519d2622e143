// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel's own selftests assert about KVM's memory. Each statement
//! has one body, which runs on the real KVM (`src/hardware.rs`) and on every
//! simulated kernel (`conformance.rs`).

mod backing_fd;
mod engine;
mod files;
mod in_place;
mod pre_fault;
mod private;
mod slots;

use std::fmt::Debug;
use std::os::fd::{AsRawFd, OwnedFd};

use kvm_bindings::{KVM_MEM_GUEST_MEMFD, kvm_userspace_memory_region2};
use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::VmType;
use kvm_slots::{Errno, GuestMemfdFlags, Vm};
use vfio_private::device::VfioInterface;
use vmm::guest::GuestError;

use crate::needs::Need;
use crate::subject::{Arena, Real, Simulated, Subject};
use crate::vfio::Model;

/// A statement about KVM.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// The kernel selftest that asserts it, or the part of this project that
    /// does.
    pub of: &'static str,
    /// The name, a sentence with underscores.
    pub name: &'static str,
    /// What the statement needs.
    pub needs: &'static [Need],
    /// The type of VM.
    pub vm_type: VmType,
    real: fn(&mut Real) -> Result<(), String>,
    simulated: fn(&mut Simulated) -> Result<(), String>,
}

impl Statement {
    /// Checks the statement on the real KVM.
    ///
    /// # Errors
    /// A message that says what does not hold.
    pub fn on_real(&self) -> Result<(), String> {
        (self.real)(&mut Real::new(self.vm_type, true)?)
    }

    /// Checks the statement on a simulated VM with a guest.
    ///
    /// # Errors
    /// A message that says what does not hold.
    pub fn on_simulated(&self, vm: &mut Simulated) -> Result<(), String> {
        (self.simulated)(vm)
    }
}

/// Lists the statements of one selftest, each with its needs and its function.
macro_rules! statements {
    ($of:literal, $vm_type:ident, $($needs:expr => $module:ident::$name:ident,)*) => {
        [$(Statement {
            of: $of,
            name: stringify!($name),
            needs: &$needs,
            vm_type: VmType::$vm_type,
            real: $module::$name,
            simulated: $module::$name,
        }),*]
    };
}

/// All statements.
pub fn all() -> Vec<Statement> {
    use Need::{
        DirectGuest, FileAttributes, GuestMemfd, Kvm, MappableFilesOnly, MappableGuestMemfd,
        PreFault, PreFaultEnds, PrivatePages, UserMemory2,
    };
    let slots = statements!("set_memory_region_test", Plain,
        [Kvm] => slots::every_bad_flag_is_refused_by_the_older_ioctl,
        [UserMemory2] => slots::every_bad_flag_is_refused_by_the_newer_ioctl,
        [Kvm] => slots::exactly_the_advertised_number_of_slots_fits,
        [Kvm] => slots::a_slot_in_use_can_be_moved_and_deleted,
        [GuestMemfd] => slots::logging_and_read_only_exclude_guest_memfd,
        [GuestMemfd] => slots::a_file_of_the_wrong_kind_is_refused,
        [GuestMemfd] => slots::every_unaligned_offset_is_refused,
        [GuestMemfd] => slots::neither_files_nor_addresses_overlap,
        [GuestMemfd, MappableFilesOnly] =>
            slots::a_file_that_the_host_cannot_map_is_refused_in_a_slot,
        [Kvm] => slots::a_slot_beyond_the_guest_is_refused_after_every_other_check,
        [Kvm] => slots::every_number_is_of_whole_pages,
    );
    let files = statements!("guest_memfd_test", Plain,
        [GuestMemfd] => files::flags_are_accepted_if_and_only_if_they_are_advertised,
        [GuestMemfd] => files::every_file_is_an_inode_of_its_own,
        [GuestMemfd] => files::bad_sizes_are_refused,
        [GuestMemfd] => files::a_file_cannot_be_read_written_or_resized,
        [GuestMemfd] => files::holes_and_allocations_have_rules,
        [GuestMemfd] => files::an_offset_near_the_end_of_signed_numbers_is_refused,
        [MappableGuestMemfd] => files::a_file_can_be_mapped_only_if_created_with_the_flag,
        [MappableGuestMemfd] => files::copy_on_write_mappings_are_refused,
        [MappableGuestMemfd] => files::the_host_faults_beyond_the_end_and_on_private_pages,
        [MappableGuestMemfd] => files::guest_and_host_share_a_mapped_file_until_a_hole_is_punched,
        [MappableGuestMemfd, DirectGuest] => files::a_closed_file_leaves_a_slot_without_backing,
    );
    let exits = statements!("private_mem_kvm_exits", SwProtected,
        [PrivatePages] => private::a_private_access_faults_when_its_slot_is_deleted,
        [PrivatePages] => private::a_private_access_faults_where_the_slot_is_not_private,
    );
    let conversions = statements!("private_mem_conversions", SwProtected,
        [PrivatePages] => private::conversions_never_leak_and_keep_what_is_not_discarded,
        [PrivatePages] => private::conversions_with_discards_leave_zeros,
    );
    let in_place = statements!("guest_memfd_conversions_test", SwProtected,
        [FileAttributes] => in_place::the_vm_itself_has_no_attributes,
        [FileAttributes] => in_place::malformed_ranges_are_refused,
        [FileAttributes] => in_place::other_files_have_no_attributes,
        [FileAttributes] => in_place::a_new_file_is_private_unless_it_is_created_shared,
        [FileAttributes] => in_place::pages_are_converted_before_they_are_allocated,
        [FileAttributes] => in_place::one_page_among_many_is_converted,
        [FileAttributes] => in_place::a_page_that_someone_holds_does_not_become_private,
        [FileAttributes] => in_place::mappings_lose_private_pages_and_regain_shared_ones,
        [FileAttributes] => in_place::all_slots_of_a_file_follow_it,
        [FileAttributes] => in_place::attributes_stay_with_the_file_without_a_slot,
        [FileAttributes] => in_place::a_hole_does_not_change_attributes,
        [FileAttributes] => in_place::memory_beside_the_file_shows_while_pages_are_shared,
        [FileAttributes] => in_place::the_guest_uses_a_page_privately_shared_and_back,
        [FileAttributes] => in_place::a_private_page_of_a_closed_file_is_not_reached,
    );
    let in_place_pre_fault = statements!("guest_memfd_conversions_test", SwProtected,
        [FileAttributes, PreFault] => in_place::pages_of_both_states_are_pre_faulted,
    );
    let pre_fault = statements!("pre_fault_memory_test", Plain,
        [PreFault] => pre_fault::a_slot_is_pre_faulted_up_to_its_end,
        [PreFault] => pre_fault::malformed_ranges_are_refused,
        [PreFault, PreFaultEnds] => pre_fault::deleting_the_slot_ends_pre_faulting,
    );
    let pre_fault_private = statements!("pre_fault_memory_test", SwProtected,
        [PreFault, PrivatePages] => pre_fault::private_pages_are_pre_faulted_too,
    );
    let engine = statements!("conversion_engine", SwProtected,
        [PrivatePages] => engine::conversions_never_leak_and_leave_no_stale_byte,
        [FileAttributes] => engine::conversions_of_two_sides_follow_the_file,
        [FileAttributes] => engine::conversions_in_place_wait_for_whoever_holds_a_page,
    );
    const DEVICE: [Need; 3] = [
        Need::BackingFd,
        Need::VfioInterface(VfioInterface::LegacyGroup),
        Need::Vfio(Model::Ivshmem),
    ];
    const PRE_FAULTED: [Need; 4] = [DEVICE[0], DEVICE[1], DEVICE[2], Need::PreFault];
    const PRIVATE: [Need; 4] = [DEVICE[0], DEVICE[1], DEVICE[2], Need::PrivatePages];
    let backing_fd = statements!("backing_fd", Plain,
        DEVICE => backing_fd::only_this_abi_is_found,
        DEVICE => backing_fd::errors_are_checked_in_the_documented_order,
        DEVICE => backing_fd::other_files_are_refused,
        DEVICE => backing_fd::a_slot_is_immutable_until_it_is_deleted,
        DEVICE => backing_fd::slices_show_their_bytes_at_any_address,
        DEVICE => backing_fd::a_revoked_slot_stops_the_guest_until_it_returns,
        PRE_FAULTED => backing_fd::a_revoked_slot_is_not_pre_faulted,
    );
    let backing_fd_private = statements!("backing_fd_private", SwProtected,
        PRIVATE => backing_fd::only_this_abi_is_found,
        PRIVATE => backing_fd::errors_are_checked_in_the_documented_order,
        PRIVATE => backing_fd::slices_show_their_bytes_at_any_address,
        PRIVATE => backing_fd::a_revoked_slot_stops_the_guest_until_it_returns,
        PRIVATE => backing_fd::a_revoked_slot_is_not_pre_faulted,
        PRIVATE => backing_fd::a_private_vm_reaches_only_what_it_has_accepted,
    );
    let all: [&[Statement]; 11] = [
        &slots,
        &files,
        &exits,
        &conversions,
        &engine,
        &in_place,
        &in_place_pre_fault,
        &pre_fault,
        &pre_fault_private,
        &backing_fd,
        &backing_fd_private,
    ];
    all.concat()
}

/// Requires that `found` equals `due`.
fn same<T: PartialEq + Debug>(what: &str, is: T, should: T) -> Result<(), String> {
    match is == should {
        true => Ok(()),
        false => Err(format!("{what}: {is:x?} and not {should:x?}")),
    }
}

/// A slot of one page of the arena.
fn page(arena: &Arena, slot: u32, gpa: u64) -> kvm_userspace_memory_region2 {
    kvm_userspace_memory_region2 {
        slot,
        guest_phys_addr: gpa,
        memory_size: arena.page_size(),
        userspace_addr: arena.address(0),
        ..Default::default()
    }
}

/// The same slot with a guest_memfd as well.
fn on_file(
    region: kvm_userspace_memory_region2,
    file: &impl AsRawFd,
) -> kvm_userspace_memory_region2 {
    kvm_userspace_memory_region2 {
        flags: KVM_MEM_GUEST_MEMFD,
        guest_memfd: u32::from_ne_bytes(file.as_raw_fd().to_ne_bytes()),
        ..region
    }
}

/// Calls `KVM_SET_USER_MEMORY_REGION2`.
fn set(subject: &impl Subject, region: kvm_userspace_memory_region2) -> Result<(), Errno> {
    // SAFETY: statements name only arenas and mappings of files, to which there
    // are no references, and run no guest after these are unmapped.
    unsafe { subject.set(&region, false) }
}

/// Calls `KVM_SET_USER_MEMORY_REGION`.
fn set_v1(subject: &impl Subject, region: kvm_userspace_memory_region2) -> Result<(), Errno> {
    // SAFETY: as above.
    unsafe { subject.set(&region, true) }
}

fn delete(subject: &impl Subject, slot: u32) -> Result<(), Errno> {
    let gone = kvm_userspace_memory_region2 {
        slot,
        ..Default::default()
    };
    set_v1(subject, gone)
}

/// The flags of a guest_memfd for a slot: none, unless slots need more.
fn for_slots(subject: &impl Subject) -> GuestMemfdFlags {
    match subject.expected().unmappable_files {
        true => GuestMemfdFlags::empty(),
        false => GuestMemfdFlags::MMAP,
    }
}

fn create(subject: &impl Subject, size: u64, flags: GuestMemfdFlags) -> Result<OwnedFd, String> {
    let file = subject.vm().create_guest_memfd(size, flags);
    file.map_err(|errno| format!("a guest_memfd of {size:#x} bytes: {errno}"))
}

/// The result of a guest's access: the value, or the error.
fn load(subject: &mut impl Subject, gpa: u64) -> Result<u64, GuestError> {
    subject.access(gpa, 8, None, &mut Ones)
}

fn store(subject: &mut impl Subject, gpa: u64, value: u64) -> Result<u64, GuestError> {
    subject.access(gpa, 8, Some(value), &mut Ones)
}

/// The value of every MMIO load.
const EXIT: u64 = u64::MAX;

/// Answers all exits; loads return ones.
struct Ones;

impl MmioHandler for Ones {
    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
}
