// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that KVM writes without a vCPU: an interrupt controller saves its tables to guest
//! memory. Dirty rings do not report them, logs do. No guest code runs.

use std::sync::Arc;

use kvm_bindings::{
    KVM_DEV_ARM_ITS_SAVE_TABLES, KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR,
    KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, KVM_VGIC_ITS_ADDR_TYPE,
    KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_attr,
    kvm_device_type, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_vcpu_init,
};
use kvm_ioctls::{DeviceFd, Kvm, VcpuFd};
use kvm_slots::dirty::{DirtyClient, DirtyCollector, DirtyMode, LoggingVm};
use kvm_slots::{
    AbiProfile, Capabilities, Errno, KvmVm, SlotAccess, SlotBacking, SlotRange, Slots, Vm,
};
use vmm::HostMapping;

use crate::needs::Need;

/// The tests, with what each needs.
pub const TESTS: [(&str, &[Need], fn() -> Result<(), String>); 4] = [
    (
        "dirty_log_has_the_tables_that_an_its_saves",
        &[Need::Kvm],
        a_log_has_the_tables,
    ),
    (
        "dirty_ring_leaves_the_tables_that_an_its_saves_to_the_log_beside_it",
        &[Need::Kvm, Need::DirtyRing],
        the_log_beside_a_ring_has_the_tables,
    ),
    (
        "dirty_ring_without_a_log_loses_the_tables_that_an_its_saves",
        &[Need::Kvm, Need::DirtyRing],
        a_ring_alone_has_no_tables,
    ),
    (
        "dirty_ring_takes_a_log_beside_it_only_before_the_first_slot",
        &[Need::Kvm, Need::DirtyRing],
        a_log_comes_after_the_ring_and_before_slots,
    ),
];

const RING: DirtyMode = DirtyMode::Ring { bytes: 0x1_0000 };

/// The guest's memory: 1 MiB.
const RAM: u64 = 0x4000_0000;
const RAM_SIZE: u64 = 0x10_0000;
/// The table of an ITS with 64 KiB of entries.
const TABLE: u64 = RAM + 0x3_0000;

const DISTRIBUTOR: u64 = 0x0800_0000;
const ITS: u64 = 0x0808_0000;
const REDISTRIBUTORS: u64 = 0x080a_0000;

/// The offset of `GITS_BASER1`, the register of the table of collections.
const GITS_BASER1: u64 = 0x108;
const GITS_BASER_VALID: u64 = 1 << 63;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn new_vm() -> Result<KvmVm, String> {
    let kvm = Kvm::new().map_err(text)?;
    KvmVm::create(&kvm, 0).map_err(text)
}

/// A VM with logged memory and an interrupt controller whose table of collections is in
/// it. Fields are dropped in this order.
struct Machine {
    slots: Slots<KvmVm>,
    its: DeviceFd,
    _gic: DeviceFd,
    _vcpu: VcpuFd,
    memory: Arc<HostMapping>,
}

impl Machine {
    /// The dirty mode of `vm` is enabled.
    fn new(vm: &KvmVm) -> Result<Self, String> {
        let vcpu = vm.fd().create_vcpu(0).map_err(text)?;
        let mut target = kvm_vcpu_init::default();
        vm.fd().get_preferred_target(&mut target).map_err(text)?;
        vcpu.vcpu_init(&target).map_err(text)?;
        let gic = device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)?;
        let addr = KVM_DEV_ARM_VGIC_GRP_ADDR;
        let init = KVM_DEV_ARM_VGIC_CTRL_INIT;
        set(
            &gic,
            addr,
            KVM_VGIC_V3_ADDR_TYPE_DIST.into(),
            Some(DISTRIBUTOR),
        )?;
        let redistributors = KVM_VGIC_V3_ADDR_TYPE_REDIST.into();
        set(&gic, addr, redistributors, Some(REDISTRIBUTORS))?;
        set(&gic, KVM_DEV_ARM_VGIC_GRP_CTRL, init.into(), None)?;
        let its = device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS)?;
        set(&its, addr, KVM_VGIC_ITS_ADDR_TYPE.into(), Some(ITS))?;
        set(&its, KVM_DEV_ARM_VGIC_GRP_CTRL, init.into(), None)?;
        let memory = HostMapping::anonymous(RAM_SIZE).map_err(text)?;
        // So that the end of the table, an entry of zeros, is seen.
        memory.write(TABLE - RAM, &[0xff; 16]).map_err(text)?;
        // SAFETY: the VM is new, and all of its slots are made through `slots`.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
        Ok(Self {
            slots,
            its,
            _gic: gic,
            _vcpu: vcpu,
            memory: Arc::new(memory),
        })
    }

    /// Creates the slot of the memory.
    fn add_memory(&mut self) -> Result<(), String> {
        let memory = SlotBacking::Host(self.memory.host_memory());
        let memory = SlotRange::new(RAM, SlotAccess::ReadWrite, memory).map_err(text)?;
        let plan = self.slots.plan(&[memory.with_log_dirty(true)]);
        self.slots.apply(&plan.map_err(text)?).map_err(text)?;
        Ok(())
    }

    /// Has KVM write the table, and requires that it did.
    fn save_tables(&self) -> Result<(), String> {
        let baser = Some(GITS_BASER_VALID | TABLE);
        let registers = KVM_DEV_ARM_VGIC_GRP_ITS_REGS;
        set(&self.its, registers, GITS_BASER1, baser)?;
        let save = KVM_DEV_ARM_ITS_SAVE_TABLES.into();
        set(&self.its, KVM_DEV_ARM_VGIC_GRP_CTRL, save, None)?;
        let mut start = [0; 16];
        self.memory.read(TABLE - RAM, &mut start).map_err(text)?;
        match start == [[0; 8], [0xff; 8]].concat()[..] {
            true => Ok(()),
            false => Err(format!("KVM has not written the table: {start:x?}")),
        }
    }
}

