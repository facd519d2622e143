// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM's interrupt controllers: a GICv3, and an ITS for messages.
//!
//! Documentation/virt/kvm/devices/arm-vgic-v3.rst, arm-vgic-its.rst.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V3_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::interrupts::PINS;
use super::layout::{DISTRIBUTOR, ITS, REDISTRIBUTORS};
use crate::backend::kvm::KvmError;

/// The interrupts of each processor, before those that they share (SPIs).
const PRIVATE: u32 = 32;

/// Creates both controllers for a VM that has all its vCPUs. None of them has run.
///
/// # Errors
/// [`KvmError::Vm`].
pub fn create(vm: &VmFd) -> Result<(), KvmError> {
    let gic = device(
        vm,
        kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        "create a GICv3",
    )?;
    let failed = |error: kvm_ioctls::Error| KvmError::Vm("set up a GICv3", error.into());
    let number = (PRIVATE + PINS).to_ne_bytes();
    set(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &number).map_err(failed)?;
    place(&gic, KVM_VGIC_V3_ADDR_TYPE_DIST, DISTRIBUTOR.0).map_err(failed)?;
    place(&gic, KVM_VGIC_V3_ADDR_TYPE_REDIST, REDISTRIBUTORS).map_err(failed)?;
    init(&gic).map_err(failed)?;

    let its = device(
        vm,
        kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS,
        "create an ITS",
    )?;
    let failed = |error: kvm_ioctls::Error| KvmError::Vm("set up an ITS", error.into());
    place(&its, KVM_VGIC_ITS_ADDR_TYPE, ITS.0).map_err(failed)?;
    init(&its).map_err(failed)
}

/// Creates a device. It lives as long as its VM.
fn device(vm: &VmFd, kind: u32, what: &'static str) -> Result<DeviceFd, KvmError> {
    let mut device = kvm_create_device {
        type_: kind,
        ..Default::default()
    };
    let refused = |error: kvm_ioctls::Error| KvmError::Vm(what, error.into());
    vm.create_device(&mut device).map_err(refused)
}

fn place(device: &DeviceFd, kind: u32, address: u64) -> Result<(), kvm_ioctls::Error> {
    let address = address.to_ne_bytes();
    set(device, KVM_DEV_ARM_VGIC_GRP_ADDR, kind, &address)
}

fn init(device: &DeviceFd) -> Result<(), kvm_ioctls::Error> {
    let (group, attribute) = (KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT);
    set(device, group, attribute, &[])
}

/// Sets an attribute to a value, whose bytes KVM reads during the call.
fn set(
    device: &DeviceFd,
    group: u32,
    attribute: u32,
    value: &[u8],
) -> Result<(), kvm_ioctls::Error> {
    device.set_device_attr(&kvm_device_attr {
        group,
        attr: attribute.into(),
        addr: value.as_ptr().expose_provenance() as u64,
        flags: 0,
    })
}
