// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Routes to the I/O APIC and the two PICs, and messages to local APICs.

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi,
};

use crate::boot::interrupts::{SentMessage, halves, pin_entry};

/// The pins of KVM's I/O APIC, whose GSIs are their numbers.
pub const PINS: u32 = 24;
/// The pins of one of the two PICs.
const PIC_PINS: u32 = 8;

/// KVM's default routes.
pub fn pins() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let pic = |gsi| match gsi / PIC_PINS {
        0 => Some((KVM_IRQCHIP_PIC_MASTER, gsi)),
        1 => Some((KVM_IRQCHIP_PIC_SLAVE, gsi - PIC_PINS)),
        _ => None,
    };
    // The timer's pin: ISA interrupt 0 is pin 2 of an I/O APIC.
    let io_apic = |gsi| (KVM_IRQCHIP_IOAPIC, if gsi == 0 { 2 } else { gsi });
    (0..PINS).flat_map(move |gsi| {
        [pic(gsi), Some(io_apic(gsi))]
            .into_iter()
            .flatten()
            .map(move |(irqchip, pin)| pin_entry(gsi, irqchip, pin))
    })
}

/// The route of a GSI to a message. Local APICs do not care who has sent it.
pub fn message_entry(gsi: u32, (_, message): SentMessage) -> kvm_irq_routing_entry {
    let (address_lo, address_hi) = halves(message);
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo,
                address_hi,
                data: message.data,
                ..Default::default()
            },
        },
        ..Default::default()
    }
}
