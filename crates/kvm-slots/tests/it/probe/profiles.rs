// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ranges that each ABI profile supports, and the memory that the guest reaches.

use crate::common;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::guest::NoExits;
use common::region::private_vm;
use common::{ABI, PAGE, able, device, device_file, logged, range, readonly};
use kvm_slots::exit::{GuestFault, MEMORY_EXIT_FLAG_PRIVATE};
use kvm_slots::plan::plan;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{
    AbiProfile, Capabilities, Errno, PlanError, SlotBacking, SlotListener, SlotRange, SlotTable,
    Slots, StepError, Unsupported, VcpusStopped, Vm,
};
use memory_model::{CommitError, FileSlice, MemoryModel, PrivateMmio, Region, RegionId, TreeError};

const RFC: AbiProfile = AbiProfile::RFC_DMA_BUF_BIT_3;
const PROFILES: [AbiProfile; 3] = [ABI, RFC, AbiProfile::Push];

/// A kernel that can do everything, for a VM with private memory.
fn most_able() -> Capabilities {
    let mut able = able();
    able.memory_attributes = MEMORY_ATTRIBUTE_PRIVATE;
    able.push_map = true;
    able
}

/// Why there is no slot for one range.
fn refusal(range: SlotRange, capabilities: &Capabilities, abi: AbiProfile) -> Option<Unsupported> {
    let checked = capabilities.check(&range, abi).err();
    let planned = match plan(&SlotTable::new(), &[range], capabilities, abi) {
        Ok(_) => None,
        Err(PlanError::Unsupported(ranges)) => Some(ranges[0].why),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(checked, planned);
    planned
}

/// These bytes of a file of so many.
fn of_file(offset: u64, size: u64, file_size: u64) -> SlotRange {
    let file = device_file(1000, offset).with_file_size(file_size);
    range(0, size, SlotBacking::FdOffset(file))
}

/// A VM that follows a model with one region of private MMIO in it: `size`
/// bytes at `offset` of `file`.
fn shown(vm: &SimVm, file: &Arc<OwnedFd>, offset: u64, size: u64) -> (MemoryModel, RegionId) {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 64)).unwrap();
    let slice = FileSlice::new(file.clone(), offset, size).unwrap();
    let bar = t
        .add(Region::private_mmio("bar", PrivateMmio::new(slice)))
        .unwrap();
    t.commit().unwrap();
    let space = model.add_space("memory", root).unwrap();
    // SAFETY: there is no host address in the model.
    let slots = unsafe { Slots::new(vm.clone(), vm.config().abi) };
    let slots = SlotListener::new(slots, VcpusStopped);
    model.add_listener(space, 0, Arc::new(slots)).unwrap();
    place(&mut model, root, bar).unwrap();
    (model, bar)
}

fn place(model: &mut MemoryModel, root: RegionId, bar: RegionId) -> Result<(), TreeError> {
    let mut t = model.transaction();
    t.place(bar, root, 0x8000, 0)?;
    t.commit().expect("a slot");
    Ok(())
}

#[test]
fn the_guest_reaches_the_devices_file_by_every_profile() {
    for abi in PROFILES {
        let vm = SimVm::new(SimConfig {
            abi,
            ..private_vm(KernelVersion::V7_3)
        });
        let file = Arc::new(vm.create_dma_buf(2 * PAGE).unwrap());
        let (mut model, bar) = shown(&vm, &file, 0, 2 * PAGE);
        let shared = file.try_clone().map(File::from).unwrap();
        shared.write_all_at(&[1, 2, 3, 4], PAGE + 8).unwrap();
        let mut seen = [0; 4];
        let before = vm.guest_load(0x9008, &mut seen, &mut NoExits);
        // There the guest's access is a private one, and the page is not.
        let unaccepted = GuestFault::Memory {
            flags: MEMORY_EXIT_FLAG_PRIVATE,
            gpa: 0x9000,
            size: PAGE,
        };
        match abi {
            AbiProfile::FdOffset { .. } => assert_eq!(before, Err(unaccepted)),
            _ => assert_eq!((before, seen), (Ok(()), [1, 2, 3, 4]), "{abi}"),
        }
        vm.set_memory_attributes(0x8000, 2 * PAGE, MEMORY_ATTRIBUTE_PRIVATE)
            .unwrap();
        vm.guest_load(0x9008, &mut seen, &mut NoExits).unwrap();
        assert_eq!(seen, [1, 2, 3, 4], "{abi}");
        vm.guest_store(0x8010, &[7; 4], &mut NoExits).unwrap();
        shared.read_exact_at(&mut seen, 0x10).unwrap();
        assert_eq!(seen, [7; 4], "{abi}");

        let mut t = model.transaction();
        t.move_to(bar, 0x4000).unwrap();
        t.commit().unwrap();
        vm.set_memory_attributes(0x4000, 2 * PAGE, MEMORY_ATTRIBUTE_PRIVATE)
            .unwrap();
        vm.guest_load(0x4010, &mut seen, &mut NoExits).unwrap();
        assert_eq!(seen, [7; 4], "{abi}");
        assert!(vm.guest_load(0x8010, &mut seen, &mut NoExits).is_err());
        assert_eq!(vm.memslots().len(), 1);
        assert_eq!(vm.memslots()[0].id.is_none(), abi == AbiProfile::Push);
    }
}

