// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Interrupts by messages.

use core::ops::Deref;

use super::ioctl::{Action, set_irqs};
use super::{EventFd, InterruptError, InterruptInfo, InterruptKind};
use crate::device::Device;

/// The kinds of interrupts that are messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageKind {
    /// Messages whose numbers follow each other.
    Msi,
    /// Messages of a table.
    Msix,
}

impl From<MessageKind> for InterruptKind {
    fn from(kind: MessageKind) -> Self {
        match kind {
            MessageKind::Msi => Self::Msi,
            MessageKind::Msix => Self::Msix,
        }
    }
}

/// A device's message interrupts, enabled until this is dropped.
///
/// The first of the device's vectors are allocated on the host. An allocated vector with an eventfd
/// signals it. VFIO cannot mask a vector: remove its eventfd, or stop listening to it.
#[derive(Debug)]
pub struct Vectors<D: Deref<Target = Device>> {
    device: D,
    kind: InterruptKind,
    info: InterruptInfo,
    /// Whether each allocated vector has an eventfd.
    heard: Vec<bool>,
}

impl<D: Deref<Target = Device>> Vectors<D> {
    /// Allocates as many vectors as `triggers` has entries, and gives them these eventfds.
    ///
    /// # Errors
    ///
    /// [`InterruptError::None`], [`InterruptError::Empty`], [`InterruptError::NoSuchVector`],
    /// [`InterruptError::Enabled`], [`InterruptError::Fewer`], [`InterruptError::Kernel`].
    pub fn enable(
        device: D,
        kind: MessageKind,
        triggers: &[Option<&EventFd>],
    ) -> Result<Self, InterruptError> {
        let kind = InterruptKind::from(kind);
        let info = device.claim(kind)?;
        // From here on it is disabled however this ends.
        let mut vectors = Self {
            device,
            kind,
            info,
            heard: Vec::new(),
        };
        vectors.give(0, triggers)?;
        Ok(vectors)
    }

    /// How many vectors are allocated.
    pub fn allocated(&self) -> u16 {
        u16::try_from(self.heard.len()).unwrap_or(u16::MAX)
    }

    /// Sets or removes the eventfds of vectors from `first` on. Vectors that are not allocated yet are
    /// allocated, if the kernel can.
    ///
    /// # Errors
    ///
    /// [`InterruptError::Empty`], [`InterruptError::NoSuchVector`]. [`InterruptError::NotAllocated`]
    /// where the kernel cannot allocate more: then [`replace`](Self::replace) can.
    /// [`InterruptError::Kernel`], and **then none of these vectors has an eventfd**.
    pub fn set(&mut self, first: u16, triggers: &[Option<&EventFd>]) -> Result<(), InterruptError> {
        let allocated = self.allocated();
        let end = usize::from(first) + triggers.len();
        if end > usize::from(allocated) && end <= self.info.vectors.into() && !self.info.resizable {
            return Err(InterruptError::NotAllocated {
                address: self.device.address(),
                kind: self.kind,
                vector: allocated.max(first).into(),
                allocated,
            });
        }
        self.give(first, triggers)
    }

    /// Switches all vectors off and enables these instead, as many as there are entries. A message
    /// that the device sends meanwhile is lost.
    ///
    /// # Errors
    ///
    /// As for [`enable`](Self::enable), and **then no interrupt is enabled**.
    pub fn replace(mut self, triggers: &[Option<&EventFd>]) -> Result<Self, InterruptError> {
        self.check(0, triggers)?;
        self.call(0, Action::Disable)?;
        self.heard.clear();
        self.give(0, triggers)?;
        Ok(self)
    }

    /// Signals the eventfd of a vector as if the device had sent its message.
    ///
    /// # Errors
    ///
    /// [`InterruptError::NoSuchVector`], [`InterruptError::Silent`], [`InterruptError::Kernel`].
    pub fn fire(&self, vector: u16) -> Result<(), InterruptError> {
        let (address, kind) = (self.device.address(), self.kind);
        let vectors = self.info.vectors;
        match self.heard.get(usize::from(vector)) {
            Some(true) => self.call(vector, Action::Fire).map(drop),
            _ if vector >= vectors => Err(InterruptError::NoSuchVector {
                address,
                kind,
                vector: vector.into(),
                vectors,
            }),
            _ => Err(InterruptError::Silent {
                address,
                kind,
                vector: vector.into(),
            }),
        }
    }

    /// Sets eventfds of vectors that exist, allocated or not.
    fn give(&mut self, first: u16, triggers: &[Option<&EventFd>]) -> Result<(), InterruptError> {
        self.check(first, triggers)?;
        let (start, end) = (usize::from(first), usize::from(first) + triggers.len());
        let is_first = self.heard.is_empty();
        let given = self.call(first, Action::Trigger(triggers));
        let given = given.and_then(|available| match available {
            0 => Ok(()),
            available => Err(InterruptError::Fewer {
                address: self.device.address(),
                kind: self.kind,
                wanted: triggers.len(),
                available,
            }),
        });
        if given.is_err() && !is_first {
            // Some may have kept theirs, and it is not known which.
            let none: Vec<Option<&EventFd>> = vec![None; triggers.len()];
            let _ = self.call(first, Action::Trigger(&none));
        }
        if given.is_ok() && end > self.heard.len() {
            self.heard.resize(end, false);
        }
        let heard = self.heard.iter_mut().take(end).skip(start);
        for (heard, trigger) in heard.zip(triggers) {
            *heard = given.is_ok() && trigger.is_some();
        }
        given
    }

    fn check(&self, first: u16, triggers: &[Option<&EventFd>]) -> Result<(), InterruptError> {
        let (address, kind) = (self.device.address(), self.kind);
        if triggers.is_empty() {
            return Err(InterruptError::Empty { address, kind });
        }
        let vectors = self.info.vectors;
        if usize::from(first) + triggers.len() > usize::from(vectors) {
            return Err(InterruptError::NoSuchVector {
                address,
                kind,
                vector: first.max(vectors).into(),
                vectors,
            });
        }
        Ok(())
    }

    fn call(&self, first: u16, action: Action<'_>) -> Result<u32, InterruptError> {
        let result = set_irqs(&self.device, self.kind, first, action);
        result.map_err(|errno| InterruptError::Kernel {
            address: self.device.address(),
            kind: self.kind,
            call: action.name(),
            vector: first.into(),
            count: action.count(),
            errno,
        })
    }
}

impl<D: Deref<Target = Device>> Drop for Vectors<D> {
    fn drop(&mut self) {
        // What was never enabled cannot be disabled; nothing is lost by that.
        let _ = set_irqs(&self.device, self.kind, 0, Action::Disable);
        self.device.interrupts.release(self.kind);
    }
}
