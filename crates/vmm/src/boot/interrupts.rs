// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Routes interrupts to the guest: each is an eventfd that KVM injects (irqfd). The
//! VMM injects none itself.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
};
use kvm_slots::{Errno, KvmVm};
use vfio_private::emulate::Message;
use vm_allocator::IdAllocator;
use vmm_sys_util::eventfd::EventFd;

use super::native::interrupts::{PINS, message_entry, pins};

/// KVM's limit of routes, and the end of GSIs (`KVM_MAX_IRQ_ROUTES`,
/// include/linux/kvm_host.h).
const MOST_ROUTES: u32 = 4096;

/// Why an interrupt cannot be routed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterruptError {
    /// KVM has no room for another route.
    #[error("KVM has no more than {MOST_ROUTES} interrupt routes")]
    NoGsi,
    /// The eventfd cannot be made.
    #[error("an interrupt's eventfd cannot be made: {0}")]
    EventFd(std::io::Error),
    /// KVM refused.
    #[error("KVM refused to {call} for GSI {gsi}: {errno}")]
    Kvm {
        /// The ioctl.
        call: &'static str,
        /// The GSI.
        gsi: u32,
        /// The error.
        errno: Errno,
    },
}

/// The number by which a PCI function identifies itself on the bus: bus, device and
/// function. An interrupt controller may tell messages apart by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requester(u16);

impl Requester {
    /// The first function of a device of bus 0, whose number is below 32.
    pub fn device(number: u8) -> Self {
        Self(u16::from(number) << 3)
    }

    /// The number.
    pub fn id(self) -> u16 {
        self.0
    }
}

/// A message with its sender.
pub type SentMessage = (Requester, Message);

/// The interrupts of one VM. Clones share its routes.
#[derive(Clone, Debug)]
pub struct Interrupts {
    vm: KvmVm,
    requester: Requester,
    routes: Arc<Mutex<Routes>>,
    assigned: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Routes {
    gsis: IdAllocator,
    messages: BTreeMap<u32, SentMessage>,
}

impl Interrupts {
    /// The interrupts of `vm`, which has KVM's interrupt controllers.
    pub fn new(vm: KvmVm) -> Self {
        let gsis = message_gsis();
        let gsis = IdAllocator::new(*gsis.start(), *gsis.end());
        Self {
            vm,
            requester: Requester::default(),
            routes: Arc::new(Mutex::new(Routes {
                // The range is not empty.
                gsis: gsis.expect("GSIs"),
                messages: BTreeMap::new(),
            })),
            assigned: Arc::default(),
        }
    }

    /// The same routes, for messages of this function.
    #[must_use]
    pub fn of_function(&self, requester: Requester) -> Self {
        Self {
            requester,
            ..self.clone()
        }
    }

    /// An eventfd whose signals raise a pin of the interrupt controller for a moment.
    ///
    /// # Errors
    /// [`InterruptError::EventFd`], [`InterruptError::Kvm`].
    pub fn pin(&self, gsi: u32) -> Result<EventFd, InterruptError> {
        let event = event()?;
        self.assign(&event, gsi)?;
        Ok(event)
    }

    /// An eventfd that has no route to the guest yet.
    ///
    /// # Errors
    /// [`InterruptError::EventFd`], [`InterruptError::NoGsi`].
    pub fn line(&self) -> Result<MessageLine, InterruptError> {
        let event = event()?;
        let gsi = self.routes().gsis.allocate_id();
        Ok(MessageLine {
            interrupts: self.clone(),
            gsi: gsi.map_err(|_| InterruptError::NoGsi)?,
            event,
            is_assigned: false,
        })
    }

