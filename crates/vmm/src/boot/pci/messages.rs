// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An assigned device's interrupts by messages: MSI-X by an emulated table, or MSI.
//! Each vector is an eventfd that VFIO signals and KVM injects.

use std::sync::Arc;

use vfio_private::device::Device;
use vfio_private::device::interrupts::{
    EventFd, InterruptError as VfioError, MessageKind, Vectors,
};
use vfio_private::emulate::{Message, MsiState, MsixChange};

use crate::boot::interrupts::{InterruptError, Interrupts, MessageLine};

/// Why an interrupt of the device does not reach the guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// VFIO refused.
    #[error(transparent)]
    Vfio(#[from] VfioError),
    /// It has no route to the guest.
    #[error(transparent)]
    Route(#[from] InterruptError),
}

/// The device's vectors and their routes to the guest.
#[derive(Debug)]
pub struct Messages {
    device: Arc<Device>,
    interrupts: Interrupts,
    /// Before `lines`, so that the device stops first.
    vectors: Option<Vectors<Arc<Device>>>,
    lines: Vec<MessageLine>,
    kind: MessageKind,
}

impl Messages {
    /// No message interrupts.
    pub fn new(device: Arc<Device>, interrupts: Interrupts) -> Self {
        Self {
            device,
            interrupts,
            vectors: None,
            lines: Vec::new(),
            kind: MessageKind::Msix,
        }
    }

    /// Carries out one change of the MSI-X table.
    ///
    /// A guest must not have MSI and MSI-X on at once. If it does, the kind that it
    /// switched on last interrupts it.
    ///
    /// # Errors
    /// [`MessageError`]: the vector does not interrupt the guest.
    pub fn change(&mut self, change: MsixChange) -> Result<(), MessageError> {
        match change {
            MsixChange::Enabled { vectors } => {
                self.stop();
                self.kind = MessageKind::Msix;
                self.reach(vectors)
            }
            _ if self.kind == MessageKind::Msi => Ok(()),
            MsixChange::Disabled => {
                self.stop();
                Ok(())
            }
            MsixChange::Routed { vector, message } => self.route(vector, message),
            MsixChange::Unrouted { vector } => {
                if let Some(line) = self.lines.get_mut(usize::from(vector)) {
                    line.unroute();
                }
                Ok(())
            }
            // The signal is still in the eventfd. KVM has delivered it when the
            // vector got its route.
            MsixChange::Deliver { .. } => Ok(()),
        }
    }

    /// The guest has set up MSI, or switched it off.
    ///
    /// # Errors
    /// As for [`change`](Self::change).
    pub fn set_msi(&mut self, state: Option<MsiState>) -> Result<(), MessageError> {
        let Some(state) = state else {
            if self.kind == MessageKind::Msi {
                self.stop();
            }
            return Ok(());
        };
        if self.kind != MessageKind::Msi || self.lines.len() != usize::from(state.vectors) {
            self.stop();
            self.kind = MessageKind::Msi;
            self.reach(state.vectors.into())?;
        }
        for vector in 0..state.vectors {
            let Some(line) = self.lines.get_mut(usize::from(vector)) else {
                continue;
            };
            match state.message(vector).filter(|_| !state.is_masked(vector)) {
                Some(message) => line.route(message)?,
                None => line.unroute(),
            }
        }
        Ok(())
    }

    /// Whether the device has signalled a vector that has no route.
    pub fn is_pending(&self, vector: u16) -> bool {
        let line = self.lines.get(usize::from(vector));
        line.is_some_and(MessageLine::is_pending)
    }

    /// The number of vectors that are enabled.
    pub fn count(&self) -> u16 {
        u16::try_from(self.lines.len()).unwrap_or(u16::MAX)
    }

    fn route(&mut self, vector: u16, message: Message) -> Result<(), MessageError> {
        self.reach(vector.saturating_add(1))?;
        match self.lines.get_mut(usize::from(vector)) {
            Some(line) => Ok(line.route(message)?),
            None => Ok(()),
        }
    }

    /// Has at least `count` vectors enabled.
    fn reach(&mut self, count: u16) -> Result<(), MessageError> {
        let first = self.count();
        if count <= first {
            return Ok(());
        }
        let new = (first..count).map(|_| self.interrupts.line());
        let new = new.collect::<Result<Vec<_>, _>>()?;
        self.lines.extend(new);
        let enabled = self.enable(first);
        // Each line has a vector, or a later change could not enable it.
        let kept = self.vectors.as_ref().map_or(0, Vectors::allocated);
        self.lines.truncate(kept.into());
        enabled
    }

    /// Gives VFIO the eventfds from `first` on.
    fn enable(&mut self, first: u16) -> Result<(), MessageError> {
        let events: Vec<Option<&EventFd>> =
            self.lines.iter().map(|line| Some(line.event())).collect();
        let (old, new) = events.split_at(first.into());
        let device = Arc::clone(&self.device);
        let Some(mut vectors) = self.vectors.take() else {
            self.vectors = Some(Vectors::enable(device, self.kind, &events)?);
            return Ok(());
        };
        let enabled = match vectors.set(first, new) {
            // The kernel cannot add vectors: all are switched off for a moment.
            Err(VfioError::NotAllocated { .. }) => vectors.replace(&events),
            set => {
                self.vectors = Some(vectors);
                return Ok(set?);
            }
        };
        let (vectors, result) = match enabled {
            Ok(vectors) => (Some(vectors), Ok(())),
            Err(error) => {
                let restored = Vectors::enable(device, self.kind, old).ok();
                (restored, Err(error.into()))
            }
        };
        self.vectors = vectors;
        // A message of that moment is lost. Drivers tolerate one too many.
        for event in old.iter().flatten() {
            let _ = event.write(1);
        }
        result
    }

    fn stop(&mut self) {
        self.vectors = None;
        self.lines.clear();
    }
}