fn device(vm: &KvmVm, kind: kvm_device_type) -> Result<DeviceFd, String> {
    let mut device = kvm_create_device {
        type_: kind,
        ..Default::default()
    };
    let created = vm.fd().create_device(&mut device);
    created.map_err(|error| format!("device {kind}: {error}"))
}

fn set(device: &DeviceFd, group: u32, attr: u64, value: Option<u64>) -> Result<(), String> {
    let attribute = kvm_device_attr {
        group,
        attr,
        addr: value
            .as_ref()
            .map_or(0, |value| std::ptr::from_ref(value) as u64),
        flags: 0,
    };
    let done = device.set_device_attr(&attribute);
    done.map_err(|error| format!("attribute {attr:#x} of group {group}: {error}"))
}

/// The guest-physical addresses of the pages that a client takes.
fn taken(client: &DirtyClient, machine: &Machine) -> Vec<u64> {
    let page = client.take_all();
    let slots = machine.slots.table().slots();
    let runs = slots.flat_map(|slot| page.in_slot(slot).collect::<Vec<_>>());
    let size = machine.slots.vm().page_size().bytes();
    runs.flat_map(|(gpa, bytes)| (gpa..gpa + bytes).step_by(usize::try_from(size).unwrap_or(1)))
        .collect()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: T, expected: T) -> Result<(), String> {
    match seen == expected {
        true => Ok(()),
        false => Err(format!("{what}: {seen:x?}, and not {expected:x?}")),
    }
}

fn a_log_has_the_tables() -> Result<(), String> {
    let vm = new_vm()?;
    let capabilities = Capabilities::probe(&vm);
    let collector = DirtyCollector::new(vm.clone(), &capabilities, DirtyMode::Log);
    let collector = collector.map_err(text)?;
    let client = collector.tracker().client();
    let mut machine = Machine::new(&vm)?;
    machine.add_memory()?;
    let table = machine.slots.table();
    collector.collect(table).map_err(text)?;
    same("before", taken(&client, &machine), vec![])?;
    machine.save_tables()?;
    collector.collect(table).map_err(text)?;
    same("the table", taken(&client, &machine), vec![TABLE])
}

fn the_log_beside_a_ring_has_the_tables() -> Result<(), String> {
    let vm = new_vm()?;
    let collector = DirtyCollector::new(vm.clone(), &Capabilities::probe(&vm), RING);
    let collector = collector.map_err(text)?;
    let client = collector.tracker().client();
    let mut machine = Machine::new(&vm)?;
    let ring = vm.map_dirty_ring(&machine._vcpu).map_err(text)?;
    collector.add_ring(Box::new(ring));
    machine.add_memory()?;
    let table = machine.slots.table();
    machine.save_tables()?;
    collector.collect(table).map_err(text)?;
    same("by the rings", taken(&client, &machine), vec![])?;
    collector.collect_final(table).map_err(text)?;
    same("at the end", taken(&client, &machine), vec![TABLE])?;
    collector.collect_final(table).map_err(text)?;
    same("once more", taken(&client, &machine), vec![])?;
    machine.save_tables()?;
    collector.collect_final(table).map_err(text)?;
    same("saved again", taken(&client, &machine), vec![TABLE])
}

/// Why the collector enables the log.
fn a_ring_alone_has_no_tables() -> Result<(), String> {
    let vm = new_vm()?;
    vm.enable_dirty_ring(0x1_0000).map_err(text)?;
    let mut machine = Machine::new(&vm)?;
    machine.add_memory()?;
    machine.save_tables()?;
    same("the log", vm.get_dirty_log(0), Err(Errno::ENXIO))?;
    same("entries", vm.reset_dirty_rings(), Ok(0))
}

fn a_log_comes_after_the_ring_and_before_slots() -> Result<(), String> {
    let vm = new_vm()?;
    let invalid = Err(Errno::EINVAL);
    same("without a ring", vm.enable_log_beside_ring(), invalid)?;
    vm.enable_dirty_ring(0x1_0000).map_err(text)?;
    same("after the ring", vm.enable_log_beside_ring(), Ok(()))?;
    same("again", vm.enable_log_beside_ring(), Ok(()))?;
    same("a log", vm.get_dirty_log(0), Err(Errno::ENOENT))?;
    let late = new_vm()?;
    late.enable_dirty_ring(0x1_0000).map_err(text)?;
    let mut machine = Machine::new(&late)?;
    machine.add_memory()?;
    same("after a slot", late.enable_log_beside_ring(), invalid)
}
