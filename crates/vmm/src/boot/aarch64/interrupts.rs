// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Routes to the GIC's shared interrupts, and messages to the ITS.

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1,
};

use crate::boot::interrupts::{SentMessage, halves, pin_entry};

/// The shared interrupts (SPIs) of the GIC, whose GSIs are their numbers. KVM takes
/// multiples of 32.
pub const PINS: u32 = 32;
/// The GIC among KVM's interrupt controllers.
const GIC: u32 = 0;

/// KVM's default routes.
pub fn pins() -> impl Iterator<Item = kvm_irq_routing_entry> {
    (0..PINS).map(|gsi| pin_entry(gsi, GIC, gsi))
}

/// The route of a GSI to a message. The ITS finds the interrupt by the sender and the data.
pub fn message_entry(gsi: u32, (requester, message): SentMessage) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = halves(message);
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        flags: KVM_MSI_VALID_DEVID,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo,
                address_hi,
                data: message.data,
                __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 {
                    devid: requester.id().into(),
                },
            },
        },
        ..Default::default()
    }
}