    fn assign(&self, event: &EventFd, gsi: u32) -> Result<(), InterruptError> {
        let assigned = self.vm.fd().register_irqfd(event, gsi);
        assigned.map_err(|error| InterruptError::Kvm {
            call: "KVM_IRQFD",
            gsi,
            errno: error.into(),
        })?;
        self.assigned.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// How often an eventfd was assigned so far. One that is assigned again counts again.
    pub fn assigned(&self) -> u64 {
        self.assigned.load(Ordering::Relaxed)
    }

    /// Sets a GSI's message, and hands all routes to KVM.
    fn set(&self, gsi: u32, message: Message) -> Result<(), InterruptError> {
        let message = (self.requester, message);
        let mut routes = self.routes();
        let old = routes.messages.insert(gsi, message);
        if old == Some(message) {
            return Ok(());
        }
        let set = self.hand_over(gsi, &routes.entries());
        if set.is_err() {
            match old {
                Some(old) => routes.messages.insert(gsi, old),
                None => routes.messages.remove(&gsi),
            };
        }
        set
    }

    /// Replaces KVM's routes, of which that of `gsi` has changed.
    fn hand_over(&self, gsi: u32, routes: &[kvm_irq_routing_entry]) -> Result<(), InterruptError> {
        let routes = KvmIrqRouting::from_entries(routes).map_err(|_| InterruptError::NoGsi)?;
        let set = self.vm.fd().set_gsi_routing(&routes);
        set.map_err(|error| InterruptError::Kvm {
            call: "KVM_SET_GSI_ROUTING",
            gsi,
            errno: error.into(),
        })
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    /// Every route: KVM replaces its own default ones too.
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let messages = self.messages.iter();
        let messages = messages.map(|(gsi, message)| message_entry(*gsi, *message));
        pins().chain(messages).collect()
    }
}

/// The GSIs of messages: as many as there are routes besides those of the pins. A GSI of an
/// x86 pin may have two.
fn message_gsis() -> RangeInclusive<u32> {
    let messages = MOST_ROUTES.saturating_sub(pins().map(|_| 1).sum());
    PINS..=(PINS + messages).min(MOST_ROUTES) - 1
}

/// The route of a GSI to a pin of one of KVM's interrupt controllers.
pub(super) fn pin_entry(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    }
}

/// The lower and the upper half of a message's address.
pub(super) fn halves(message: Message) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = message.address.to_le_bytes();
    let half = u32::from_le_bytes;
    (half([a, b, c, d]), half([e, f, g, h]))
}

/// An eventfd whose signals reach the guest as a message while it has a route. A
/// signal without a route stays pending in the eventfd, and KVM delivers it when the
/// eventfd gets a route.
#[derive(Debug)]
pub struct MessageLine {
    interrupts: Interrupts,
    gsi: u32,
    event: EventFd,
    is_assigned: bool,
}

impl MessageLine {
    /// The eventfd, for the device.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Routes the eventfd to the guest as `message`.
    ///
    /// # Errors
    /// [`InterruptError::Kvm`]; the eventfd has its old route.
    pub fn route(&mut self, message: Message) -> Result<(), InterruptError> {
        self.interrupts.set(self.gsi, message)?;
        if !self.is_assigned {
            self.interrupts.assign(&self.event, self.gsi)?;
            self.is_assigned = true;
        }
        Ok(())
    }

    /// Removes the route: signals are pending from now on.
    pub fn unroute(&mut self) {
        if std::mem::take(&mut self.is_assigned) {
            // It is assigned, and KVM has no other reason to refuse.
            let _ = self
                .interrupts
                .vm
                .fd()
                .unregister_irqfd(&self.event, self.gsi);
        }
    }

    /// Whether a signal is pending.
    pub fn is_pending(&self) -> bool {
        if self.is_assigned {
            return false;
        }
        // The eventfd counts signals, and a read takes them all.
        match self.event.read() {
            Ok(signals) => self.event.write(signals).is_ok(),
            Err(_) => false,
        }
    }
}

impl Drop for MessageLine {
    fn drop(&mut self) {
        self.unroute();
        let mut routes = self.interrupts.routes();
        // KVM has the route until the next one is set. It has no eventfd any more.
        routes.messages.remove(&self.gsi);
        let _ = routes.gsis.free_id(self.gsi);
    }
}

fn event() -> Result<EventFd, InterruptError> {
    let flags = libc::EFD_NONBLOCK | libc::EFD_CLOEXEC;
    EventFd::new(flags).map_err(InterruptError::EventFd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_has_a_route_for_every_message_and_every_pin() {
        let gsis = message_gsis();
        assert_eq!(*gsis.start(), PINS);
        let messages = gsis.count();
        assert_eq!(messages + pins().count(), 4096);
    }
}