#[test]
fn a_slice_works_with_two_profiles_and_fails_the_commit_with_the_rfcs() {
    for abi in [ABI, AbiProfile::Push] {
        for (offset, size) in [(0, PAGE), (PAGE, PAGE), (PAGE, 3 * PAGE)] {
            let slice = of_file(offset, size, 4 * PAGE);
            assert_eq!(refusal(slice, &most_able(), abi), None);
        }
    }
    for (offset, size) in [(0, PAGE), (PAGE, PAGE), (PAGE, 3 * PAGE), (0, 8 * PAGE)] {
        let file_size = 4 * PAGE;
        let why = Unsupported::PartOfFile {
            offset,
            size,
            file_size,
        };
        let slice = of_file(offset, size, file_size);
        assert_eq!(refusal(slice, &most_able(), RFC), Some(why));
    }
    let whole = of_file(0, 4 * PAGE, 4 * PAGE);
    assert_eq!(refusal(whole, &most_able(), RFC), None);
}

#[test]
fn a_commit_that_cuts_a_dma_buf_is_refused_by_the_rfcs_profile() {
    let vm = SimVm::new(SimConfig {
        abi: RFC,
        ..private_vm(KernelVersion::V7_3)
    });
    let file = Arc::new(vm.create_dma_buf(4 * PAGE).unwrap());
    let (mut model, bar) = shown(&vm, &file, 0, 4 * PAGE);
    let before = vm.memslots();
    // The MSI-X table in the middle of it.
    let mut t = model.transaction();
    let table = t.add(Region::mmio("msi-x", PAGE.into())).unwrap();
    t.place(table, bar, PAGE, 1).unwrap();
    let error = t.commit().unwrap_err();
    let CommitError::Refused { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(
        source.to_string(),
        "0x1000 bytes at 0x8000: unsupported by this kernel's ABI: 0x1000 bytes at offset 0x0 of \
         a dma-buf of 0x4000 bytes, which it takes only as a whole; \
         0x2000 bytes at 0xa000: unsupported by this kernel's ABI: 0x2000 bytes at offset 0x2000 \
         of a dma-buf of 0x4000 bytes, which it takes only as a whole"
    );
    assert_eq!(vm.memslots(), before);
}

#[test]
fn a_file_of_unknown_size_is_refused_where_it_matters() {
    for (abi, why) in [
        (ABI, None),
        (AbiProfile::Push, None),
        (RFC, Some(Unsupported::FileSizeUnknown)),
    ] {
        let unknown = device(0, PAGE, 1000, 0);
        assert_eq!(refusal(unknown, &most_able(), abi), why);
    }
}

#[test]
fn each_profile_needs_its_parts() {
    let range = || of_file(0, PAGE, PAGE);
    let no_region2 = {
        let mut able = most_able();
        able.user_memory2 = false;
        able
    };
    let no_private = {
        let mut able = most_able();
        able.memory_attributes = 0;
        able
    };
    let no_push = {
        let mut able = most_able();
        able.push_map = false;
        able
    };
    let no_address = Some(Unsupported::NoHostAddress);
    for (abi, capabilities, why) in [
        (AbiProfile::None, most_able(), no_address),
        (ABI, no_region2, no_address),
        (RFC, no_region2, no_address),
        (AbiProfile::Push, no_region2, None),
        (ABI, no_private, None),
        (RFC, no_private, Some(Unsupported::NoPrivatePages)),
        (AbiProfile::Push, no_private, None),
        (ABI, no_push, None),
        (RFC, no_push, None),
        (AbiProfile::Push, no_push, Some(Unsupported::NoPushMap)),
    ] {
        assert_eq!(refusal(range(), &capabilities, abi), why, "{abi}");
    }
}

#[test]
fn no_profile_has_read_only_or_logged_slots_or_parts_of_pages() {
    for abi in PROFILES {
        let can = most_able();
        let whole = || of_file(0, PAGE, PAGE);
        let why = Some(Unsupported::ReadOnlyFile);
        assert_eq!(refusal(readonly(whole()), &can, abi), why);
        let why = Some(Unsupported::UnloggableFile);
        assert_eq!(refusal(logged(whole()), &can, abi), why);
        let unaligned = of_file(8, PAGE, PAGE + 8);
        assert!(refusal(unaligned, &can, abi).is_some());
    }
}

#[test]
fn a_push_profile_on_a_vm_without_a_push_map_fails_and_changes_nothing() {
    let vm = SimVm::new(SimConfig::released(KernelVersion::V7_3));
    let range = [device(0, PAGE, 1000, 0)];
    // SAFETY: there is no host address in the ranges.
    let slots = unsafe { Slots::new(vm.clone(), AbiProfile::Push) };
    // The capabilities are another VM's.
    let mut slots = slots.with_capabilities(most_able());
    let plan = slots.plan(&range).unwrap();
    let error = slots.apply(&plan).unwrap_err();
    assert_eq!(error.why, StepError::Refused(Errno::EOPNOTSUPP));
    assert!(slots.table().is_empty() && vm.memslots().is_empty());
}

#[test]
fn profiles_have_names() {
    for (text, profile) in [
        ("none", AbiProfile::None),
        ("push", AbiProfile::Push),
        ("fd-offset", AbiProfile::FD_OFFSET_BIT_4),
        ("fd-offset=9", AbiProfile::FdOffset { flag: 1 << 9 }),
        ("rfc-dmabuf", AbiProfile::RFC_DMA_BUF_BIT_3),
        ("rfc-dmabuf=15", AbiProfile::RfcDmaBuf { flag: 1 << 15 }),
    ] {
        assert_eq!(text.parse(), Ok(profile));
    }
    for bad in [
        "",
        "None",
        "none=3",
        "push=3",
        "fd-offset=",
        "fd-offset=2",
        "fd-offset=16",
        "fd-offset=32",
        "fd-offset=-1",
        "fd-offset=0x10",
        "rfc-dmabuf=4294967299",
        "dmabuf",
    ] {
        let error = bad.parse::<AbiProfile>().unwrap_err();
        assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
    }
}
